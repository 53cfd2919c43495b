"""``splatkit poses`` as people call it, with a stand-in for COLMAP (`tests/poses/fake`)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from splatkit_ns.poses import command
from splatkit_ns.poses.drawing import draw
from tests.cli.helpers import refused, run
from tests.poses.helpers import save, texture, write_video

FAKE = Path(__file__).parent / "fake"


@pytest.fixture(autouse=True)
def _fake_colmap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.delitem(sys.modules, "pycolmap", raising=False)
    monkeypatch.delenv("FAKE_COLMAP", raising=False)
    monkeypatch.setattr(command, "draw", lambda *_: None)  # it takes half a second


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(6):
        save(tmp_path / f"photos/p {number}.jpg", texture(seed=number))
    return tmp_path / "photos"


def settings(monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
    monkeypatch.setenv("FAKE_COLMAP", json.dumps(values))


def meta_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "transforms.json").read_text())


def test_a_data_set_from_photographs(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest part is kept, and the pictures of the others are named."""
    monkeypatch.setattr(command, "draw", draw)
    settings(monkeypatch, models=[1, 4])
    output = tmp_path / "my scene"
    status, text = run(capsys, "poses", photos, "--output", output)
    assert status == 0, text
    assert "Pictures: 6 in" in text
    assert "Matches: 15 of 15 pairs (exhaustive)" in text
    assert "Poses: 4 of 6 pictures, 100 points" in text
    assert "2 picture(s) are left out, without a pose: p 0.jpg (in part 2 of the scene), p 5.jpg." in text
    assert f"ns-train splatkit-3dgs --data '{output}'" in text
    files = [frame["file_path"] for frame in meta_of(output)["frames"]]
    assert files == [f"images/p_{number}.jpg" for number in range(1, 5)]
    assert all(os.path.samefile(output / name, photos / Path(name).name.replace("_", " ")) for name in files)
    assert (output / "left_out.txt").read_text().splitlines() == ["p 0.jpg (in part 2 of the scene)", "p 5.jpg"]
    assert len(json.loads((output / "sparse/0/images.bin").read_text())) == 4
    assert (output / "sparse_pc.ply").is_file()
    assert (output / "cameras.png").is_file()
    assert "extracted p_0.jpg" in (output / "poses_work/colmap.log").read_text()

    message = refused(capsys, "poses", photos, "--output", output)
    assert "holds poses already" in message
    settings(monkeypatch)
    status, text = run(capsys, "poses", photos, "--output", output, "--overwrite")
    assert status == 0, text
    assert "6 of an earlier run" in text
    assert len(meta_of(output)["frames"]) == 6
    assert not (output / "left_out.txt").exists()


def test_a_crash_of_colmap_is_one_message_and_the_next_run_goes_on(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings(monkeypatch, stage="features", after=4, how="abort")
    message = refused(capsys, "poses", photos, "--output", tmp_path / "out")
    assert "COLMAP stopped while finding features: [database.cc:1] SQLite error: disk full." in message
    assert "Start the command again to go on" in message
    settings(monkeypatch, stage="matches", after=10, how="raise")
    message = refused(capsys, "poses", photos, "--output", tmp_path / "out")
    assert "COLMAP stopped while comparing pictures: the disk is full." in message
    settings(monkeypatch)
    status, text = run(capsys, "poses", photos, "--output", tmp_path / "out")
    assert status == 0, text
    assert "Pictures: the 6 in" in text
    assert "Matches: 15 of 15 pairs (exhaustive), 10 of them of an earlier run" in text
    log = (tmp_path / "out/poses_work/colmap.log").read_text()
    assert log.count("extracted") == 6, "four by the first run, two by the second"


def test_a_killed_command_takes_colmap_along(photos: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(FAKE), str(Path(__file__).parents[2])]),
        "FAKE_COLMAP": json.dumps({"stage": "poses", "how": "hang", "mark": str(mark)}),
    }
    arguments = [sys.executable, "-m", "splatkit_ns.cli", "poses", photos, "--output", tmp_path / "out"]
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: mark.exists() and mark.read_text() != "")
    process.send_signal(signal.SIGKILL)
    process.wait()
    child = int(mark.read_text())
    wait_for(lambda: not is_running(child))


