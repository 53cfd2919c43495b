"""True views of the made scene, and short runs that train on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.plugins.types import MethodSpecification
from nerfstudio.scripts import train

from splatkit_ns.mesh.surface import Mesh
from splatkit_ns.mesh.views import DepthView
from tests.made_scene import HEIGHT, WIDTH, MadeView, intrinsics
from tests.plugin.helpers import forget_writers, run_config

OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


def true_view(view: MadeView) -> DepthView:
    """What a perfect renderer would see."""
    height, width = view.depth.shape
    return DepthView(
        view.depth.astype(np.float32),
        view.rgb.astype(np.float32),
        intrinsics(width, height),
        view.cam_to_world @ OPENCV,
    )


def coarser(view: DepthView, factor: int) -> DepthView:
    """The view with fewer pixels: of each square, the one in the middle."""
    K = view.K.copy()
    K[:2] /= factor
    start = factor // 2
    return replace(
        view, depth=view.depth[start::factor, start::factor], color=view.color[start::factor, start::factor], K=K
    )


def wall(distance: float, width: int = WIDTH, height: int = HEIGHT) -> DepthView:
    """A camera at the origin that looks along z at a wall."""
    return DepthView(
        np.full((height, width), distance, np.float32),
        np.full((height, width, 3), 0.5, np.float32),
        intrinsics(width, height),
        np.eye(4),
    )


def tetrahedron(size: float, shift: float = 0.0) -> Mesh:
    """Four triangles, outward."""
    corners = size * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32) + np.float32(shift)
    triangles = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    return Mesh(corners, triangles, np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3))


def together(*meshes: Mesh) -> Mesh:
    """All of them as one mesh, not connected."""
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.triangles + start for mesh, start in zip(meshes, starts, strict=False)]),
        np.concatenate([mesh.colors for mesh in meshes]),
    )


def short_run(data: Path, output: Path, method: MethodSpecification, steps: int, device: str, **loss: Any) -> Path:
    """Train on all photographs of the made scene, from small opaque Gaussians.

    Args:
        data: the made scene.
        output: an empty folder.
        method: what trains.
        steps: of the run.
        device: cpu or cuda.
        loss: fields of its loss.

    Returns:
        The run's config.yml.
    """
    config = run_config(data, output, steps=steps, method=method)
    config.machine.device_type = device
    parser: Any = config.pipeline.datamanager.dataparser
    parser.eval_mode = "all"
    config.pipeline.model.init_opacity, config.pipeline.model.init_scale = 0.5, 0.5
    for name, value in loss.items():
        setattr(config.pipeline.model.loss_fn, name, value)
    train.main(config)
    forget_writers()
    return config.get_base_dir() / "config.yml"
