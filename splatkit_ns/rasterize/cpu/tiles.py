"""Lists of the Gaussians that touch each tile, front to back, for compositing.

There is one sort per frame, of the Gaussians by depth; tiles then receive them in that order by counting (each chunk of
the depth order has its own places in the lists), so no array of the length of the intersections is ever sorted. A tile
gets a Gaussian only if the ellipse where alpha reaches 1/255 truly crosses it, and only for the pixel rows that it
crosses.
"""

# Kernel arguments are scalars and arrays whose types numba infers; their shapes are in the docstrings.
# pyright: reportMissingParameterType=false

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from .parallel import run_parallel
from .scalar_math import LOG2_ALPHA_MIN, LOG2_E, PREFETCH, prefetch

TILE = 16
"""Side of a tile in pixels: one AVX-512 register of float32 per row."""
CHUNKS = 16
"""The number of pieces of the depth order that are processed in parallel; the result does not depend on it."""

# Columns of the per-Gaussian record that compositing reads (one cache line of 32 bytes in float32).
MEAN_X, MEAN_Y, L11, L21, L22, LOG2_OPACITY = 0, 1, 2, 3, 4, 5
RECORD = 8


@dataclass(frozen=True)
class TileLists:
    """The intersections of one camera's Gaussians with its tiles.

    M intersections, V visible Gaussians, tiles row by row.
    """

    width: int
    height: int
    tiles_x: int
    tiles_y: int
    records: npt.NDArray[Any]
    """(N, RECORD): mean, scaled Cholesky factor of the conic, log2 of the opacity; unset for unseen Gaussians."""
    offsets: npt.NDArray[np.int64]
    """(tiles + 1,): tile t owns intersections offsets[t] to offsets[t + 1], front to back."""
    gaussian_ids: npt.NDArray[np.int32]
    """(M,): the Gaussian of each intersection."""
    rows: npt.NDArray[np.uint8]
    """(M, 2): first row, and last row plus one, of the tile that the Gaussian reaches."""
    slots: npt.NDArray[np.int64]
    """(M,): the intersection's place when ordered by Gaussian, where backward writes its gradient."""
    slot_offsets: npt.NDArray[np.int64]
    """(N + 1,): slots of Gaussian g are slot_offsets[g] to slot_offsets[g + 1]."""
    schedule: npt.NDArray[np.int32]
    """(tiles,): order to work in, heaviest first."""


@numba.njit(cache=True, inline="always", error_model="numpy")
def _ellipse_reach(a: float, b: float, c: float, t: float, lo: float, hi: float) -> tuple[float, float]:
    """Return the range of x over the part of the ellipse a x² + 2 b x y + c y² <= t with lo <= y <= hi; empty: (1, -1).

    The right-most point of the whole ellipse is at y* = -(b / c) x*, x* = sqrt(t c / det); the ellipse is convex, so
    within a band the extreme is at the band's y nearest to y*. (SnugBox uses the same idea: Hanson et al., arXiv
    2412.00578.)
    """
    det = a * c - b * b
    y_max = math.sqrt(t * a / det)
    lo, hi = max(lo, -y_max), min(hi, y_max)
    if lo > hi:
        return 1.0, -1.0
    y_star = -b / c * math.sqrt(t * c / det)
    right, left = min(hi, max(lo, y_star)), min(hi, max(lo, -y_star))
    x_hi = (-b * right + math.sqrt(max(0.0, t * a - det * right * right))) / a
    x_lo = (-b * left - math.sqrt(max(0.0, t * a - det * left * left))) / a
    return x_lo, x_hi