def wait_for(happened: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def is_running(process: int) -> bool:
    """Whether it runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "walk.mp4", [texture(seed=number) for number in range(12)])
    status, text = run(capsys, "poses", video, "--output", tmp_path / "out", "--frames", "6")
    assert status == 0, text
    assert "Pictures: 6 of 12 frames" in text
    assert "pairs (sequential)" in text
    assert [frame["file_path"] for frame in meta_of(tmp_path / "out")["frames"]] == [
        f"images/frame_0000{number}.jpg" for number in range(1, 7)
    ]


def test_a_fisheye_has_a_focal_length_to_begin_with(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """COLMAP 4.2 matches no pair of fisheye pictures whose focal length it does not know."""
    status, text = run(capsys, "poses", photos, "--output", tmp_path / "out", "--lens", "fisheye")
    assert status == 0, text
    assert meta_of(tmp_path / "out")["camera_model"] == "OPENCV_FISHEYE"
    with contextlib.closing(sqlite3.connect(tmp_path / "out/poses_work/database.db")) as database:
        assert database.execute("SELECT model, prior_focal_length FROM cameras").fetchall() == [("OPENCV_FISHEYE", 1)]


def test_photographs_that_are_in_place_stay_there(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``data/my_scene/images`` with ``--output data/my_scene``; with other names, they are linked beside it."""
    scene = photos.parent / "scene"
    for number in range(4):
        save(scene / f"images/{number}.jpg", texture(seed=number))
    status, text = run(capsys, "poses", scene / "images", "--output", scene)
    assert status == 0, text
    assert not (scene / "pictures").exists()
    assert meta_of(scene)["frames"][0]["file_path"] == "images/0.jpg"
    (scene / "images/0.jpg").rename(scene / "images/a b.jpg")
    status, text = run(capsys, "poses", scene / "images", "--output", scene, "--overwrite")
    assert status == 0, text
    assert [frame["file_path"] for frame in meta_of(scene)["frames"]][-1] == "pictures/a_b.jpg"
    assert sorted(path.name for path in (scene / "images").iterdir()) == ["1.jpg", "2.jpg", "3.jpg", "a b.jpg"]


@pytest.mark.parametrize(
    ("found", "advice"),
    [
        ({"features": 20}, "6 of 6 pictures have fewer than 150 features"),
        ({"config": 6}, "15 of 15 matched pairs show no parallax: the camera only turned"),
        ({"matches": 0}, "Only 0 of 15 compared pairs show the same things, and 6 of 6 pictures match no other"),
    ],
)
def test_no_poses(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    found: dict[str, Any], advice: str,
) -> None:  # fmt: skip
    settings(monkeypatch, points=2, **found)
    message = refused(capsys, "poses", photos, "--output", tmp_path / "out")
    assert "No poses were found" in message
    assert advice in message
    assert ("Hardly any pair shows parallax, so the search" in message) == ("no parallax" in advice), "before it begins"
    assert not (tmp_path / "out/transforms.json").exists()


def test_few_poses_are_explained(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6, 8):
        save(photos / f"p {number}.jpg", texture(seed=number))
    settings(monkeypatch, models=[3], matches=20)
    status, text = run(capsys, "poses", photos, "--output", tmp_path / "out")
    assert status == 0, text
    assert "More than half of the pictures have no pose. Only 28 of 28 compared pairs" in text


def test_bad_input(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"

    def message(source: Path, *more: str) -> str:
        text = refused(capsys, "poses", source, "--output", output, *more)
        assert not output.exists(), "nothing is written"
        return text

    assert "does not exist: name a folder of photographs, or a video" in message(tmp_path / "none")
    assert "is one picture: name the folder" in message(photos / "p 0.jpg")
    (tmp_path / "two").mkdir()
    assert "holds no pictures" in message(tmp_path / "two")
    for number in range(2):
        save(tmp_path / f"two/{number}.jpg", texture())
    assert "holds 2 picture(s), expected at least 3" in message(tmp_path / "two")
    (tmp_path / "notes.txt").write_text("no video")
    assert "is no video that FFmpeg can read" in message(tmp_path / "notes.txt")
    assert "--frames is 2, expected a number of at least 3" in message(photos, "--frames", "2")
    assert "this pycolmap was built without CUDA" in message(photos, "--device", "cuda")
    assert "none of the pictures has a place (GPS)" in refused(
        capsys, "poses", photos, "--output", output, "--matching", "gps"
    )


def test_unreadable_photographs_are_left_out_by_name(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "p 3.jpg").write_text("no picture")
    status, text = run(capsys, "poses", photos, "--output", tmp_path / "out")
    assert status == 0, text
    assert "Left out, as they cannot be read: p 3.jpg: not a picture that Pillow can read" in text
    assert len(meta_of(tmp_path / "out")["frames"]) == 5
    for number in range(4):
        (photos / f"p {number}.jpg").write_text("no picture")
    message = refused(capsys, "poses", photos, "--output", tmp_path / "other")
    assert "4 of 6 pictures" in message
    assert "p 0.jpg: not a picture" in message


def test_pycolmap_is_missing(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)  # its import fails
    message = refused(capsys, "poses", photos, "--output", tmp_path / "out")
    assert 'pip install "splatkit-ns[poses]"' in message
    assert not (tmp_path / "out").exists()


def test_an_old_pycolmap(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pycolmap  # pyright: ignore[reportMissingImports]

    monkeypatch.delattr(pycolmap, "CancellationToken")
    message = refused(capsys, "poses", photos, "--output", tmp_path / "out")
    assert "pycolmap 4.2.0 is too old: pip install --upgrade pycolmap" in message


@pytest.mark.parametrize(("turn", "noted"), [(0.1, False), (0.005, True)])
def test_poses_without_parallax_are_doubted_only_if_the_points_have_none_either(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    turn: float, noted: bool,
) -> None:  # fmt: skip
    """Neighbours in a slow video show next to none, and photographs of a wall look as if they did."""
    settings(monkeypatch, config=6, turn=turn)
    status, text = run(capsys, "poses", photos, "--output", tmp_path / "out")
    assert status == 0, text
    assert ("The poses may be wrong. 15 of 15 matched pairs show no parallax" in text) == noted
