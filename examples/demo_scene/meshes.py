"""Triangle meshes with the attributes that shading needs, placed in one scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class Mesh:
    """Triangles of one surface.

    Attributes:
        points: (V, 3) in scene units.
        normals: (V, 3), unit length, pointing outwards.
        local: (V, 3), where textures are computed: the coordinates before the surface was placed in the scene.
        triangles: (T, 3) rows of `points`.
    """

    points: Array
    normals: Array
    local: Array
    triangles: NDArray[np.int64]

    def placed(self, at: tuple[float, float, float], turn_degrees: float = 0.0, lean_degrees: float = 0.0) -> Mesh:
        """The mesh leant over about x, then turned about z, then moved; `local` stays."""
        turn, lean = np.radians([turn_degrees, lean_degrees])
        about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
        about_x = np.array([[1, 0, 0], [0, np.cos(lean), -np.sin(lean)], [0, np.sin(lean), np.cos(lean)]])
        rotation = about_z @ about_x
        return Mesh(self.points @ rotation.T + np.array(at), self.normals @ rotation.T, self.local, self.triangles)


def merge(meshes: list[Mesh]) -> Mesh:
    """One mesh of several."""
    offsets = np.cumsum([0] + [len(mesh.points) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.points for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.local for mesh in meshes]),
        np.concatenate([mesh.triangles + offset for mesh, offset in zip(meshes, offsets, strict=True)]),
    )


def _grid_triangles(rows: int, columns: int) -> NDArray[np.int64]:
    """(2 (rows-1) (columns-1), 3): the triangles of a grid of points stored row by row."""
    first = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    lower = np.stack([first, first + 1, first + columns], axis=1)
    upper = np.stack([first + 1, first + columns + 1, first + columns], axis=1)
    return np.concatenate([lower, upper])


def revolved(radii: Array, heights: Array, segments: int = 96) -> Mesh:
    """The surface that a smooth curve sweeps about the z axis.

    Args:
        radii, heights: (P,) the curve; walking along it, the outside is on the right.
        segments: the number of steps of a full turn.
    """
    angles = np.linspace(0, 2 * np.pi, segments + 1)
    tangent = np.stack([np.gradient(radii), np.gradient(heights)], axis=1)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def swept(across: Array, along: Array) -> Array:
        flat = across[:, None, None] * directions
        return np.concatenate([flat, np.broadcast_to(along[:, None, None], (*flat.shape[:2], 1))], axis=2).reshape(
            -1, 3
        )

    points = swept(radii, heights)
    normals = swept(tangent[:, 1], -tangent[:, 0])
    return Mesh(points, normals, points, _grid_triangles(len(radii), segments + 1))


def cylinder(radius: float, height: float, rings: int = 12, segments: int = 96) -> Mesh:
    """A cylinder that stands on z = 0, with a top and no bottom."""
    side = revolved(np.full(4, radius), np.linspace(0, height, 4), segments)
    top = revolved(np.linspace(radius, 1e-4, rings), np.full(rings, height), segments)
    return merge([side, top])


def sphere(radius: float, rings: int = 64) -> Mesh:
    """A sphere about the origin."""
    angles = np.linspace(-np.pi / 2 + 1e-3, np.pi / 2 - 1e-3, rings)
    return revolved(radius * np.cos(angles), radius * np.sin(angles), 2 * rings)


def torus(radius: float, tube: float) -> Mesh:
    """A ring about the z axis; `radius` is that of the tube's centre line."""
    angles = np.linspace(0, 2 * np.pi, 49)
    return revolved(radius + tube * np.cos(angles), tube * np.sin(angles), 128)


def box(size: tuple[float, float, float], steps: int = 20) -> Mesh:
    """A box that stands on z = 0 about the z axis, its edges sharp."""
    half = np.array(size) / 2
    u, v = (grid.ravel() for grid in np.meshgrid(np.linspace(-1, 1, steps), np.linspace(-1, 1, steps), indexing="ij"))
    faces: list[Mesh] = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            unit = np.empty((steps * steps, 3))
            unit[:, axis], unit[:, axis - 2], unit[:, axis - 1] = sign, u, v
            normal = np.zeros(3)
            normal[axis] = sign
            points = unit * half + np.array([0, 0, half[2]])
            faces.append(Mesh(points, np.tile(normal, (len(points), 1)), points, _grid_triangles(steps, steps)))
    return merge(faces)
