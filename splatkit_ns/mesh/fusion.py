"""Fusing depth images into a truncated signed distance function (TSDF), and its surface as triangles.

Curless and Levoy, "A Volumetric Method for Building Complex Models from Range Images", 1996; open3d does the
arithmetic. Space is stored in blocks of 16³ voxels, and only where a surface is near.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import open3d as o3d
from numpy.typing import NDArray

from splatkit_ns.mesh.blocks import BLOCK_VOXELS, boxes, touched_blocks, within
from splatkit_ns.mesh.refinement import refined
from splatkit_ns.mesh.scale import FusionSizes
from splatkit_ns.mesh.surface import Mesh, in_fixed_order, joined, selected
from splatkit_ns.mesh.views import DepthView

_ATTRIBUTES = ("tsdf", "weight", "color")
_MARGIN = 1.25
"""The factor of the estimated number of blocks to make room for: to grow, the volume must be in memory twice."""
_BLOCKS_AT_ONCE = 512
"""The most blocks to give to open3d at once: it makes room for all of them, also for those that it has already."""
BLOCKS_AT_ONCE_EXTRACTED = 2**31 // (BLOCK_VOXELS**3 * 16) - 1
"""Blocks whose triangles open3d can make at once: with more its 32-bit offsets, of 16 bytes a voxel, overflow, and it
writes anywhere."""
BLOCKS_OF_A_PART = BLOCKS_AT_ONCE_EXTRACTED // 4
"""The most blocks of a part, if the volume is taken apart because it has more than that; each part is a copy."""


class Volume:
    """A TSDF with colours, which grows by blocks as views are added.

    Args:
        voxel_size: side of a voxel, in world units.
        truncation: distances are known up to this far from a surface, in world units.
        expected_blocks: the number of blocks to make room for; more of them cost a copy of the volume.
    """

    def __init__(self, voxel_size: float, truncation: float, expected_blocks: int) -> None:
        self.voxel_size = voxel_size
        self.truncation = truncation
        self._grid = _new_grid(voxel_size, int(expected_blocks * _MARGIN) + _BLOCKS_AT_ONCE)

    @property
    def num_blocks(self) -> int:
        """Number of blocks in use."""
        return int(self._grid.hashmap().size())

    def integrate(self, view: DepthView) -> None:
        """Add one view; pixels with depth 0 are ignored."""
        blocks = touched_blocks(view, self.voxel_size, self.truncation)
        if len(blocks) == 0:
            return
        tensor: Any = o3d.core.Tensor
        image: Any = o3d.t.geometry.Image
        images = [image(tensor(np.ascontiguousarray(values, np.float32))) for values in (view.depth, view.color)]
        camera = tensor(view.K), tensor(np.linalg.inv(view.cam_to_world))
        for start in range(0, len(blocks), _BLOCKS_AT_ONCE):
            some = blocks[start : start + _BLOCKS_AT_ONCE]
            self._make_room(len(some))
            self._grid.integrate(
                tensor(some),
                *images,
                *camera,
                depth_scale=1.0,
                depth_max=float(view.depth.max()) * 2,  # pixels that are too far already have depth 0
                trunc_voxel_multiplier=float(self.truncation / self.voxel_size),
            )

    def extract(self, min_weight: float = 0.5) -> Mesh:
        """The surface where the distance is 0, seen by at least this many views; colours included."""
        if self.num_blocks == 0:
            return Mesh.empty()
        if self.num_blocks <= BLOCKS_AT_ONCE_EXTRACTED:
            return in_fixed_order(_triangles(self._grid, min_weight))
        hashmap = self._grid.hashmap()
        rows = hashmap.active_buf_indices().numpy().astype(np.int64)
        blocks: NDArray[np.int32] = hashmap.key_tensor().numpy()[rows]
        parts: list[Mesh] = []
        for low, high in boxes(blocks, BLOCKS_OF_A_PART):
            needed = rows[within(blocks, low - 1, high + 1)]  # the cells of the last voxels reach into the next block
            mesh = _triangles(self._copy_of(needed), min_weight)
            cells = np.floor(mesh.vertices[mesh.triangles].mean(axis=1) / self.voxel_size)
            parts.append(selected(mesh, within(cells // BLOCK_VOXELS, low, high)))
        return in_fixed_order(joined(parts))

    def _copy_of(self, rows: NDArray[np.int64]) -> Any:
        """A grid of some rows of the hash map."""
        hashmap, chosen = self._grid.hashmap(), o3d.core.Tensor(rows)
        grid = _new_grid(self.voxel_size, len(rows))
        grid.hashmap().insert(hashmap.key_tensor()[chosen], [values[chosen] for values in hashmap.value_tensors()])
        return grid

    def _make_room(self, number: int) -> None:
        """Make room for more blocks in the volume, by less than the doubling that open3d would choose."""
        hashmap = self._grid.hashmap()
        needed = int(hashmap.size()) + number
        if needed > hashmap.capacity():
            hashmap.reserve(int(needed * _MARGIN))


def _new_grid(voxel_size: float, block_count: int) -> Any:
    core: Any = o3d.core
    return o3d.t.geometry.VoxelBlockGrid(
        _ATTRIBUTES,
        (core.float32,) * 3,
        ((1), (1), (3)),
        voxel_size=voxel_size,
        block_resolution=BLOCK_VOXELS,
        block_count=block_count,
        device=core.Device("CPU:0"),
    )


def _triangles(grid: Any, min_weight: float) -> Mesh:
    mesh: Any = grid.extract_triangle_mesh(weight_threshold=min_weight)
    if "positions" not in mesh.vertex or len(mesh.vertex.positions) == 0:
        return Mesh.empty()
    return Mesh(
        vertices=mesh.vertex.positions.numpy(),
        triangles=mesh.triangle.indices.numpy().astype(np.int64),
        colors=np.clip(mesh.vertex.colors.numpy(), 0, 1),
    )


def fuse(views: Iterable[DepthView], sizes: FusionSizes) -> Mesh:
    """The surface that views of a scene agree on.

    Args:
        views: one after the other; only one is held at a time.
        sizes: of voxels, truncation and depth, from `choose_sizes`.
    """
    volume = Volume(sizes.voxel_size, sizes.truncation, sizes.num_blocks)
    for view in views:
        near = replace(view, depth=view.within(sizes.depth_limit))
        volume.integrate(refined(near, sizes.truncation))
    return volume.extract()
