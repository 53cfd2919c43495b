"""The sums of each Gaussian's gradients over the tiles on whose lists it is, in an order that is always the same.

A backward pass stores the gradients of each list entry in a place of its own; the places of a Gaussian follow one
another.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from splatkit_ns.rasterize._tile_lists_triton import TileLists

GATHERED, TOGETHER, MANY = 16, 4, 32
"""The number of Gaussians whose list entries are added up together, that of entries of each that are read at once, and
that of entries above which the last ones of a Gaussian are added up before."""
APART, WIDE = 64, 128
"""The number of Gaussians among which one program looks for such with more entries, and that of entries it reads at
once."""


@triton.jit(do_not_specialize=["num", "capacity"])
def _shorten(
    ends_ptr, counts_ptr, sums_ptr, num, capacity, R: tl.constexpr, G: tl.constexpr, MANY: tl.constexpr, B: tl.constexpr
):
    """Add up all but the first MANY - 1 entries of each Gaussian with more than MANY, into the next of its places.

    Such Gaussians are near the camera, and follow one another in the order of depth: so a program looks at G that are
    far from each other there.
    """
    which = tl.arange(0, G)
    rank = tl.program_id(0) + which * tl.num_programs(0)
    count = tl.load(counts_ptr + rank, mask=rank < num, other=0)
    first = tl.load(ends_ptr + rank, mask=rank < num, other=0) - count
    field = tl.arange(0, 16)
    entry = tl.arange(0, B)
    i = tl.min(tl.where(count > MANY, which, G))
    while i < G:
        its_count = tl.sum(tl.where(which == i, count, 0))
        its_first = tl.sum(tl.where(which == i, first, 0))
        rest = tl.zeros((B, 16), tl.float32)
        for k in range(MANY - 1, its_count, B):
            place = its_first + k + entry
            here = ((k + entry < its_count) & (place < capacity))[:, None] & (field < R)[None, :]
            rest += tl.load(sums_ptr + place[:, None] * R + field[None, :], mask=here, other=0.0)
        place = its_first + tl.full((16,), MANY - 1, tl.int64)
        tl.store(sums_ptr + place * R + field, tl.sum(rest, axis=0), mask=(field < R) & (place < capacity))
        i = tl.min(tl.where((count > MANY) & (which > i), which, G))


@triton.jit(do_not_specialize=["num", "capacity"])
def _gather(
    order_ptr, ends_ptr, counts_ptr, sums_ptr, num, capacity, v_means_ptr, v_conics_ptr, v_opacities_ptr, v_colors_ptr,
    v_abs_ptr, X: tl.constexpr, ABS: tl.constexpr, G: tl.constexpr, E: tl.constexpr, MANY: tl.constexpr,
):  # fmt: skip
    """Add up the first MANY entries of each of G Gaussians; Gaussians without any get zeros."""
    rank = tl.program_id(0) * G + tl.arange(0, G)
    known = rank < num
    g = tl.load(order_ptr + rank, mask=known, other=0)
    count = tl.load(counts_ptr + rank, mask=known, other=0)
    first = tl.load(ends_ptr + rank, mask=known, other=0) - count
    count = tl.minimum(count, MANY)
    R: tl.constexpr = 6 + X + (2 if ABS else 0)
    field = tl.arange(0, 16)
    total = tl.zeros((G, 16), tl.float32)
    entry = tl.arange(0, E)[None, :]
    for k in range(0, tl.max(count), E):
        row = first[:, None] + k + entry
        live = (k + entry < count[:, None]) & (row < capacity)
        live = live[:, :, None] & (field < R)[None, None, :]
        total += tl.sum(tl.load(sums_ptr + row[:, :, None] * R + field[None, None, :], mask=live, other=0.0), axis=1)
    g, field, known = g[:, None], field[None, :], known[:, None]
    tl.store(v_means_ptr + 2 * g + field, total, mask=known & (field < 2))
    tl.store(v_conics_ptr + 3 * g + field - 2, total, mask=known & (field >= 2) & (field < 5))
    tl.store(v_opacities_ptr + g + field - 5, total, mask=known & (field == 5))
    tl.store(v_colors_ptr + X * g + field - 6, total, mask=known & (field >= 6) & (field < 6 + X))
    if ABS:
        tl.store(v_abs_ptr + 2 * g + field - 6 - X, total, mask=known & (field >= 6 + X) & (field < 8 + X))


def add_up(
    sums: Tensor, lists: TileLists, v_means: Tensor, v_conics: Tensor, v_opacities: Tensor, v_colors: Tensor,
    v_abs: Tensor | None, channels: int,
) -> None:  # fmt: skip
    """Add up the gradients of each Gaussian's list entries.

    Args:
        sums: of each entry, in the order of the backward pass; entries are changed.
        lists: the places of the entries.
        v_means: (C, N, 2), written.
        v_conics: (C, N, 3), written.
        v_opacities: (C, N), written.
        v_colors: (C, N, channels), written; with 0 channels any tensor.
        v_abs: (C, N, 2), written; None if the entries have no absolute gradients.
        channels: of the colours.
    """
    number = v_opacities.numel()
    _shorten[(triton.cdiv(number, APART),)](
        lists.ends, lists.counts, sums, number, len(sums), sums.shape[1], APART, MANY, WIDE, num_warps=4
    )
    _gather[(triton.cdiv(number, GATHERED),)](
        lists.order, lists.ends, lists.counts, sums, number, len(sums), v_means, v_conics, v_opacities, v_colors,
        v_means if v_abs is None else v_abs, channels, v_abs is not None, GATHERED, TOGETHER, MANY, num_warps=2,
    )  # fmt: skip


def first_launches(device: str) -> list[Callable[[], object]]:
    """Return a launch of each kernel with the kinds of arguments that training has; they add up one entry."""
    one, sums = torch.ones(1, device=device), torch.ones(11, device=device)
    shorten = (one.long(), one.int(), sums, 1, 1)
    gather = (one.long() - 1, *shorten, *(torch.empty_like(sums) for _ in range(5)), 3)
    launches: list[Callable[[], object]] = []
    for absgrad in (True, False):
        launches += [
            partial(_shorten[(1,)], *shorten, 11 if absgrad else 9, APART, MANY, WIDE, num_warps=4),
            partial(_gather[(1,)], *gather, absgrad, GATHERED, TOGETHER, MANY, num_warps=2),
        ]
    return launches
