"""Pictures, animations and videos: what is read back is what was rendered."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from splatkit_ns.errors import SplatkitError
from splatkit_ns.image_files import save_image, save_images, save_video


def gradient(height: int, width: int, blue: float = 0.0) -> Tensor:
    """Red grows to the right, green downwards."""
    rows, columns = torch.linspace(0, 1, height), torch.linspace(0, 1, width)
    return torch.stack(
        [columns.expand(height, width), rows[:, None].expand(height, width), torch.full((height, width), blue)], 2
    )


def test_a_png_holds_rounded_colours(tmp_path: Path) -> None:
    image = torch.tensor([[[0.0, 0.5, 1.0], [-1.0, 2.0, 0.001]]])
    save_image(image, tmp_path / "new" / "image.png")
    assert np.asarray(Image.open(tmp_path / "new" / "image.png")).tolist() == [[[0, 128, 255], [0, 255, 0]]]
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    save_image(pixels, tmp_path / "image.PNG")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "image.PNG")), pixels)


def test_images_are_numbered(tmp_path: Path) -> None:
    paths = save_images((gradient(4, 6, blue) for blue in (0.0, 1.0)), tmp_path, ".jpg")
    assert [path.name for path in paths] == ["frame_00000.jpg", "frame_00001.jpg"]
    assert np.asarray(Image.open(paths[1])).mean((0, 1))[2] > 230


def frames(count: int = 5, height: int = 32, width: int = 48) -> Iterator[Tensor]:
    """Frames that can be told apart, made one by one."""
    return (gradient(height, width, index / count) for index in range(count))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_videos(tmp_path: Path, suffix: str) -> None:
    save_video(frames(), tmp_path / f"video{suffix}", fps=24)
    with av.open(str(tmp_path / f"video{suffix}")) as video:
        assert video.streams.video[0].average_rate == 24
        found = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(found) == 5
    for expected, frame in zip(frames(), found, strict=True):
        assert np.abs(frame / 255 - expected.numpy()).mean() < 0.03
    assert list(tmp_path.iterdir()) == [tmp_path / f"video{suffix}"]


def test_a_video_of_odd_sides_is_padded(tmp_path: Path) -> None:
    save_video(frames(height=33, width=47), tmp_path / "video.mp4", fps=29.97)
    with av.open(str(tmp_path / "video.mp4")) as video:
        assert float(video.streams.video[0].average_rate or 0) == pytest.approx(29.97, rel=1e-3)
        frame = next(video.decode(video=0)).to_ndarray(format="rgb24")
    assert frame.shape == (34, 48, 3)
    assert np.abs(frame[33].astype(int) - frame[32]).mean() < 6


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animations(tmp_path: Path, suffix: str) -> None:
    save_video(frames(), tmp_path / f"loop{suffix}", fps=20)
    with Image.open(tmp_path / f"loop{suffix}") as loop:
        assert (loop.n_frames, loop.size) == (5, (48, 32))  # type: ignore[attr-defined]
        for index, expected in enumerate(frames()):
            loop.seek(index)
            loop.load()
            assert loop.info["duration"] == 50
            assert np.abs(np.asarray(loop.convert("RGB")) / 255 - expected.numpy()).mean() < 0.06
        assert loop.info["loop"] == 0


def test_an_old_file_survives_a_failure(tmp_path: Path) -> None:
    def breaks_off() -> Iterator[Tensor]:
        yield from frames(2)
        raise RuntimeError("out of frames")

    (tmp_path / "video.mp4").write_text("old")
    with pytest.raises(RuntimeError, match="out of frames"):
        save_video(breaks_off(), tmp_path / "video.mp4")
    assert (tmp_path / "video.mp4").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("images", "name", "message"),
    [
        ([torch.zeros(4, 4)], "a.gif", r"shape \(4, 4\), expected \(H, W, 3\)"),
        ([torch.zeros(4, 4, 3, dtype=torch.int64)], "a.gif", "type torch.int64"),
        ([gradient(4, 4), gradient(4, 6)], "a.gif", "frame 1 is 6×4 pixels, those before it are 4×4"),
        ([gradient(4, 4), gradient(4, 6)], "a.mp4", "frame 1 is 6×4 pixels"),
        ([], "a.mp4", "there are no frames"),
        ([gradient(2, 16_386)], "a.mp4", "images of 16386×2 pixels, and .mp4 takes at most 16,384 a side"),
        ([gradient(65_536, 2)], "a.GIF", "images of 2×65536 pixels, and .GIF takes at most 65,535"),
        ([gradient(2, 16_384)], "a.webp", "takes at most 16,383"),
        ([gradient(4, 4)], "a.avi", "no suffix of a video, expected one of: .mp4, .mov"),
    ],
)
def test_mistakes(tmp_path: Path, images: list[Tensor], name: str, message: str) -> None:
    with pytest.raises(SplatkitError, match=message):
        save_video(images, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_more_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SplatkitError, match="fps is 0"):
        save_video([gradient(4, 4)], tmp_path / "a.mp4", fps=0)
    with pytest.raises(SplatkitError, match=r"a.txt has no suffix of a picture"):
        save_image(gradient(4, 4), tmp_path / "a.txt")
    with pytest.raises(SplatkitError, match=r".jpg takes at most 65,500"):
        save_image(gradient(2, 65_501), tmp_path / "a.jpg")
    modules: Any = sys.modules
    monkeypatch.setitem(modules, "av", None)
    with pytest.raises(SplatkitError, match=r"package av, .*: pip install av. Animations"):
        save_video([gradient(4, 4)], tmp_path / "a.mp4")
    save_video([gradient(4, 4)], tmp_path / "a.gif")


def test_a_codec_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    with pytest.raises(SplatkitError, match=r"cannot encode libx264, which \.mp4 needs"):
        save_video([gradient(4, 4)], tmp_path / "a.mp4")
