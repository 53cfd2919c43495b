"""A made scene whose surfaces are known exactly: a ball and a turned box on a table, photographed by a ray caster.

The figures of a mesh made from its pictures are then distances to the truth, not to another reconstruction.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plyfile
from PIL import Image

Array = np.ndarray[Any, np.dtype[Any]]

WIDTH, HEIGHT = 128, 96
FIELD_OF_VIEW = math.radians(50.0)
"""Across the width."""
NUM_VIEWS = 28
LOOK_AT = np.array([0.0, 0.0, 0.25])
BALL_CENTRE, BALL_RADIUS = np.array([-0.45, -0.15, 0.45]), 0.45
BOX_CENTRE, BOX_HALF = np.array([0.5, 0.25, 0.3]), np.array([0.3, 0.25, 0.3])
BOX_TURN = math.radians(25.0)
TABLE_CENTRE, TABLE_HALF = np.array([0.0, 0.0, -0.1]), np.array([1.3, 1.3, 0.1])
"""Its top is the plane z = 0."""
_FAR = 1e9
TO_SAVED = np.array([[0.0, 1, 0, 0.3], [1, 0, 0, 0], [0, 0, -1, 0.2]])
"""An `applied_transform`: what ns-process-data does to COLMAP's poses and points, and a shift."""


@dataclass(frozen=True)
class MadeView:
    """One picture."""

    cam_to_world: Array
    """(4, 4), OpenGL axes: x right, y up, looking along -z."""
    rgb: Array
    """(H, W, 3) in [0, 1], black where nothing is hit."""
    depth: Array
    """(H, W) along the viewing axis, in world units; 0 where nothing is hit."""


# ---------------------------------------------------------------------------------------------------------- geometry


def signed_distance(points: Array) -> Array:
    """Distance to the nearest surface, negative inside a solid: (N,) of points (N, 3)."""
    ball = np.linalg.norm(points - BALL_CENTRE, axis=-1) - BALL_RADIUS
    box = _box_distance((points - BOX_CENTRE) @ _box_axes(), BOX_HALF)
    table = _box_distance(points - TABLE_CENTRE, TABLE_HALF)
    return np.minimum(np.minimum(ball, box), table)


def surface_normals(points: Array, step: float = 1e-4) -> Array:
    """Unit normals, outward: the gradient of `signed_distance`, (N, 3)."""
    steps = step * np.eye(3)
    gradient = np.stack([signed_distance(points + s) - signed_distance(points - s) for s in steps], axis=-1)
    return gradient / np.maximum(np.linalg.norm(gradient, axis=-1, keepdims=True), 1e-12)


def _box_distance(points: Array, half: Array) -> Array:
    outside = np.abs(points) - half
    return np.linalg.norm(np.maximum(outside, 0), axis=-1) + np.minimum(outside.max(axis=-1), 0)


def _box_axes() -> Array:
    """Columns are the box's own axes."""
    c, s = math.cos(BOX_TURN), math.sin(BOX_TURN)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def cast(origins: Array, directions: Array) -> Array:
    """How many `directions` away each ray hits first; 1e9 where it hits nothing.

    Args:
        origins: (N, 3).
        directions: (N, 3), of any length.
    """
    axes = _box_axes()
    return np.minimum.reduce(
        [
            _hit_ball(origins, directions),
            _hit_box((origins - BOX_CENTRE) @ axes, directions @ axes, BOX_HALF),
            _hit_box(origins - TABLE_CENTRE, directions, TABLE_HALF),
        ]
    )


def _hit_ball(origins: Array, directions: Array) -> Array:
    to_ball = origins - BALL_CENTRE
    a = (directions**2).sum(-1)
    b = (to_ball * directions).sum(-1)
    discriminant = b**2 - a * ((to_ball**2).sum(-1) - BALL_RADIUS**2)
    distance = (-b - np.sqrt(np.maximum(discriminant, 0))) / a
    return np.where((discriminant >= 0) & (distance > 0), distance, _FAR)


def _hit_box(origins: Array, directions: Array, half: Array) -> Array:
    """Where the ray has entered all three slabs, if that is before it leaves one."""
    safe = np.where(np.abs(directions) < 1e-12, 1e-12, directions)
    first, second = (-half - origins) / safe, (half - origins) / safe
    enter, leave = np.minimum(first, second).max(-1), np.maximum(first, second).min(-1)
    return np.where((enter <= leave) & (enter > 0), enter, _FAR)


