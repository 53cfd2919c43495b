"""The made scene photographed through lenses: the place of each pixel's ray is exact, so that no lens is at a
disadvantage.

The cameras stand close by, so that all of a wide field of view shows something.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.made_scene import LOOK_AT, Array, cast, colors_at, poses, save_pixels, write_points

WIDTH, HEIGHT = 96, 72
FIELD_OF_VIEW = math.radians(100.0)
"""Across the width, of all lenses."""
NEARER = 0.55
"""The distance of the cameras from the middle, relative to that in `made_scene`."""
_FAR = 1e9


@dataclass(frozen=True)
class MadeLens:
    """A lens, by the names that transforms.json has for it."""

    camera_model: str
    coefficients: dict[str, float] = field(default_factory=dict)

    def radial(self, inner: Array) -> Array:
        """The distance from the middle, in focal lengths, of tangents of angles (OPENCV), or of angles (fisheyes)."""
        k1, k2, k3, k4 = (self.coefficients.get(name, 0.0) for name in ("k1", "k2", "k3", "k4"))
        r2 = inner**2
        return inner * (1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4))))

    @property
    def is_fisheye(self) -> bool:
        """Whether coefficients belong to angles."""
        return self.camera_model == "OPENCV_FISHEYE"

    def focal_length(self, width: int) -> float:
        """In pixels, such that the field of view across the width is `FIELD_OF_VIEW`."""
        edge = FIELD_OF_VIEW / 2 if self.is_fisheye else math.tan(FIELD_OF_VIEW / 2)
        return width / 2 / float(self.radial(np.array(edge)))

    def rays(self, a: Array, b: Array) -> Array:
        """Unit rays (..., 3), OpenCV axes, of places in focal lengths, by a table of the lens's own function."""
        inner = np.linspace(0, 1.4 if self.is_fisheye else 3.0, 400_001)
        outer = self.radial(inner)
        turn = int(np.argmax(np.diff(outer) <= 0)) or len(inner)
        distance = np.hypot(a, b)
        assert distance.max() < outer[turn - 1], "the corners lie beyond the lens"
        angle = np.interp(distance, outer[:turn], inner[:turn])
        angle = angle if self.is_fisheye else np.arctan(angle)
        across = np.sin(angle) / np.maximum(distance, 1e-12)
        return np.stack([a * across, b * across, np.cos(angle)], -1)


LENSES = {
    "pinhole": MadeLens("OPENCV"),
    "opencv": MadeLens("OPENCV", {"k1": -0.12, "k2": 0.012}),
    "fisheye": MadeLens("OPENCV_FISHEYE", {"k1": -0.03, "k2": 0.004, "k3": -0.001, "k4": 0.0002}),
}


def photograph(cam_to_world: Array, lens: MadeLens, width: int = WIDTH, height: int = HEIGHT, samples: int = 3) -> Any:
    """The picture (H, W, 3) in [0, 1], a mean over samples² rays a pixel, and the distances (H, W) at the pixels'
    centres, 0 where nothing is hit.

    Args:
        cam_to_world: (4, 4), OpenGL axes.
        lens: the lens.
        width: in pixels.
        height: in pixels.
        samples: along each side of a pixel.
    """
    focal = lens.focal_length(width)

    def hits(dx: float, dy: float) -> tuple[Array, Array]:
        x, y = np.meshgrid(np.arange(width) + dx, np.arange(height) + dy)
        rays = lens.rays((x - width / 2) / focal, (y - height / 2) / focal) * [1, -1, -1]
        directions = (rays @ cam_to_world[:3, :3].T).reshape(-1, 3)
        origins = np.broadcast_to(cam_to_world[:3, 3], directions.shape)
        distances = cast(origins, directions)
        return origins + distances[:, None] * directions, distances

    rgb = np.zeros((height * width, 3))
    for dx in range(samples):
        for dy in range(samples):
            points, distances = hits((dx + 0.5) / samples, (dy + 0.5) / samples)
            hit = distances < _FAR
            rgb[hit] += colors_at(points[hit])
    _, distances = hits(0.5, 0.5)
    distances = np.where(distances < _FAR, distances, 0.0)
    return (rgb / samples**2).reshape(height, width, 3), distances.reshape(height, width)


def near_poses(num_views: int) -> Array:
    """(num_views, 4, 4) camera-to-world matrices, OpenGL axes."""
    found = poses(num_views)
    found[:, :3, 3] = LOOK_AT + NEARER * (found[:, :3, 3] - LOOK_AT)
    return found


def write_lens_scene(
    folder: Path,
    lens: str | list[str],
    *,
    num_views: int = 28,
    width: int = WIDTH,
    height: int = HEIGHT,
    num_points: int = 3000,
) -> Path:
    """Write a data set in nerfstudio's format: transforms.json, images/*.png and sparse_pc.ply.

    Args:
        folder: made where it does not exist.
        lens: a name of `LENSES`; several take turns.
        num_views: number of pictures.
        width: of each, in pixels.
        height: of each, in pixels.
        num_points: seed points, of what the pictures show.

    Returns:
        The folder.
    """
    names = [lens] if isinstance(lens, str) else lens
    frames: list[dict[str, Any]] = []
    seen: list[Array] = []
    for i, pose in enumerate(near_poses(num_views)):
        chosen = LENSES[names[i % len(names)]]
        rgb, distances = photograph(pose, chosen, width, height)
        name = f"images/frame_{i:05d}.png"
        save_pixels(folder / name, np.round(255 * rgb).astype(np.uint8))
        focal = chosen.focal_length(width)
        own = {"camera_model": chosen.camera_model, **chosen.coefficients, "fl_x": focal, "fl_y": focal}
        frames.append({"file_path": name, "transform_matrix": pose.tolist(), **own})
        x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        rays = chosen.rays((x - width / 2) / focal, (y - height / 2) / focal) * [1, -1, -1] @ pose[:3, :3].T
        hit = distances > 0
        seen.append(pose[:3, 3] + distances[hit][:, None] * rays[hit])
    points = np.concatenate(seen)
    generator = np.random.default_rng(5)
    points = points[generator.permutation(len(points))[:num_points]]
    colors = np.round(255 * colors_at(points)).astype(np.uint8)
    write_points(folder / "sparse_pc.ply", points + generator.normal(0, 0.003, points.shape), colors, np.eye(4))
    size = {"w": width, "h": height, "cx": width / 2, "cy": height / 2}
    meta = {**size, "ply_file_path": "sparse_pc.ply", "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(meta, indent=1))
    return folder
