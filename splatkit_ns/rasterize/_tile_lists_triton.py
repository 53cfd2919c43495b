"""Lists of the Gaussians on each tile of the screen, front to back, on CUDA.

gsplat lists a Gaussian in every tile of a square (1.4) or rectangle (1.5) around it. Here it is listed only if
the ellipse on which its alpha is at least 1/255 meets the tile: all other pixels would skip it anyway, so the image is
the same and lists are about half as long. Gaussians are sorted by depth once, and their tiles by a short key, which is
less work than sorting pairs of tile and depth.

The bound is the same as on the CPU (`splatkit_ns.rasterize.cpu.tiles`); SnugBox and AccuTile of Speedy-Splat
(https://arxiv.org/abs/2412.00578) are related.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from splatkit_ns.errors import SplatkitError
from splatkit_ns.rasterize.tile_list_space import ListSpace

BLOCK = 32
"""The number of Gaussians that are counted together."""
FILL_BLOCK, FILL_WIDTH = 8, 16
"""The number of Gaussians that are listed together, and of tiles of a row that are written at once."""
FINISH_BLOCK = 512
"""The number of entries that are written together after they have been sorted."""
MAX_SHORT = 2**15 - 1
MAX_ENTRIES = 2**31 - FINISH_BLOCK
"""The most entries of all lists of a render together, for which 32 bits suffice."""
COMPILE = {"num_warps": 1, "enable_fp_fusion": False}
"""Compiler options without fused multiply-adds: both kernels must round alike to list the tiles that were counted."""


@triton.jit
def _ellipse(order_ptr, means_ptr, conics_ptr, opacities_ptr, seen_ptr, num, T: tl.constexpr, tiles_y, B: tl.constexpr):
    """Load a block of Gaussians and find their ellipses' extents and rows of tiles."""
    rank = tl.program_id(0) * B + tl.arange(0, B)
    live = rank < num
    g = tl.load(order_ptr + rank, mask=live, other=0)
    live = live & (tl.load(seen_ptr + g, mask=live, other=0) != 0)
    mx = tl.load(means_ptr + 2 * g, mask=live, other=0.0)
    my = tl.load(means_ptr + 2 * g + 1, mask=live, other=0.0)
    a = tl.load(conics_ptr + 3 * g, mask=live, other=1.0)
    b = tl.load(conics_ptr + 3 * g + 1, mask=live, other=0.0)
    c = tl.load(conics_ptr + 3 * g + 2, mask=live, other=1.0)
    opacity = tl.load(opacities_ptr + g, mask=live, other=1.0)
    det = a * c - b * b
    live = live & (opacity * 255.0 >= 1.0) & (det > 0.0)
    det = tl.where(live, det, 1.0)
    # alpha >= 1/255 where a x^2 + 2 b x y + c y^2 <= t; t is slightly larger to allow for later rounding
    t = tl.where(live, 2.0 * tl.log(255.0 * opacity), 0.0) * 1.0001 + 1e-4
    half_x = tl.sqrt(t * c / det)
    half_y = tl.sqrt(t * a / det)
    top = tl.maximum(tl.ceil((my - half_y - (T - 0.5)) / T), 0.0)
    bottom = tl.minimum(tl.floor((my + half_y - 0.5) / T), tiles_y - 1.0)
    rows = tl.where(live, tl.maximum(bottom - top + 1.0, 0.0), 0.0).to(tl.int32)
    return rank, g, mx, my, a, b, c, det, t, half_x, half_y, top, rows


@triton.jit
def _columns(row, mx, my, a, b, c, det, t, half_x, half_y, tiles_x, T: tl.constexpr):
    """Return the first and last tile of a row of tiles that the ellipse meets."""
    low = tl.minimum(tl.maximum(row * T + 0.5 - my, -half_y), half_y)
    high = tl.minimum(tl.maximum(row * T + (T - 0.5) - my, -half_y), half_y)
    y_right = tl.minimum(tl.maximum(-b * half_x / c, low), high)
    y_left = tl.minimum(tl.maximum(b * half_x / c, low), high)
    right = (-b * y_right + tl.sqrt(tl.maximum(a * t - det * y_right * y_right, 0.0))) / a
    left = (-b * y_left - tl.sqrt(tl.maximum(a * t - det * y_left * y_left, 0.0))) / a
    first = tl.maximum(tl.ceil((mx + left - (T - 0.5)) / T), 0.0)
    last = tl.minimum(tl.floor((mx + right - 0.5) / T), tiles_x - 1.0)
    return first.to(tl.int32), tl.maximum(last - first + 1.0, 0.0).to(tl.int32)


