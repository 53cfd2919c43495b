"""The files of a data set: cameras by nerfstudio's names and axes, points, and the picture of both."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import plyfile
import pytest
from PIL import Image

from splatkit_ns.poses.drawing import axes_of, bounds, draw
from splatkit_ns.poses.scene import Intrinsics, intrinsics, transforms, write_points, write_transforms
from tests.poses.helpers import PINHOLE, made_scene


def test_poses_project_points_to_the_same_pixels() -> None:
    """COLMAP's pose and nerfstudio's, each by its own convention."""
    scene = made_scene()
    meta = transforms(scene, "images")
    for picture, frame in zip(scene.pictures, meta["frames"], strict=True):
        in_colmap = scene.points @ picture.world_to_cam[:, :3].T + picture.world_to_cam[:, 3]
        world_to_cam = np.linalg.inv(np.array(frame["transform_matrix"]))
        in_nerfstudio = scene.points @ world_to_cam[:3, :3].T + world_to_cam[:3, 3]
        assert np.allclose(in_nerfstudio, in_colmap * [1, -1, -1])
        assert frame["file_path"] == f"images/{picture.name}"


def test_one_camera_stands_at_the_top() -> None:
    meta = transforms(made_scene(), "images")
    assert meta["camera_model"] == "OPENCV"
    assert {name: meta[name] for name in ("w", "h", "fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2")} == {
        "w": 64, "h": 48, "fl_x": 50.0, "fl_y": 51.0, "cx": 31.0, "cy": 23.0, "k1": 0.1, "k2": -0.02, "p1": 0.001,
        "p2": 0.002,
    }  # fmt: skip
    assert set(meta["frames"][0]) == {"file_path", "transform_matrix"}


def test_several_cameras_stand_at_the_frames() -> None:
    radial = Intrinsics("SIMPLE_RADIAL", 48, 64, (70.0, 24.0, 32.0, -0.1))
    meta = transforms(made_scene(4, {1: PINHOLE, 2: radial}), "images")
    assert "fl_x" not in meta
    assert meta["frames"][0]["fl_y"] == 51.0
    assert intrinsics(radial) == {"w": 48, "h": 64, "fl_x": 70.0, "fl_y": 70.0, "cx": 24.0, "cy": 32.0, "k1": -0.1}
    assert intrinsics(radial).items() <= meta["frames"][1].items()


def test_a_camera_without_pictures_does_not_count() -> None:
    scene = made_scene()
    meta = transforms(replace(scene, cameras={**scene.cameras, 2: replace(PINHOLE, width=1)}), "images")
    assert meta["w"] == 64


def test_fisheye() -> None:
    fisheye = Intrinsics("OPENCV_FISHEYE", 64, 48, (30.0, 30.0, 32.0, 24.0, 0.1, 0.2, 0.3, 0.4))
    meta = transforms(made_scene(4, {1: fisheye}), "images")
    assert meta["camera_model"] == "OPENCV_FISHEYE"
    assert [meta[f"k{number}"] for number in range(1, 5)] == [0.1, 0.2, 0.3, 0.4]


def test_points_are_read_back(tmp_path: Path) -> None:
    scene = made_scene()
    write_points(scene, tmp_path / "sparse_pc.ply")
    rows = plyfile.PlyData.read(str(tmp_path / "sparse_pc.ply"))["vertex"]
    assert np.allclose(np.stack([rows[name] for name in "xyz"], axis=1), scene.points, atol=1e-6)
    assert np.array_equal(np.stack([rows[name] for name in ("red", "green", "blue")], axis=1), scene.colors)


def test_ns_train_takes_the_files(tmp_path: Path) -> None:
    from nerfstudio.cameras.cameras import CameraType
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    from splatkit_ns.plugin.data.checks.data_folder import check_folder

    scene = made_scene(8)
    for picture in scene.pictures:
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (64, 48)).save(tmp_path / "images" / picture.name)
    write_points(scene, tmp_path / "sparse_pc.ply")
    write_transforms(scene, "images", tmp_path / "transforms.json")
    config = NerfstudioDataParserConfig(
        data=tmp_path, orientation_method="none", center_method="none", auto_scale_poses=False, eval_mode="all",
        load_3D_points=True,
    )  # fmt: skip
    check_folder(config)
    outputs = config.setup().get_dataparser_outputs("train")
    assert [path.name for path in outputs.image_filenames] == [picture.name for picture in scene.pictures]
    assert bool((outputs.cameras.camera_type == CameraType.PERSPECTIVE.value).all())
    assert outputs.cameras.distortion_params is not None
    assert outputs.cameras.distortion_params[0].tolist() == pytest.approx([0.1, -0.02, 0, 0, 0.001, 0.002])
    centres = np.array([picture.cam_to_world[:3, 3] for picture in scene.pictures])
    assert np.allclose(outputs.cameras.camera_to_worlds[:, :, 3].numpy(), centres, atol=1e-5)


def test_the_picture_of_cameras_and_points(tmp_path: Path) -> None:
    scene = made_scene(12)
    scene = replace(scene, colors=np.full_like(scene.colors, 128))  # all that is coloured is a camera
    draw(scene, "a title", tmp_path / "cameras.png")
    pixels = np.array(Image.open(tmp_path / "cameras.png").convert("RGB"), int)
    assert pixels.shape == (700, 1400, 3)
    red, green, blue = np.moveaxis(pixels, -1, 0)
    assert ((blue > red + 60) & (blue > green + 60)).sum() > 100, "the first cameras"
    assert ((red > green + 60) & (red > blue + 60)).sum() > 100, "the last cameras"


def test_up_is_that_of_the_cameras() -> None:
    across, forward, up = axes_of(made_scene(12))
    assert np.allclose(up, [0, -1, 0], atol=1e-6), "y points down"
    assert np.allclose(np.cross(across, forward), up, atol=1e-6), "seen from above, nothing is mirrored"


def test_a_single_place_and_no_points_can_be_drawn(tmp_path: Path) -> None:
    scene = made_scene(3)
    still = [replace(picture, world_to_cam=scene.pictures[0].world_to_cam) for picture in scene.pictures]
    empty = replace(scene, pictures=still, points=np.zeros((0, 3)), colors=np.zeros((0, 3), np.uint8))
    draw(empty, "still", tmp_path / "cameras.png")
    assert (tmp_path / "cameras.png").stat().st_size > 1000


def test_far_points_do_not_set_the_scale() -> None:
    points = np.random.default_rng(0).normal(size=(1000, 2))
    points[:5] = 1e6
    low, high = bounds(points, np.zeros((1, 2)))
    assert np.abs([low, high]).max() < 10


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    write_transforms(made_scene(), "pictures", tmp_path / "transforms.json")
    meta = json.loads((tmp_path / "transforms.json").read_text())
    assert meta["ply_file_path"] == "sparse_pc.ply"
    assert meta["frames"][0]["file_path"] == "pictures/p_0.jpg"
