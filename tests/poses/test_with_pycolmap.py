"""``splatkit poses`` with the real pycolmap, on photographs of a made room whose poses are known."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import plyfile
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from splatkit_ns.poses import command
from splatkit_ns.poses.database import count_features, feature_counts, matched_pairs
from splatkit_ns.poses.stages import refine_centres
from tests.cli.helpers import refused, run
from tests.poses.helpers import room_picture, save

pycolmap: Any = pytest.importorskip("pycolmap", reason="needs pycolmap: the extra [poses]")


@pytest.fixture(autouse=True)
def _without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "draw", lambda *_: None)


def pose(yaw: float, pitch: float, centre: tuple[float, float, float]) -> NDArray[np.float64]:
    """Camera to world (4, 4), OpenCV axes; angles in radians."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("yx", [yaw, pitch]).as_matrix()
    matrix[:3, 3] = centre
    return matrix


WALK = [
    pose(0.15 - 0.04 * number, -0.1 * (number % 3), (-1.2 + 0.35 * number, -0.4 - 0.25 * (number % 3), 0.0))
    for number in range(8)
]


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The room, photographed while walking sideways."""
    folder = tmp_path_factory.mktemp("walk")
    for number, matrix in enumerate(WALK):
        save(folder / f"photo {number}.png", room_picture(matrix), gps=(47.0, 8.0 + 1e-5 * number))
    return folder


def errors(output: Path) -> tuple[float, float]:
    """The largest distance of a camera from its true place, in units of the room, and the largest angle in degrees,
    after the best similarity."""
    frames = json.loads((output / "transforms.json").read_text())["frames"]
    names = [int(Path(frame["file_path"]).stem.rpartition("_")[2]) for frame in frames]
    truth = np.array([WALK[number] for number in names])
    found = np.array([frame["transform_matrix"] for frame in frames]) * [1, -1, -1, 1]
    a, b = found[:, :3, 3], truth[:, :3, 3]
    # the turn between the frames, from the cameras' own axes
    turn = Rotation.from_matrix(truth[:, :3, :3] @ found[:, :3, :3].transpose(0, 2, 1)).mean()
    a, b = (a - a.mean(axis=0)) @ turn.as_matrix().T, b - b.mean(axis=0)
    scale = (a * b).sum() / (a * a).sum()
    turns = Rotation.from_matrix(truth[:, :3, :3]).inv() * turn * Rotation.from_matrix(found[:, :3, :3])
    return float(np.linalg.norm(scale * a - b, axis=1).max()), float(np.degrees(turns.magnitude()).max())


def test_poses_of_a_walk(walk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    status, text = run(capsys, "poses", walk, "--output", output, "--threads", "2")
    assert status == 0, text
    assert "Poses: 8 of 8 pictures" in text
    database = output / "poses_work/database.db"
    assert count_features(database) == len(feature_counts(database)) == 8
    assert len(matched_pairs(database)) == 28, "no pair is lost"
    place, angle = errors(output)
    assert place < 0.02
    assert angle < 0.3
    meta = json.loads((output / "transforms.json").read_text())
    assert meta["fl_x"] == pytest.approx(220, rel=0.01), "found by itself: EXIF does not tell"
    assert (meta["w"], meta["h"]) == (240, 180)
    assert len(plyfile.PlyData.read(str(output / "sparse_pc.ply"))["vertex"]) > 500
    assert {path.name for path in (output / "sparse/0").iterdir()} >= {"cameras.bin", "images.bin", "points3D.bin"}

    shutil.rmtree(output / "poses_work/models")  # as if it had been killed before mapping
    (output / "transforms.json").unlink()
    status, text = run(capsys, "poses", walk, "--output", output, "--matching", "gps")
    assert status == 0, text
    assert "8 of an earlier run" in text
    assert "(gps), 28 of them of an earlier run" in text
    assert errors(output)[0] < 0.02


@pytest.mark.parametrize(("num", "found"), [(24, True), (10, False)])
def test_the_centre_of_a_camera_is_found(tmp_path: Path, num: int, found: bool) -> None:
    """Of pictures whose optical axis is off the middle, if there are enough of them."""
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 1, 1, num
    options.num_points3D, options.camera_width, options.camera_height = 200, 640, 480
    options.camera_model_id = pycolmap.CameraModelId.OPENCV
    options.camera_params = [600, 600, 335, 228, 0, 0, 0, 0]
    model = pycolmap.synthesize_dataset(options)
    (camera,) = model.cameras.values()
    camera.params = np.array([600, 600, 320, 240, 0, 0, 0, 0.0])
    pycolmap.bundle_adjustment(model, pycolmap.BundleAdjustmentOptions())  # as mapping leaves it
    model.write(str(tmp_path))
    refine_centres(pycolmap, tmp_path)
    (camera,) = pycolmap.Reconstruction(str(tmp_path)).cameras.values()
    assert np.allclose(camera.params[2:4], [335, 228] if found else [320, 240], atol=0.1)


def test_a_camera_that_only_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(6):
        turned = pose(-0.28 + 0.1 * number, -0.05 * (number % 3), (0.0, -0.4, 0.0))
        save(tmp_path / f"photos/{number}.png", room_picture(turned))
    message = refused(capsys, "poses", tmp_path / "photos", "--output", tmp_path / "out", "--threads", "2")
    assert "No poses were found. 15 of 15 matched pairs show no parallax: the camera only turned" in message
    assert not (tmp_path / "out/transforms.json").exists()


def test_a_command_that_is_told_to_end_prints_no_addresses() -> None:
    program = (
        "import os, signal; from splatkit_ns.poses.colmap import load_pycolmap; load_pycolmap(); "
        "os.kill(os.getpid(), signal.SIGTERM)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (-signal.SIGTERM, "")
