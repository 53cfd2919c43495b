"""How far a mesh of the made scene is from the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import open3d as o3d

from splatkit_ns.mesh.surface import Mesh
from tests.made_scene import signed_distance, surface_normals

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class MeshQuality:
    """Lengths in units of the made scene, whose ball has a radius of 0.45."""

    distance: float
    """Mean distance of the mesh's points from the true surface."""
    gap: float
    """Mean distance of what the cameras saw from the mesh."""
    completeness: float
    """Share of what the cameras saw that is within the tolerance of the mesh."""
    angle: float
    """Mean angle between the true normal of what the cameras saw and that of the nearest triangle, in degrees."""
    median_angle: float
    """The median of the same, which edges and corners hardly change."""


def mesh_quality(mesh: Mesh, seen: Array, tolerance: float = 0.02, samples: int = 100_000) -> MeshQuality:
    """Measure a mesh against the made scene.

    Args:
        mesh: in the frame of the scene.
        seen: points of the true surfaces that the cameras saw, (N, 3), from `seen_points`.
        tolerance: for `MeshQuality.completeness`; the default is about a pixel.
        samples: points of the mesh to look at, drawn evenly by area.
    """
    scene: Any = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor(mesh.vertices.astype(np.float32)), o3d.core.Tensor(mesh.triangles.astype(np.uint32))
    )
    nearest = scene.compute_closest_points(o3d.core.Tensor(seen.astype(np.float32)))
    gaps = np.linalg.norm(nearest["points"].numpy() - seen, axis=1)
    cosines = (nearest["primitive_normals"].numpy() * surface_normals(seen)).sum(axis=1)
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    return MeshQuality(
        distance=float(np.abs(signed_distance(points_on(mesh, samples))).mean()),
        gap=float(gaps.mean()),
        completeness=float((gaps <= tolerance).mean()),
        angle=float(angles.mean()),
        median_angle=float(np.median(angles)),
    )


def points_on(mesh: Mesh, number: int, seed: int = 0) -> Array:
    """Points drawn evenly from a mesh's area, (number, 3)."""
    generator = np.random.default_rng(seed)
    areas = np.linalg.norm(mesh.triangle_normals(), axis=1)
    chosen = mesh.triangles[generator.choice(len(areas), number, p=areas / areas.sum())]
    a, b = np.sort(generator.random((2, number, 1)), axis=0)
    corners = mesh.vertices[chosen].astype(np.float64)
    return a * corners[:, 0] + (b - a) * corners[:, 1] + (1 - b) * corners[:, 2]
