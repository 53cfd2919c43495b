"""Data sets that nerfstudio's converters make of other programs' exports train, with cameras where they were."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nerfstudio.process_data.polycam_utils import polycam_to_json
from nerfstudio.process_data.realitycapture_utils import realitycapture_to_json
from nerfstudio.process_data.record3d_utils import record3d_to_json
from scipy.spatial.transform import Rotation

from tests.plugin.helpers import make_trainer, run_config
from tests.tiny_scene import focal_length, orbit_poses, write_tiny_scene

WIDTH, HEIGHT, COUNT = 32, 24, 8
FOCAL = focal_length(WIDTH)
K1 = -0.05


def polycam(data: Path, images: list[Path], poses: np.ndarray[Any, Any]) -> None:
    """Intrinsics for each frame, and rows of the pose in another order."""
    cameras = data / "cameras"
    cameras.mkdir()
    for image, pose in zip(images, poses[:, [1, 2, 0]], strict=True):
        values: dict[str, float] = {"fx": FOCAL, "fy": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2}
        values |= {"width": WIDTH, "height": HEIGHT, "blur_score": 100.0}
        values |= {f"t_{row}{column}": float(pose[row, column]) for row in range(3) for column in range(4)}
        (cameras / f"{image.stem}.json").write_text(json.dumps(values))
    polycam_to_json(images, [], None, cameras, data)
    for image in reversed(images):  # the converter counts from 1
        image.rename(image.with_name(f"frame_{int(image.stem[-5:]) + 1:05d}.png"))


def record3d(data: Path, images: list[Path], poses: np.ndarray[Any, Any]) -> None:
    """One file with quaternions."""
    quats = Rotation.from_matrix(poses[:, :3, :3]).as_quat()
    K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    values = {
        "poses": np.hstack([quats, poses[:, :3, 3]]).tolist(),
        "K": K.T.flatten().tolist(),
        "h": HEIGHT,
        "w": WIDTH,
    }
    (data / "metadata.json").write_text(json.dumps(values))
    record3d_to_json([Path("images") / image.name for image in images], data / "metadata.json", data, np.arange(COUNT))


def realitycapture(data: Path, images: list[Path], poses: np.ndarray[Any, Any]) -> None:
    """A table with angles, focal lengths for 35 mm film, and distortion."""
    with (data / "cameras.csv").open("w", newline="") as file:
        names = [
            "#name",
            "x",
            "y",
            "alt",
            "heading",
            "pitch",
            "roll",
            "f",
            "px",
            "py",
            "k1",
            "k2",
            "k3",
            "k4",
            "t1",
            "t2",
        ]
        table = csv.writer(file)
        table.writerow(names)
        for image, pose in zip(images, poses, strict=True):
            yaw, pitch, roll = Rotation.from_matrix(pose[:3, :3]).as_euler("ZXY", degrees=True)
            table.writerow([image.name, *pose[:3, 3], -yaw, pitch, roll, FOCAL * 36 / WIDTH, 0, 0, K1, 0, 0, 0, 0, 0])
    files = {image.stem: Path("images") / image.name for image in images}
    realitycapture_to_json(files, data / "cameras.csv", data / "sparse_pc_export.ply", data)


def metashape(data: Path, images: list[Path], poses: np.ndarray[Any, Any]) -> None:
    """XML with a sensor for all cameras, and OpenCV's axes."""
    from nerfstudio.process_data.metashape_utils import metashape_to_json  # imports open3d

    chunk = ET.SubElement(ET.Element("document"), "chunk")
    sensor = ET.SubElement(ET.SubElement(chunk, "sensors"), "sensor", id="0", type="frame")
    ET.SubElement(sensor, "resolution", width=str(WIDTH), height=str(HEIGHT))
    calibration = ET.SubElement(sensor, "calibration")
    for name, value in (("f", FOCAL), ("cx", 0.0), ("cy", 0.0), ("k1", K1)):
        ET.SubElement(calibration, name).text = repr(float(value))
    cameras = ET.SubElement(chunk, "cameras")
    for image, pose in zip(images, poses[:, [1, 2, 0, 3]] * np.array([1, -1, -1, 1]), strict=True):
        camera = ET.SubElement(cameras, "camera", id=image.stem, sensor_id="0", label=image.stem)
        ET.SubElement(camera, "transform").text = " ".join(repr(float(value)) for value in pose.flatten())
    root = ET.Element("document")
    root.append(chunk)
    ET.ElementTree(root).write(data / "cameras.xml")
    files = {image.stem: Path("images") / image.name for image in images}
    metashape_to_json(files, data / "cameras.xml", data, data / "sparse_pc_export.ply")


@pytest.mark.parametrize("convert", [polycam, record3d, realitycapture, metashape])
def test_exports_of_other_programs(
    tmp_path: Path, convert: Callable[[Path, list[Path], np.ndarray[Any, Any]], None]
) -> None:
    data = write_tiny_scene(tmp_path / "data", num_views=COUNT, width=WIDTH, height=HEIGHT)
    (data / "transforms.json").unlink()
    (data / "sparse_pc.ply").rename(data / "sparse_pc_export.ply")
    poses = orbit_poses(COUNT)
    convert(data, sorted((data / "images").iterdir()), poses)
    config: Any = run_config(data, tmp_path / "out", steps=3)
    config.pipeline.datamanager.dataparser.eval_interval = COUNT  # the first is held out
    trainer = make_trainer(config)
    cameras = trainer.pipeline.datamanager.train_dataset.cameras
    rotations = cameras.camera_to_worlds[:, :3, :3].double().numpy()
    relative = np.einsum("kji,kjl->kil", rotations[:-1], rotations[1:])
    exact = np.einsum("kji,kjl->kil", poses[1:-1, :3, :3], poses[2:, :3, :3])
    np.testing.assert_allclose(relative, exact, atol=1e-5)
    centres = cameras.camera_to_worlds[:, :3, 3].double().numpy()
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1) / np.linalg.norm(np.diff(poses[1:, :3, 3], axis=0), axis=1)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-5)
    distorted = convert in (realitycapture, metashape)
    assert cameras.distortion_params is None or float(cameras.distortion_params.abs().max()) == 0
    assert cameras.fx.flatten().tolist() == pytest.approx([FOCAL] * (COUNT - 1), rel=0.05 if distorted else 1e-5)
    assert (trainer.pipeline.model.num_points == 48) == distorted, "points were exported there"
    trainer.train()
    assert list((trainer.base_dir / "nerfstudio_models").glob("*.ckpt"))
