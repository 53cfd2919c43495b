"""A triangle mesh, and operations on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from splatkit_ns.formats.gaussians import DoubleArray, FloatArray


@dataclass(frozen=True)
class Mesh:
    """Triangles with colours at their corners."""

    vertices: FloatArray
    """(V, 3)."""
    triangles: NDArray[np.int64]
    """(T, 3) rows of `vertices`, counterclockwise seen from outside."""
    colors: FloatArray
    """(V, 3) in [0, 1]."""

    @classmethod
    def empty(cls) -> Mesh:
        """No triangle at all."""
        none = np.zeros((0, 3), np.float32)
        return cls(none, np.zeros((0, 3), np.int64), none)

    def triangle_normals(self) -> DoubleArray:
        """Outward normals times twice the area, (T, 3)."""
        a, b, c = (self.vertices[self.triangles[:, i]].astype(np.float64) for i in range(3))
        return np.cross(b - a, c - a)

    def vertex_normals(self) -> DoubleArray:
        """Unit normals, (V, 3): means over the triangles of a vertex, weighted by area."""
        normals, sums = self.triangle_normals(), np.zeros((len(self.vertices), 3))
        for corner in range(3):
            for axis in range(3):
                sums[:, axis] += np.bincount(self.triangles[:, corner], normals[:, axis], len(self.vertices))
        return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-30)


def in_fixed_order(mesh: Mesh) -> Mesh:
    """The same mesh with vertices and triangles sorted, so that it does not depend on the order of the threads."""
    order = np.lexsort(mesh.vertices.T)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    triangles = place[mesh.triangles]
    first = triangles.argmin(axis=1)[:, None]  # turned, not mirrored, to begin with the smallest
    triangles = np.take_along_axis(triangles, (first + np.arange(3)) % 3, axis=1)
    return Mesh(mesh.vertices[order], triangles[np.lexsort(triangles.T[::-1])], mesh.colors[order])


def joined(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh of all triangles, in which vertices at the same place are one; at least one mesh."""
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    vertices = np.concatenate([mesh.vertices for mesh in meshes])
    colors = np.concatenate([mesh.colors for mesh in meshes])
    triangles = np.concatenate([mesh.triangles + start for mesh, start in zip(meshes, starts[:-1], strict=True)])
    order = np.lexsort(vertices.T)
    is_new = np.ones(len(order), bool)
    is_new[1:] = (np.diff(vertices[order], axis=0) != 0).any(axis=1)
    place = np.empty(len(order), np.int64)
    place[order] = np.cumsum(is_new) - 1
    return Mesh(vertices[order[is_new]], place[triangles], colors[order[is_new]])


def drop_small_components(mesh: Mesh, keep: int, min_share: float) -> tuple[Mesh, int]:
    """Keep the largest connected pieces.

    Args:
        mesh: its triangles share vertices where they meet.
        keep: the most pieces to keep; 0 means any number.
        min_share: pieces with a smaller share of all triangles are dropped.

    Returns:
        The remaining mesh, and the number of pieces that were dropped.
    """
    if len(mesh.triangles) == 0:
        return mesh, 0
    rows, columns = mesh.triangles[:, [0, 1]].ravel(), mesh.triangles[:, [1, 2]].ravel()
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(len(mesh.vertices),) * 2)
    piece_of_vertex: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    piece = piece_of_vertex[mesh.triangles[:, 0]]
    sizes = np.bincount(piece)
    order = np.argsort(-sizes, kind="stable")
    wanted = order[: keep or None]
    wanted = wanted[sizes[wanted] >= max(1, min_share * len(mesh.triangles))]
    stays = np.isin(piece, wanted)
    return selected(mesh, stays), int(np.count_nonzero(sizes)) - len(wanted)


def selected(mesh: Mesh, triangles: NDArray[np.bool_]) -> Mesh:
    """These triangles, and the vertices that they need."""
    chosen = mesh.triangles[triangles]
    used = np.zeros(len(mesh.vertices), bool)
    used[chosen] = True
    new_index = np.cumsum(used) - 1
    return replace(mesh, vertices=mesh.vertices[used], triangles=new_index[chosen], colors=mesh.colors[used])