# ---------------------------------------------------------------------------------------------------------- pictures


def colors_at(points: Array) -> Array:
    """Colour of the surface, (N, 3) in [0, 1]: waves in space, long enough for the pictures' pixels, with a base
    colour for each solid."""
    waves = np.zeros((len(points), 3))
    generator = np.random.default_rng(3)
    for length in (0.9, 0.45, 0.25, 0.14):
        direction = generator.normal(size=(3, 3))
        direction *= 2 * math.pi / length / np.linalg.norm(direction, axis=0)
        waves += np.sin(points @ direction + generator.uniform(0, 2 * math.pi, 3))
    table = np.abs(points[:, 2:]) < 1e-4
    on_ball = np.abs(np.linalg.norm(points - BALL_CENTRE, axis=-1, keepdims=True) - BALL_RADIUS) < 1e-4
    base = np.where(table, [0.55, 0.6, 0.5], np.where(on_ball, [0.7, 0.4, 0.35], [0.35, 0.45, 0.7]))
    return np.clip(base + 0.09 * waves, 0.02, 0.98)


def focal_length(width: int = WIDTH) -> float:
    """In pixels."""
    return width / 2 / math.tan(FIELD_OF_VIEW / 2)


def intrinsics(width: int = WIDTH, height: int = HEIGHT) -> Array:
    """(3, 3), in pixels; (0, 0) is the upper left corner of the upper left pixel."""
    focal = focal_length(width)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])


def poses(num_views: int = NUM_VIEWS) -> Array:
    """(num_views, 4, 4) camera-to-world matrices, OpenGL axes: two rings around the table, and two thirds of the
    cameras on the lower one."""
    matrices = np.zeros((num_views, 4, 4))
    for i in range(num_views):
        high = i % 3 == 2
        turn = 2 * math.pi * i / num_views + (0.3 if high else 0.0)
        rise = math.radians(58 if high else 26 + 6 * math.sin(5 * turn))
        backward = np.array([math.cos(rise) * math.cos(turn), math.cos(rise) * math.sin(turn), math.sin(rise)])
        right = np.array([-math.sin(turn), math.cos(turn), 0.0])
        matrices[i, :3, :3] = np.stack([right, np.cross(backward, right), backward], axis=1)
        matrices[i, :3, 3] = LOOK_AT + (2.9 if high else 2.7) * backward
        matrices[i, 3, 3] = 1
    return matrices


def made_view(cam_to_world: Array, width: int = WIDTH, height: int = HEIGHT, samples: int = 3) -> MadeView:
    """Photograph the scene; colours are means over samples² rays a pixel, depth is that at the pixel's centre."""
    rgb = np.zeros((height, width, 3))
    for dx in range(samples):
        for dy in range(samples):
            points, hit = _hits(cam_to_world, width, height, (dx + 0.5) / samples, (dy + 0.5) / samples)[:2]
            rgb[hit] += colors_at(points[hit])
    depth = _hits(cam_to_world, width, height, 0.5, 0.5)[2]
    return MadeView(cam_to_world, rgb / samples**2, depth)


def made_views(num_views: int = NUM_VIEWS, width: int = WIDTH, height: int = HEIGHT) -> list[MadeView]:
    """Pictures from all around."""
    return [made_view(pose, width, height) for pose in poses(num_views)]


def _hits(cam_to_world: Array, width: int, height: int, dx: float, dy: float) -> tuple[Array, Array, Array]:
    """Points (H, W, 3), whether there is one (H, W), and depths (H, W)."""
    x, y = np.meshgrid(np.arange(width) + dx, np.arange(height) + dy)
    focal = focal_length(width)
    in_camera = np.stack([(x - width / 2) / focal, -(y - height / 2) / focal, -np.ones_like(x)], axis=-1)
    directions = (in_camera @ cam_to_world[:3, :3].T).reshape(-1, 3)
    origins = np.broadcast_to(cam_to_world[:3, 3], directions.shape)
    depths = cast(origins, directions).reshape(height, width)  # directions have depth 1
    hit = depths < _FAR
    points = (origins + depths.reshape(-1, 1) * directions).reshape(height, width, 3)
    return points, hit, np.where(hit, depths, 0.0)


