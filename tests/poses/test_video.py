"""Frames of a video: spread evenly, the sharp ones, upright."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from splatkit_ns.errors import SplatkitError
from splatkit_ns.poses.video import blurred, open_video, save_frames, sharpest, sharpness_of, span_of
from tests.poses.helpers import texture, write_video


def test_blur_lowers_sharpness() -> None:
    values = [sharpness_of(texture(blur=blur)[..., 0]) for blur in (0.0, 0.5, 1.0, 2.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 10 * values[3]


def test_the_sharpest_frame_of_each_span_is_taken() -> None:
    times = [0.1 * number for number in range(30)]
    sharpness = [float(number * 7 % 10) for number in range(30)]
    chosen = list(sharpest(zip(range(30), times, sharpness, strict=True), span_of(times, 3)))
    assert [entry.frame for entry in chosen] == [7, 17, 27]
    assert [entry.sharpness for entry in chosen] == [9.0, 9.0, 9.0]


def test_spans_have_the_same_length_in_time_whatever_the_rate() -> None:
    """A phone that films with a varying rate."""
    times = [*np.linspace(0, 1, 50, endpoint=False), *np.linspace(1, 3, 11)]
    span = span_of(times, 6)
    counts = np.bincount([span(time) for time in times])
    assert counts.tolist() == [25, 25, 3, 2, 3, 3]


def test_a_video_with_few_frames_gives_all() -> None:
    times = [0.0, 0.5, 0.6]
    assert len(list(sharpest([(0, 0.0, 1.0), (1, 0.5, 1.0), (2, 0.6, 1.0)], span_of(times, 10)))) == 3


def test_frames_much_less_sharp_than_their_neighbours_are_left_out() -> None:
    assert blurred([10, 11, 2, 12, 10]) == [False, False, True, False, False]
    slowly = [100 * 0.8**number for number in range(20)]  # a plain wall comes into view
    assert not any(blurred(slowly))
    assert blurred([5.0]) == [False]


def test_frames_of_a_video(tmp_path: Path) -> None:
    """Every fourth frame is sharp, and the third span has none that is."""
    frames = [texture(seed=number, blur=0.0 if number % 4 == 2 and number != 10 else 3.0) for number in range(24)]
    video = open_video(write_video(tmp_path / "a b.mp4", frames))
    assert len(video.times) == 24
    told: list[float] = []
    (tmp_path / "out").mkdir()
    pictures, left_out = save_frames(video, tmp_path / "out", 6, told.append)
    assert left_out == 1
    assert [picture.name for picture in pictures] == [f"frame_0000{number}.jpg" for number in range(1, 6)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [picture.name for picture in pictures]
    assert [picture.source.partition(" ")[2] for picture in pictures] == [
        f"(at {number / 30:.2f} s)" for number in (2, 6, 14, 18, 22)
    ]
    saved = np.array(Image.open(tmp_path / "out/frame_00002.jpg"), float)
    assert np.abs(saved - texture(seed=6)).mean() < 12
    assert np.abs(saved - texture(seed=2)).mean() > 25
    assert told[-1] == 1.0


def test_frames_of_a_turned_phone_are_upright(tmp_path: Path) -> None:
    upright = texture(48, 64)
    upright[:16] = 0  # a dark top
    video = open_video(write_video(tmp_path / "a.mp4", [np.ascontiguousarray(np.rot90(upright))] * 3, rotation=-90))
    (tmp_path / "out").mkdir()
    pictures, _ = save_frames(video, tmp_path / "out", 3, lambda _: None)
    assert (pictures[0].width, pictures[0].height) == (48, 64)
    saved = np.array(Image.open(tmp_path / "out/frame_00001.jpg"), float)
    assert saved[:12].mean() < 10 < saved[-12:].mean()


def test_files_that_are_no_video_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(SplatkitError, match="is no video that FFmpeg can read"):
        open_video(tmp_path / "a.mp4")
    write_video(tmp_path / "b.mp4", [texture()] * 5)
    (tmp_path / "c.mp4").write_bytes((tmp_path / "b.mp4").read_bytes()[:200])
    with pytest.raises(SplatkitError, match="is no video that FFmpeg can read"):
        open_video(tmp_path / "c.mp4")
