"""Cameras and points as COLMAP found them, and the files that ns-train reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plyfile import PlyData, PlyElement

from splatkit_ns.files import atomic_write, atomic_write_text

PARAMETERS = {
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "OPENCV": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2"),
    "OPENCV_FISHEYE": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4"),
}
"""COLMAP's camera models that are used here -> their parameters in its order, by nerfstudio's names; ``f`` stands for
both focal lengths. Both have the same equations and count pixels from the upper left corner of the upper left pixel."""


@dataclass(frozen=True)
class Intrinsics:
    """The intrinsics that some pictures share."""

    model: str
    """A key of `PARAMETERS`."""
    width: int
    height: int
    values: tuple[float, ...]
    """In the order of `PARAMETERS`; lengths in pixels."""


@dataclass(frozen=True)
class PosedPicture:
    """A picture whose pose was found."""

    name: str
    """Path in the folder of pictures."""
    camera: int
    """The key of its intrinsics."""
    world_to_cam: NDArray[np.float64]
    """(3, 4), OpenCV axes: x right, y down, z forward."""

    @property
    def cam_to_world(self) -> NDArray[np.float64]:
        """(4, 4), OpenCV axes."""
        pose = np.eye(4)
        pose[:3, :3] = self.world_to_cam[:, :3].T
        pose[:3, 3] = -self.world_to_cam[:, :3].T @ self.world_to_cam[:, 3]
        return pose


@dataclass(frozen=True)
class Scene:
    """A model of COLMAP's."""

    cameras: Mapping[int, Intrinsics]
    pictures: Sequence[PosedPicture]
    """Sorted by name."""
    points: NDArray[np.float64]
    """(N, 3)."""
    colors: NDArray[np.uint8]
    """(N, 3)."""
    error: float
    """Mean distance of points from their features, in pixels."""


def transforms(scene: Scene, images: str) -> dict[str, Any]:
    """The content of a ``transforms.json``, in the scene's own frame.

    Args:
        scene: the cameras.
        images: path of the pictures' folder relative to the file, with forward slashes.
    """
    used = sorted({picture.camera for picture in scene.pictures})
    is_fisheye = scene.cameras[used[0]].model == "OPENCV_FISHEYE"
    meta: dict[str, Any] = {"camera_model": "OPENCV_FISHEYE" if is_fisheye else "OPENCV"}
    if len(used) == 1:
        meta |= intrinsics(scene.cameras[used[0]])
    meta["ply_file_path"] = "sparse_pc.ply"
    meta["frames"] = []
    for picture in scene.pictures:
        pose = picture.cam_to_world * np.array([1.0, -1.0, -1.0, 1.0])  # nerfstudio: y up, looking along -z
        frame: dict[str, Any] = {"file_path": f"{images}/{picture.name}"}
        if len(used) > 1:
            frame |= intrinsics(scene.cameras[picture.camera])
        meta["frames"].append(frame | {"transform_matrix": pose.tolist()})
    return meta


def intrinsics(camera: Intrinsics) -> dict[str, float]:
    """Intrinsics by nerfstudio's names."""
    values: dict[str, float] = {"w": camera.width, "h": camera.height}
    for name, value in zip(PARAMETERS[camera.model], camera.values, strict=True):
        values |= {"fl_x": value, "fl_y": value} if name == "f" else {name: value}
    return values


def write_points(scene: Scene, path: Path) -> None:
    """Write the points as a binary PLY file, which training starts from.

    Raises:
        OSError: it cannot be written.
    """
    names = ("red", "green", "blue")
    rows = np.empty(len(scene.points), [(name, "<f4") for name in "xyz"] + [(name, "u1") for name in names])
    for column, name in enumerate("xyz"):
        rows[name] = scene.points[:, column]
    for column, name in enumerate(names):
        rows[name] = scene.colors[:, column]
    content = PlyData([PlyElement.describe(rows, "vertex")], byte_order="<")
    atomic_write(path, content.write)


def write_transforms(scene: Scene, images: str, path: Path) -> None:
    """Write ``transforms.json``; see `transforms`.

    Raises:
        OSError: it cannot be written.
    """
    atomic_write_text(path, json.dumps(transforms(scene, images), indent=1))