def seen_points(views: list[MadeView], cell: float = 0.02) -> Array:
    """Points of the surfaces that the cameras saw, (N, 3): one in every cubic cell of this size."""
    height, width = views[0].depth.shape
    found = [_hits(view.cam_to_world, width, height, 0.5, 0.5) for view in views]
    points = np.concatenate([points[hit] for points, hit, _ in found])
    _, first = np.unique(np.floor(points / cell).astype(np.int64), axis=0, return_index=True)
    return points[first]


# ---------------------------------------------------------------------------------------------------------- data set


def write_made_scene(
    folder: Path,
    *,
    num_views: int = NUM_VIEWS,
    width: int = WIDTH,
    height: int = HEIGHT,
    num_points: int = 3000,
    masks: bool = False,
    depth: bool = False,
    applied_transform: Array | None = None,
) -> Path:
    """Write a data set in nerfstudio's format: transforms.json, images/*.png and sparse_pc.ply.

    Args:
        folder: made where it does not exist.
        num_views: number of pictures.
        width: of each, in pixels.
        height: of each, in pixels.
        num_points: seed points, off the surfaces by some thousandths of a unit, as COLMAP's are.
        masks: also masks/*.png, which exclude the ball.
        depth: also depth/*.png, 16 bits, in thousandths of a world unit.
        applied_transform: (3, 4); the file's poses and points are then the scene's after this transform, and the file
            says so, as those of ``ns-process-data`` do.

    Returns:
        The folder.
    """
    applied = np.eye(4)
    meta: dict[str, Any] = {
        "camera_model": "OPENCV",
        "w": width, "h": height, "fl_x": focal_length(width), "fl_y": focal_length(width),
        "cx": width / 2, "cy": height / 2, "ply_file_path": "sparse_pc.ply", "frames": [],
    }  # fmt: skip
    if applied_transform is not None:
        applied[:3] = applied_transform
        meta["applied_transform"] = applied_transform.tolist()
    views = made_views(num_views, width, height)
    for i, view in enumerate(views):
        name = f"frame_{i:05d}.png"
        frame = {"file_path": f"images/{name}", "transform_matrix": (applied @ view.cam_to_world).tolist()}
        save_pixels(folder / "images" / name, np.round(255 * view.rgb).astype(np.uint8))
        if masks:
            frame["mask_path"] = f"masks/{name}"
            save_pixels(folder / "masks" / name, (~ball_pixels(view)).astype(np.uint8) * 255)
        if depth:
            frame["depth_file_path"] = f"depth/{name}"
            save_pixels(folder / "depth" / name, np.round(view.depth * 1000).astype(np.uint16))
        meta["frames"].append(frame)
    write_points(folder / "sparse_pc.ply", *seed_points(views, num_points), applied)
    (folder / "transforms.json").write_text(json.dumps(meta, indent=1))
    return folder


def ball_pixels(view: MadeView) -> Array:
    """(H, W), whether the pixel shows the ball."""
    height, width = view.depth.shape
    points, hit, _ = _hits(view.cam_to_world, width, height, 0.5, 0.5)
    return hit & (np.abs(np.linalg.norm(points - BALL_CENTRE, axis=-1) - BALL_RADIUS) < 1e-6)


def seed_points(views: list[MadeView], number: int) -> tuple[Array, Array]:
    """Some of the points that were seen, with noise, and their colours (N, 3) uint8."""
    generator = np.random.default_rng(5)
    points = seen_points(views)
    points = points[generator.permutation(len(points))[:number]]
    colors = np.round(255 * colors_at(points)).astype(np.uint8)
    return points + generator.normal(0, 0.003, points.shape), colors


def write_points(path: Path, points: Array, colors: Array, applied: Array) -> None:
    """Write seed points (N, 3) with colours (N, 3) uint8 to a PLY file, moved by a matrix (4, 4)."""
    names = ("red", "green", "blue")
    rows = np.empty(len(points), [(n, "<f4") for n in "xyz"] + [(n, "u1") for n in names])
    for column, name in enumerate("xyz"):
        rows[name] = (points @ applied[:3, :3].T + applied[:3, 3])[:, column]
    for column, name in enumerate(names):
        rows[name] = colors[:, column]
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")], byte_order="<").write(str(path))


def save_pixels(path: Path, pixels: Array) -> None:
    """Write an image (H, W) or (H, W, 3) of whole numbers, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
