"""Conversions between the frame in which nerfstudio trains and others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from splatkit_ns.formats.frames import UpAxis, up_axis
from splatkit_ns.formats.gaussians import DoubleArray
from splatkit_ns.mesh.surface import Mesh

FAR = 100.0
"""Meshes farther from the origin than this many times their size are written with an offset."""


@dataclass(frozen=True)
class SceneFrame:
    """The move of a scene by a dataparser: x_nerfstudio = scale (rotation x + shift)."""

    rotation: DoubleArray
    """(3, 3), orthogonal."""
    shift: DoubleArray
    """(3,), in units of the frame before the move."""
    scale: float = 1.0
    """nerfstudio's units per unit of the frame before the move."""

    @classmethod
    def identity(cls) -> SceneFrame:
        """A scene that was not moved."""
        return cls(np.eye(3), np.zeros(3))

    @classmethod
    def from_dataparser(cls, transform: DoubleArray, scale: float) -> SceneFrame:
        """From a dataparser's ``dataparser_transform``, (3, 4), and ``dataparser_scale``."""
        return cls(transform[:, :3], transform[:, 3], scale)

    def to_original(self, points: DoubleArray) -> DoubleArray:
        """Points (N, 3) of nerfstudio's frame in the frame before the move."""
        return (points / self.scale - self.shift) @ np.linalg.inv(self.rotation).T

    def offset_of(self, mesh: Mesh) -> DoubleArray | None:
        """The offset (3,), in whole units, to take off the mesh in the frame before the move; None for none.

        Files hold single precision, whose steps are of 0.5 at 5,000,000.
        """
        vertices = self.to_original(mesh.vertices.astype(np.float64))
        low, high = vertices.min(0), vertices.max(0)
        far = np.abs(vertices).max() > FAR * (high - low).max()
        return np.rint((low + high) / 2) if far else None

    def mesh_to_original(self, mesh: Mesh, offset: DoubleArray | None = None) -> Mesh:
        """The mesh in the frame before the move; its triangles face outwards even if that is a mirror image.

        Args:
            mesh: in nerfstudio's frame.
            offset: (3,), taken off in double precision.
        """
        exact = self.to_original(mesh.vertices.astype(np.float64)) - (0 if offset is None else offset)
        vertices = exact.astype(np.float32)
        mirrored = np.linalg.det(self.rotation) < 0
        triangles = mesh.triangles[:, ::-1] if mirrored else mesh.triangles
        return replace(mesh, vertices=vertices, triangles=triangles)


def turned(mesh: Mesh, offset: DoubleArray | None, up: UpAxis) -> tuple[Mesh, DoubleArray | None]:
    """A mesh whose z axis is up, and the offset (3,) that was taken off, turned so that another axis is."""
    turn = up_axis(up)
    vertices = turn.apply(mesh.vertices.astype(np.float64)).astype(np.float32)
    return replace(mesh, vertices=vertices), None if offset is None else turn.apply(offset)
