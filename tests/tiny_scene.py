"""Data sets of a few small images with exact poses, for tests: the same Gaussians in three formats.

Everything is rendered by our own CPU rasteriser, so that a perfect reconstruction exists, and the same settings give
the same files.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plyfile
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.formats.gaussians import SH_C0
from splatkit_ns.renderer import RenderOptions, Splat3DGSRenderer
from splatkit_ns.splat import SplatTrainingState

NUM_GAUSSIANS = 48
NORMAL = np.array([0.0, 0.6, -0.8])
DISTANCE = 3.0
FIELD_OF_VIEW = math.radians(45.0)
"""Across the width."""


@dataclass(frozen=True)
class TinyView:
    """One picture."""

    cam_to_world: np.ndarray[Any, np.dtype[np.float64]]
    """(4, 4), OpenGL axes, as nerfstudio has them: x right, y up, looking along -z."""
    rgb: np.ndarray[Any, np.dtype[np.float32]]
    """(H, W, 3) in [0, 1], on black."""
    alpha: np.ndarray[Any, np.dtype[np.float32]]
    """(H, W) in [0, 1]."""
    depth: np.ndarray[Any, np.dtype[np.float32]]
    """(H, W) in world units, 0 where nothing is seen."""


def tiny_gaussians(seed: int = 0) -> SplatTrainingState:
    """The scene: a few dozen opaque blobs of all colours in a ball of radius 0.8, of SH degree 0."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    directions = torch.nn.functional.normalize(torch.randn(NUM_GAUSSIANS, 3, generator=generator), dim=-1)
    return SplatTrainingState.from_tensors(
        {
            "means": directions * uniform(0.1, 0.8, NUM_GAUSSIANS, 1),
            "scales": uniform(0.06, 0.2, NUM_GAUSSIANS, 3).log(),
            "quats": torch.randn(NUM_GAUSSIANS, 4, generator=generator),
            "opacities": uniform(0.7, 0.97, NUM_GAUSSIANS).logit(),
            "sh0": ((uniform(0.05, 0.95, NUM_GAUSSIANS, 3) - 0.5) / SH_C0)[:, None],
            "shN": torch.zeros(NUM_GAUSSIANS, 0, 3),
        }
    )


def focal_length(width: int) -> float:
    """In pixels."""
    return width / 2 / math.tan(FIELD_OF_VIEW / 2)


