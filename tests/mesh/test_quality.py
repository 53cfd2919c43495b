"""Meshes of trained runs against the made scene's true surfaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open3d as o3d
from nerfstudio.plugins.types import MethodSpecification

from splatkit_ns import methods
from splatkit_ns.mesh.command import make_mesh
from splatkit_ns.mesh.options import MeshOptions
from splatkit_ns.mesh.surface import Mesh
from tests.made_scene import Array
from tests.mesh.helpers import short_run
from tests.mesh_quality import MeshQuality, mesh_quality

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
    config = short_run(data, output, method, STEPS, "cpu", **loss)
    path = output / "mesh.ply"
    make_mesh(MeshOptions(load_config=config, output=path, frame="world"))
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
