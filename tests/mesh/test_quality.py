"""Meshes of trained runs against the made scene's true surfaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open3d as o3d
from nerfstudio.plugins.types import MethodSpecification
from nerfstudio.scripts import train

from splatkit_ns import methods
from splatkit_ns.mesh.command import make_mesh
from splatkit_ns.mesh.options import MeshOptions
from splatkit_ns.mesh.surface import Mesh
from tests.made_scene import Array
from tests.mesh_quality import MeshQuality, mesh_quality
from tests.plugin.helpers import forget_writers, run_config

STEPS = 300


def quality(data: Path, output: Path, seen: Array, method: MethodSpecification, **loss: Any) -> MeshQuality:
    """Train for a short while, and measure the mesh.

    Args:
        data: the made scene.
        output: an empty folder.
        seen: see `mesh_quality`.
        method: what trains.
        loss: fields of its loss.
    """
    config = run_config(data, output, steps=STEPS, method=method)
    parser: Any = config.pipeline.datamanager.dataparser
    parser.eval_mode = "all"
    config.pipeline.model.init_opacity, config.pipeline.model.init_scale = 0.5, 0.5
    for name, value in loss.items():
        setattr(config.pipeline.model.loss_fn, name, value)
    train.main(config)
    forget_writers()
    path = output / "mesh.ply"
    make_mesh(MeshOptions(load_config=config.get_base_dir() / "config.yml", output=path, frame="world"))
    mesh: Any = o3d.io.read_triangle_mesh(str(path))
    return mesh_quality(Mesh(*map(np.asarray, (mesh.vertices, mesh.triangles, mesh.vertex_colors))), seen)


def test_discs_lie_nearer_to_the_surface_than_ellipsoids(made_data: Path, seen: Array, tmp_path: Path) -> None:
    """Bounds in the scene's units: a pixel covers 0.025. docs/benchmarks.md has the figures of longer runs."""
    terms = {"distortion_start_iter": 60, "normal_consistency_start_iter": 90}
    discs = quality(made_data, tmp_path / "discs", seen, methods.splatkit_2dgs, **terms)
    ellipsoids = quality(made_data, tmp_path / "ellipsoids", seen, methods.splatkit_3dgs_adc)
    assert discs.distance < 0.009
    assert discs.median_angle < 7
    assert discs.completeness > 0.94
    assert discs.distance < 0.8 * ellipsoids.distance
    assert discs.angle < ellipsoids.angle
    assert discs.median_angle < ellipsoids.median_angle