@triton.jit(do_not_specialize=["num", "tiles_x", "tiles_y"])
def _count(
    order_ptr, means_ptr, conics_ptr, opacities_ptr, seen_ptr, counts_ptr, num, tiles_x, tiles_y,
    T: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Write the number of tiles of each Gaussian, in order of depth."""
    rank, _g, mx, my, a, b, c, det, t, half_x, half_y, top, rows = _ellipse(
        order_ptr, means_ptr, conics_ptr, opacities_ptr, seen_ptr, num, T, tiles_y, B
    )
    count = tl.zeros((B,), tl.int32)
    for i in range(tl.max(rows)):
        _first, width = _columns(top + i, mx, my, a, b, c, det, t, half_x, half_y, tiles_x, T)
        count += tl.where(i < rows, width, 0)
    tl.store(counts_ptr + rank, count, mask=rank < num)


@triton.jit(do_not_specialize=["num", "capacity", "per_camera", "tiles_x", "tiles_y"])
def _fill(
    order_ptr, means_ptr, conics_ptr, opacities_ptr, seen_ptr, ends_ptr, counts_ptr, tiles_ptr, ids_ptr,
    num, capacity, per_camera, tiles_x, tiles_y, T: tl.constexpr, B: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """Write the tile and the Gaussian of each pair, Gaussians in order of depth."""
    rank, g, mx, my, a, b, c, det, t, half_x, half_y, top, rows = _ellipse(
        order_ptr, means_ptr, conics_ptr, opacities_ptr, seen_ptr, num, T, tiles_y, B
    )
    known = rank < num
    place = tl.load(ends_ptr + rank, mask=known, other=0) - tl.load(counts_ptr + rank, mask=known, other=0)
    camera = (g // per_camera).to(tl.int32)
    column = tl.arange(0, W)[None, :]
    ids = g.to(tl.int32)[:, None] + tl.zeros((B, W), tl.int32)
    for i in range(tl.max(rows)):
        row = top + i
        first, width = _columns(row, mx, my, a, b, c, det, t, half_x, half_y, tiles_x, T)
        width = tl.where(i < rows, width, 0)
        tile = (camera * tiles_y + row.to(tl.int32)) * tiles_x + first
        for k in range(0, tl.max(width), W):
            where = place[:, None] + k + column
            inside = (k + column < width[:, None]) & (where < capacity)
            tl.store(tiles_ptr + where, (tile[:, None] + k + column).to(tiles_ptr.dtype.element_ty), mask=inside)
            tl.store(ids_ptr + where, ids, mask=inside)
        place += width


@triton.jit(do_not_specialize=["entries", "num_tiles"])
def _finish(
    tiles_ptr, by_tile_ptr, ids_ptr, sorted_ids_ptr, places_ptr, bounds_ptr, entries, num_tiles, B: tl.constexpr
):
    """Write the Gaussian and the place of each entry in the order of tiles, and where each tile's list starts.

    Places that stay empty, behind the last tile's list, name Gaussian 0.
    """
    i = tl.program_id(0) * B + tl.arange(0, B)
    live = i < entries
    place = tl.load(by_tile_ptr + i, mask=live, other=0)
    filled = live & (tl.load(tiles_ptr + i, mask=live, other=0).to(tl.int32) < num_tiles)
    tl.store(places_ptr + i, place.to(tl.int32), mask=live)
    tl.store(sorted_ids_ptr + i, tl.load(ids_ptr + place, mask=filled, other=0), mask=live)
    if tl.program_id(0) * B <= num_tiles:
        low = tl.zeros((B,), tl.int32)
        high = low + entries
        while tl.max(high - low) > 0:  # the number of entries whose tile comes before tile i
            middle = low + (high - low) // 2
            is_open = low < high
            before = is_open & (tl.load(tiles_ptr + middle, mask=is_open, other=0).to(tl.int32) < i)
            low = tl.where(before, middle + 1, low)
            high = tl.where(is_open & ~before, middle, high)
        tl.store(bounds_ptr + i, low, mask=i <= num_tiles)


class TileLists(NamedTuple):
    """The Gaussians on each tile. A Gaussian is an index into C * N."""

    offsets: Tensor
    """Start of each tile's list, (C, tiles_y, tiles_x) int32."""
    bounds: Tensor
    """The starts, and at last the end of the last list, (C * tiles_y * tiles_x + 1,) int32."""
    ids: Tensor
    """The lists, each front to back, (L,) int32."""
    places: Tensor
    """Place of each of these L entries when entries are grouped by Gaussian, (L,) int32."""
    order: Tensor
    """Gaussians in the order of these groups, (C * N,) int64."""
    ends: Tensor
    """Ends of the groups, (C * N,) int64."""
    counts: Tensor
    """Numbers of entries of the groups, (C * N,) int32."""
    work: Tensor | None = None
    """The count of work of the space, see `ListSpace`."""


@torch.no_grad()
def tile_lists(
    means2d: Tensor, conics: Tensor, opacities: Tensor, seen: Tensor, depths: Tensor, tiles_x: int, tiles_y: int,
    tile_size: int, space: ListSpace | None = None,
) -> TileLists:  # fmt: skip
    """List the Gaussians on each tile; reads the lists' length back from the device, unless `space` has a capacity.

    Args:
        means2d: (C, N, 2) pixels.
        conics: (C, N, 3) upper triangle of the inverse covariance, 1/pixels².
        opacities: (C, N), as they are composited.
        seen: (C, N) bool, whether the projection kept the Gaussian.
        depths: (C, N) world units; those of Gaussians that are not seen are arbitrary.
        tiles_x: tiles in a row.
        tiles_y: rows of tiles.
        tile_size: pixels.
        space: the space for the lists, which records the need; None means as much as needed.

    Raises:
        SplatkitError: the lists would have more than `MAX_ENTRIES` entries.
    """
    device = means2d.device
    cameras, per_camera = depths.shape
    num, num_tiles = cameras * per_camera, cameras * tiles_y * tiles_x
    order = depths.flatten().sort(stable=True).indices  # wherever the unseen are: none of them is listed
    gaussians = (order, means2d.contiguous(), conics.contiguous(), opacities.contiguous(), seen.view(torch.uint8))
    grid = (triton.cdiv(num, BLOCK),)
    counts = torch.empty(num, dtype=torch.int32, device=device)
    _count[grid](*gaussians, counts, num, tiles_x, tiles_y, tile_size, BLOCK, **COMPILE)
    ends = counts.cumsum(0)
    space = ListSpace() if space is None else space
    if space.capacity is None:
        total = int(ends[-1]) if num else 0
        space.longest = max(space.longest, total)
    else:
        total, space.was_used = space.capacity, True
        if space.needed is not None:
            space.needed.copy_(ends[-1:], non_blocking=True)
    if total > MAX_ENTRIES:
        raise SplatkitError(
            f"The lists of the Gaussians on each tile would have {total:,} entries, more than the {MAX_ENTRIES:,} that "
            "there may be. Render fewer cameras at a time, smaller images, or fewer Gaussians."
        )
    dtype = torch.int16 if num_tiles <= MAX_SHORT else torch.int32
    if space.capacity is None:
        tiles = torch.empty(total, dtype=dtype, device=device)
    else:  # places that stay empty come after those of the last tile
        tiles = torch.full((total,), num_tiles, dtype=dtype, device=device)
    ids = torch.empty(total, dtype=torch.int32, device=device)
    if total:
        _fill[(triton.cdiv(num, FILL_BLOCK),)](
            *gaussians, ends, counts, tiles, ids, num, total, per_camera, tiles_x, tiles_y, tile_size,
            FILL_BLOCK, FILL_WIDTH, **COMPILE,
        )  # fmt: skip
    tiles, by_tile = tiles.sort(stable=True)
    bounds = torch.empty(num_tiles + 1, dtype=torch.int32, device=device)
    sorted_ids, places = torch.empty_like(ids), torch.empty_like(ids)
    _finish[(triton.cdiv(max(total, num_tiles + 1), FINISH_BLOCK),)](
        tiles, by_tile, ids, sorted_ids, places, bounds, total, num_tiles, FINISH_BLOCK
    )
    offsets = bounds[:-1].view(cameras, tiles_y, tiles_x)
    return TileLists(offsets, bounds, sorted_ids, places, order, ends, counts, space.work)


def first_launches(device: str, tile_size: int) -> list[Callable[[], object]]:
    """Return a launch of each kernel with the kinds of arguments that training has, for Triton to compile it.

    The launches list one Gaussian on the only tile of an image.
    """
    one = torch.ones(1, device=device)
    conic = torch.tensor([1.0, 0.0, 1.0], device=device)
    gaussians = (one.long() - 1, one.expand(2).contiguous(), conic, one, one.to(torch.uint8))
    count = (*gaussians, one.int(), 1, 1, 1, tile_size, BLOCK)
    fill = (*gaussians, one.long(), one.int(), one.short(), one.int(), 1, 1, 1, 1, 1, tile_size, FILL_BLOCK, FILL_WIDTH)
    finish = (one.short(), one.long() - 1, *(one.int() for _ in range(4)), 1, 1, FINISH_BLOCK)
    return [
        partial(_count[(1,)], *count, **COMPILE),
        partial(_fill[(1,)], *fill, **COMPILE),
        partial(_finish[(1,)], *finish),
    ]
