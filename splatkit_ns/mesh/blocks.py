"""The blocks of a voxel grid that a surface needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.mesh.views import DepthView

BLOCK_VOXELS = 16
"""Voxels along a side of a block."""


def touched_blocks(view: DepthView, voxel_size: float, truncation: float) -> NDArray[np.int32]:
    """Blocks within the truncation distance of the surfaces in a view, (N, 3) integer coordinates.

    Block i of an axis spans from i times the block's side to i + 1 times.

    Args:
        view: depth 0 means no surface.
        voxel_size: in world units.
        truncation: along the ray, in world units.
    """
    block = voxel_size * BLOCK_VOXELS
    y, x = np.nonzero(view.depth)
    if len(x) == 0:
        return np.zeros((0, 3), np.int32)
    depth = view.depth[y, x].astype(np.float64)
    directions = view.directions(y, x)
    lengths = np.linalg.norm(directions, axis=1)
    steps = np.linspace(-truncation, truncation, 2 + int(np.ceil(4 * truncation / block)))
    found: list[NDArray[np.int64]] = []
    for step in steps:
        points = view.cam_to_world[:3, 3] + directions * (depth + step / lengths)[:, None]
        keys = pack(np.floor(points / block).astype(np.int64))
        changes = np.flatnonzero(np.diff(keys, prepend=~keys[:1]))  # neighbours mostly share a block: less to sort
        found.append(np.unique(keys[changes]))
    return unpack(np.unique(np.concatenate(found)))


def count_blocks(views: Iterable[DepthView], voxel_size: float, truncation: float) -> int:
    """Estimate how many blocks a fusion of these views at full resolution will need.

    Views may be coarse. If their pixels are farther apart than blocks are wide, cells of 2ᵏ blocks a side are
    counted, and assumed to be crossed by a surface: 4ᵏ blocks across, and as many along the ray as the truncation
    needs.

    Args:
        views: at any resolution.
        voxel_size: see `touched_blocks`.
        truncation: see `touched_blocks`.
    """
    block = voxel_size * BLOCK_VOXELS
    cells: dict[int, NDArray[np.int64]] = {}
    for view in views:
        spacing = np.maximum(view.depth / view.focal, 1e-30)
        levels = np.maximum(0, np.ceil(np.log2(spacing / block))).astype(np.int64)
        for level in np.unique(levels[view.depth > 0]).tolist():
            some = replace(view, depth=np.where(levels == level, view.depth, np.float32(0)))
            keys = pack(touched_blocks(some, voxel_size * 2**level, truncation).astype(np.int64))
            cells[level] = np.union1d(cells.get(level, keys), keys)
    count = 0.0
    finer: list[tuple[int, NDArray[np.int64]]] = []
    for level, keys in sorted(cells.items()):
        for other, known in finer:  # a surface that a nearer view shows more finely is counted once
            keys = np.setdiff1d(keys, pack(unpack(known).astype(np.int64) >> (level - other)))
        finer.append((level, keys))
        along = (1 + 2 * truncation / block) / (1 + 2 * truncation / (block * 2**level))
        count += len(keys) * 4**level * along
    return round(count)


def within(blocks: NDArray[Any], low: NDArray[np.int32], high: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether each of the blocks (N, 3) lies in a box, from low to before high, (3,) each."""
    return np.logical_and.reduce((blocks >= low) & (blocks < high), axis=1)


def boxes(blocks: NDArray[np.int32], most: int) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Boxes, each from low to before high, in which all blocks lie, each in one.

    Args:
        blocks: (N, 3), N at least 1.
        most: the most blocks in a box and directly beside it; at least 27, which a box of one block can have.
    """
    pending = [(blocks.min(axis=0), blocks.max(axis=0) + 1)]
    while pending:
        low, high = pending.pop()
        inside = blocks[within(blocks, low, high)]
        if len(inside) == 0:
            continue
        if np.count_nonzero(within(blocks, low - 1, high + 1)) <= most:
            yield low, high
            continue
        low, high = inside.min(axis=0), inside.max(axis=0) + 1
        axis = int((high - low).argmax())
        middle = int(np.clip(np.median(inside[:, axis]), low[axis] + 1, high[axis] - 1))
        below, above = high.copy(), low.copy()
        below[axis] = above[axis] = middle
        pending += [(low, below), (above, high)]


_BITS = 21
_OFFSET = 1 << (_BITS - 1)


def pack(coordinates: NDArray[np.int64]) -> NDArray[np.int64]:
    """Three integers (N, 3), each from -2²⁰ to 2²⁰ - 1, as one (N,)."""
    shifted = coordinates + _OFFSET
    return (shifted[:, 0] << 2 * _BITS) | (shifted[:, 1] << _BITS) | shifted[:, 2]


def unpack(packed: NDArray[np.int64]) -> NDArray[np.int32]:
    """The integers (N, 3) that `pack` packed."""
    mask = (1 << _BITS) - 1
    columns = [packed >> 2 * _BITS, (packed >> _BITS) & mask, packed & mask]
    return (np.stack(columns, axis=1) - _OFFSET).astype(np.int32)