@numba.njit(cache=True, inline="always", error_model="numpy")
def _tile_span(low: float, high: float, tiles: int) -> tuple[int, int]:
    """Return the tiles [first, last) along one axis that hold a pixel centre within [low, high] pixels."""
    if high < 0.0 or low > tiles * TILE:
        return 0, 0
    first = max(0, math.ceil(max(low, -1.0) - 0.5)) // TILE
    last = min(tiles * TILE - 1, math.floor(min(high, float(tiles * TILE)) - 0.5))
    return (first, last // TILE + 1) if last >= 0 else (0, 0)


@numba.njit(cache=True, inline="always", error_model="numpy")
def _ellipse(conic: Any, record: Any) -> tuple[float, float, float, float]:
    """Return (a, b, c, t) of the ellipse that holds every pixel with alpha >= 1/255, t widened for float32 rounding."""
    t = 2.0 / LOG2_E * max(0.0, float(record[LOG2_OPACITY]) - LOG2_ALPHA_MIN)
    return float(conic[0]), float(conic[1]), float(conic[2]), t * (1.0 + 1e-3) + 2e-3


@numba.njit(cache=True, error_model="numpy")
def _write_record(record: Any, mean: Any, conic: Any, opacity: float) -> None:
    """Factor sigma = (x, y) C (x, y)^T / 2 as u² + w², in base 2: alpha = 2^(log2 o - (l11 x + l21 y)² - (l22 y)²).

    A sum of squares cannot cancel below zero as the expanded form does in float32.
    """
    a, b, c = float(conic[0]), float(conic[1]), float(conic[2])
    scale = math.sqrt(0.5 * LOG2_E)
    root = math.sqrt(a)
    record[MEAN_X], record[MEAN_Y] = mean[0], mean[1]
    record[L11] = scale * root
    record[L21] = scale * b / root
    record[L22] = scale * math.sqrt(max(0.0, c - b * b / a))
    record[LOG2_OPACITY] = math.log2(opacity)


@numba.njit(cache=True, error_model="numpy")
def _count_chunk(
    first, last, order, means2d, conics, opacities, tiles_x, tiles_y, height, records, tile_counts, counts
):
    for rank in range(first, last):
        ahead = order[min(rank + PREFETCH, last - 1)]
        for rows_of in (means2d, conics, records):
            prefetch(rows_of, ahead)
        g = order[rank]
        _write_record(records[g], means2d[g], conics[g], float(opacities[g]))
        a, b, c, t = _ellipse(conics[g], records[g])
        x, y = float(means2d[g, 0]), float(means2d[g, 1])
        det = a * c - b * b
        if not (det > 0.0 and a > 0.0 and c > 0.0):
            continue
        reach = math.sqrt(t * a / det)
        row_first, row_last = _tile_span(y - reach, y + reach, tiles_y)
        total = 0
        for row in range(row_first, row_last):
            top, bottom = row * TILE + 0.5, min(row * TILE + TILE, height) - 0.5
            low, high = _ellipse_reach(a, b, c, t, top - y, bottom - y)
            if low > high:
                continue
            column_first, column_last = _tile_span(x + low, x + high, tiles_x)
            for column in range(column_first, column_last):
                tile_counts[row * tiles_x + column] += 1
            total += max(0, column_last - column_first)
        counts[g] = total


@numba.njit(cache=True, error_model="numpy")
def _fill_chunk(
    first, last, order, means2d, conics, records, tiles_x, tiles_y, width, height, slot_offsets, cursors,
    gaussian_ids, rows, slots,
):  # fmt: skip
    for rank in range(first, last):
        ahead = order[min(rank + PREFETCH, last - 1)]
        for rows_of in (means2d, conics, records):
            prefetch(rows_of, ahead)
        g = order[rank]
        slot = slot_offsets[g]
        if slot == slot_offsets[g + 1]:
            continue
        a, b, c, t = _ellipse(conics[g], records[g])
        x, y = float(means2d[g, 0]), float(means2d[g, 1])
        reach = math.sqrt(t * a / (a * c - b * b))
        row_first, row_last = _tile_span(y - reach, y + reach, tiles_y)
        for row in range(row_first, row_last):
            top, bottom = row * TILE + 0.5, min(row * TILE + TILE, height) - 0.5
            low, high = _ellipse_reach(a, b, c, t, top - y, bottom - y)
            if low > high:
                continue
            column_first, column_last = _tile_span(x + low, x + high, tiles_x)
            for column in range(column_first, column_last):
                at = cursors[row * tiles_x + column]
                cursors[row * tiles_x + column] = at + 1
                left, right = column * TILE + 0.5, min(column * TILE + TILE, width) - 0.5
                low_y, high_y = _ellipse_reach(c, b, a, t, left - x, right - x)
                gaussian_ids[at] = g
                rows[at, 0] = max(0, min(TILE, math.ceil(max(low_y + y - top, -1.0))))
                rows[at, 1] = max(rows[at, 0], min(bottom - top, math.floor(high_y + y - top)) + 1)
                slots[at] = slot
                slot += 1


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _count(
    first, last, order, means2d, conics, opacities, tiles_x, tiles_y, height, records, tile_counts, counts
):  # fmt: skip
    visible = order.shape[0]
    for chunk in range(first, last):
        _count_chunk(
            chunk * visible // CHUNKS, (chunk + 1) * visible // CHUNKS, order, means2d, conics, opacities, tiles_x,
            tiles_y, height, records, tile_counts[chunk], counts,
        )  # fmt: skip


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _fill(
    first, last, order, means2d, conics, records, tiles_x, tiles_y, width, height, slot_offsets, cursors,
    gaussian_ids, rows, slots,
):  # fmt: skip
    visible = order.shape[0]
    for chunk in range(first, last):
        _fill_chunk(
            chunk * visible // CHUNKS, (chunk + 1) * visible // CHUNKS, order, means2d, conics, records, tiles_x,
            tiles_y, width, height, slot_offsets, cursors[chunk], gaussian_ids, rows, slots,
        )  # fmt: skip


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _counts_to_cursors(tile_counts, offsets):
    """Turn (CHUNKS, tiles) counts into the starts of each chunk's entries of a tile; fills offsets (tiles + 1,)."""
    position = 0
    for tile in range(tile_counts.shape[1]):
        offsets[tile] = position
        for chunk in range(CHUNKS):
            amount = tile_counts[chunk, tile]
            tile_counts[chunk, tile] = position
            position += amount
    offsets[tile_counts.shape[1]] = position


def nearest_first(depths: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the stable argsort of depths (V,).

    The bits of positive floats have the order of the numbers, and numpy sorts 16-bit integers by radix: two such passes
    take a fraction of a comparison sort's time.
    """
    if depths.dtype != np.float32 or len(depths) == 0 or depths.min() < 0.0:
        return np.argsort(depths, kind="stable")
    bits = (depths + np.float32(0.0)).view(np.uint32)  # the sum turns -0.0 into 0.0
    order = np.argsort((bits & 0xFFFF).astype(np.uint16), kind="stable")
    return order[np.argsort((bits >> 16).astype(np.uint16)[order], kind="stable")]


def build_tile_lists(
    means2d: npt.NDArray[Any],
    conics: npt.NDArray[Any],
    opacities: npt.NDArray[Any],
    depths: npt.NDArray[Any],
    visible: npt.NDArray[np.bool_],
    width: int,
    height: int,
) -> TileLists:
    """Sort one camera's Gaussians by depth and list for each tile those that reach it.

    means2d (N, 2) and conics (N, 3) in pixels, opacities (N,) as composited, depths (N,), visible (N,): Gaussians that
    are not visible are left out. A visible Gaussian has an opacity of at least 1/255.
    """
    tiles_x, tiles_y = -(-width // TILE), -(-height // TILE)
    seen = np.flatnonzero(visible)
    order = seen[nearest_first(depths[seen])].astype(np.int32)
    records = np.empty((means2d.shape[0], RECORD), means2d.dtype)
    tile_counts = np.zeros((CHUNKS, tiles_x * tiles_y), np.int64)
    counts = np.zeros(len(means2d), np.int64)
    run_parallel(
        _count, CHUNKS, order, means2d, conics, opacities, tiles_x, tiles_y, height, records, tile_counts, counts
    )
    offsets = np.empty(tiles_x * tiles_y + 1, np.int64)
    _counts_to_cursors(tile_counts, offsets)
    slot_offsets = np.zeros(len(means2d) + 1, np.int64)
    np.cumsum(counts, out=slot_offsets[1:])
    gaussian_ids = np.empty(offsets[-1], np.int32)
    rows = np.empty((offsets[-1], 2), np.uint8)
    slots = np.empty(offsets[-1], np.int64)
    run_parallel(
        _fill, CHUNKS, order, means2d, conics, records, tiles_x, tiles_y, width, height, slot_offsets, tile_counts,
        gaussian_ids, rows, slots,
    )  # fmt: skip
    # Heaviest tiles come first, so that the threads do not wait long for the last piece.
    schedule = np.argsort(-np.diff(offsets), kind="stable").astype(np.int32)
    return TileLists(
        width, height, tiles_x, tiles_y, records, offsets, gaussian_ids, rows, slots, slot_offsets, schedule
    )