def orbit_poses(num_views: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(num_views, 4, 4) camera-to-world matrices, OpenGL axes, looking at the origin from around it; z is up."""
    poses = np.zeros((num_views, 4, 4))
    for i in range(num_views):
        turn = 2 * math.pi * i / num_views
        rise = math.radians(20 + 15 * math.sin(3 * turn))
        backward = np.array([math.cos(rise) * math.cos(turn), math.cos(rise) * math.sin(turn), math.sin(rise)])
        right = np.array([-math.sin(turn), math.cos(turn), 0.0])
        poses[i, :3, :3] = np.stack([right, np.cross(backward, right), backward], axis=1)
        poses[i, :3, 3] = DISTANCE * backward
        poses[i, 3, 3] = 1
    return poses


@torch.no_grad()
def tiny_views(num_views: int, width: int, height: int, seed: int = 0) -> list[TinyView]:
    """Pictures of the scene from all around."""
    poses = orbit_poses(num_views)
    focal = focal_length(width)
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    opencv = torch.from_numpy(poses * np.array([1.0, -1.0, -1.0, 1.0])).float()
    view = View(opencv, K.expand(num_views, 3, 3), width, height)
    payload = Splat3DGSRenderer().render(tiny_gaussians(seed), view, RenderOptions(render_mode="RGB+ED"))
    depths = payload.depths
    assert depths is not None
    return [
        TinyView(pose, rgb.clamp(0, 1).numpy(), alpha[..., 0].numpy(), depth[..., 0].numpy())
        for pose, rgb, alpha, depth in zip(poses, payload.renders, payload.alphas, depths, strict=True)
    ]


def write_tiny_scene(
    folder: Path,
    *,
    num_views: int = 8,
    width: int = 32,
    height: int = 24,
    masks: bool = False,
    rgba: bool = False,
    depth: bool = False,
    normals: bool = False,
    seed: int = 0,
) -> Path:
    """Write a data set in nerfstudio's format: transforms.json, images/*.png and sparse_pc.ply.

    Args:
        folder: made where it does not exist.
        num_views: number of pictures.
        width: of each, in pixels.
        height: of each, in pixels.
        masks: also masks/*.png, which exclude a block in a corner.
        rgba: images have an alpha channel.
        depth: also depth/*.png, 16 bits, in thousandths of a world unit.
        normals: also normals/*.png, which are (0, 0.6, -0.8) everywhere.
        seed: of the scene.

    Returns:
        The folder.
    """
    focal = focal_length(width)
    meta: dict[str, Any] = {
        "camera_model": "OPENCV",
        "w": width, "h": height, "fl_x": focal, "fl_y": focal, "cx": width / 2, "cy": height / 2,
        "ply_file_path": "sparse_pc.ply",
        "frames": [],
    }  # fmt: skip
    for i, view in enumerate(tiny_views(num_views, width, height, seed)):
        name = f"frame_{i:05d}.png"
        frame: dict[str, Any] = {"file_path": f"images/{name}", "transform_matrix": view.cam_to_world.tolist()}
        _save(folder / "images" / name, _rgba(view) if rgba else _to_bytes(view.rgb))
        if masks:
            frame["mask_path"] = f"masks/{name}"
            _save(folder / "masks" / name, corner_mask(width, height).astype(np.uint8) * 255)
        if depth:
            frame["depth_file_path"] = f"depth/{name}"
            _save(folder / "depth" / name, np.round(view.depth * 1000).astype(np.uint16))
        if normals:
            frame["normal_file_path"] = f"normals/{name}"
            _save(folder / "normals" / name, np.tile(_to_bytes(NORMAL * 0.5 + 0.5), (height, width, 1)))
        meta["frames"].append(frame)
    write_points(folder / "sparse_pc.ply", seed)
    (folder / "transforms.json").write_text(json.dumps(meta, indent=1))
    return folder


def paint_block(path: Path) -> None:
    """Paint a red block into the middle of a picture, which no other shows."""
    with Image.open(path) as image:
        pixels = np.array(image)
    height, width = pixels.shape[:2]
    pixels[height // 4 : height * 3 // 4, width // 3 : width * 2 // 3] = [255, 0, 0]
    _save(path, pixels)


def write_tiny_colmap(
    folder: Path, *, num_views: int = 8, width: int = 32, height: int = 24, seed: int = 0, model: str = "sparse/0"
) -> Path:
    """Write a data set in COLMAP's layout: images/*.png and a model as text.

    Args:
        folder: made where it does not exist.
        num_views: number of pictures.
        width: of each, in pixels.
        height: of each, in pixels.
        seed: of the scene.
        model: where cameras.txt, images.txt and points3D.txt lie; nerfstudio looks in colmap/sparse/0 unless told.

    Returns:
        The folder.
    """
    focal = focal_length(width)
    images: list[str] = []
    for i, view in enumerate(tiny_views(num_views, width, height, seed)):
        name = f"frame_{i:05d}.png"
        _save(folder / "images" / name, _to_bytes(view.rgb))
        world_to_cam = np.linalg.inv(view.cam_to_world * np.array([1.0, -1.0, -1.0, 1.0]))
        x, y, z, w = Rotation.from_matrix(world_to_cam[:3, :3]).as_quat()
        numbers = [w, x, y, z, *world_to_cam[:3, 3]]
        images += [f"{i + 1} {' '.join(repr(float(n)) for n in numbers)} 1 {name}", ""]
    state = tiny_gaussians(seed)
    points = [
        f"{i + 1} {' '.join(repr(float(n)) for n in xyz)} {' '.join(str(n) for n in rgb)} 0.5 1 {i}"
        for i, (xyz, rgb) in enumerate(zip(state.means.tolist(), _seed_colors(state).tolist(), strict=True))
    ]
    target = folder / model
    target.mkdir(parents=True, exist_ok=True)
    camera = f"1 PINHOLE {width} {height} {focal} {focal} {width / 2} {height / 2}"
    (target / "cameras.txt").write_text(f"# one camera\n{camera}\n")
    (target / "images.txt").write_text("\n".join(["# two lines an image", *images]) + "\n")
    (target / "points3D.txt").write_text("\n".join(["# one line a point", *points]) + "\n")
    return folder


def write_tiny_blender(folder: Path, *, num_views: int = 8, width: int = 32, height: int = 24, seed: int = 0) -> Path:
    """Write a data set in the format of NeRF's synthetic scenes: transforms_{train,val,test}.json, RGBA, no points.

    Every fourth picture is for validation and, once more, for testing.
    """
    frames: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
    for i, view in enumerate(tiny_views(num_views, width, height, seed)):
        for split in ("val", "test") if i % 4 == 3 else ("train",):
            path = f"./{split}/r_{len(frames[split])}"
            _save(folder / f"{path}.png", _rgba(view))
            frames[split].append({"file_path": path, "transform_matrix": view.cam_to_world.tolist()})
    for split, rows in frames.items():
        meta = {"camera_angle_x": FIELD_OF_VIEW, "frames": rows}
        (folder / f"transforms_{split}.json").write_text(json.dumps(meta, indent=1))
    return folder


def corner_mask(width: int, height: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(height, width), False in a block at the upper left: a quarter of each side."""
    mask = np.ones((height, width), bool)
    mask[: height // 4, : width // 4] = False
    return mask


def write_points(path: Path, seed: int = 0) -> None:
    """Write the Gaussians' centres and colours as a PLY point cloud."""
    state = tiny_gaussians(seed)
    rows = np.empty(len(state), [(n, "<f4") for n in "xyz"] + [(n, "u1") for n in ("red", "green", "blue")])
    for column, name in enumerate("xyz"):
        rows[name] = state.means.detach()[:, column].numpy()
    for column, name in enumerate(("red", "green", "blue")):
        rows[name] = _seed_colors(state)[:, column]
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")], byte_order="<").write(str(path))


def _seed_colors(state: SplatTrainingState) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return _to_bytes((state.sh0.detach()[:, 0] * SH_C0 + 0.5).numpy())


def _rgba(view: TinyView) -> np.ndarray[Any, np.dtype[np.uint8]]:
    alpha = view.alpha[..., None]
    return _to_bytes(np.concatenate([view.rgb / np.maximum(alpha, 1e-6), alpha], axis=-1))


def _to_bytes(values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)


def _save(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
