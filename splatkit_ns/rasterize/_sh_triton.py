"""Colours from spherical harmonics on CUDA, seen from each camera: one kernel for the colours, one for their gradients.

Unlike gsplat's function this one also computes the directions, adds 0.5 and cuts off at 0, and the gradients of the
centres are added up in the same order in every run.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from splatkit_ns.rasterize._sh_basis_triton import (
    BLOCK,
    C0,
    WARPS,
    add_slopes,
    all_bases,
    block_of_gaussians,
    block_pointers,
    coefficient_offsets,
    direction,
    store_coefficients,
)
from splatkit_ns.rasterize.color_gradients import ColorGradients


@triton.jit(do_not_specialize=["num", "bands"])
def _colors(
    means_ptr, centres_ptr, first_ptr, rest_ptr, seen_ptr, colors_ptr, num, bands,
    STORED: tl.constexpr, JOINED: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    start, g, known, is_channel = block_of_gaussians(num, B)
    camera = tl.program_id(1).to(tl.int64)
    live = known & (tl.load(seen_ptr + camera * num + g, mask=known, other=0) != 0)
    first, rest, others = coefficient_offsets(STORED, JOINED, B)
    first_ptr, rest_ptr = block_pointers(first_ptr, rest_ptr, start, STORED, JOINED)
    color = 0.5 + C0 * tl.load(first_ptr + first, mask=live[:, None] & is_channel, other=0.0)
    if STORED > 1:
        x, y, z, _inverse = direction(means_ptr, centres_ptr, g, camera, live)
        is_used = live[:, None, None] & (others < 3 * bands - 3)  # channel 3 is the next coefficient's first
        basis = all_bases(x, y, z, bands, STORED, B)
        color += tl.sum(basis[:, :, None] * tl.load(rest_ptr + rest, mask=is_used, other=0.0), axis=1)
    to = colors_ptr + 3 * (camera * num + start)
    place = tl.arange(0, B)[:, None] * 3 + tl.arange(0, 4)[None, :]
    tl.store(to + place, tl.maximum(color, 0.0), mask=known[:, None] & is_channel)


@triton.jit(do_not_specialize=["num", "cameras", "bands"])
def _gradients(
    means_ptr, centres_ptr, first_ptr, rest_ptr, seen_ptr, colors_ptr, v_colors_ptr, v_means_ptr, v_first_ptr,
    v_rest_ptr, num, cameras, bands, STORED: tl.constexpr, JOINED: tl.constexpr, KEEPS: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Add up gradients camera by camera, and write them so that neighbouring threads write neighbouring numbers.

    With KEEPS there is one camera, and the gradients of the colours are written in place of those of coefficients.
    """
    start, g, known, is_channel = block_of_gaussians(num, B)
    first, rest, others = coefficient_offsets(STORED, JOINED, B)
    first_ptr, rest_ptr = block_pointers(first_ptr, rest_ptr, start, STORED, JOINED)
    v_first_ptr, v_rest_ptr = block_pointers(v_first_ptr, v_rest_ptr, start, STORED, JOINED)
    here = tl.arange(0, B)[:, None] * 3 + tl.arange(0, 4)[None, :]
    total_x = tl.zeros((B,), tl.float32)
    total_y = tl.zeros((B,), tl.float32)
    total_z = tl.zeros((B,), tl.float32)
    v_first = tl.zeros((B, 4), tl.float32)
    v_rest = tl.zeros((B, 16, 4), tl.float32)
    for camera in range(cameras):
        row = tl.cast(camera, tl.int64) * num + start
        live = known & (tl.load(seen_ptr + row + tl.arange(0, B), mask=known, other=0) != 0)
        is_here = live[:, None] & is_channel
        v = tl.load(v_colors_ptr + 3 * row + here, mask=is_here, other=0.0)
        v = tl.where(tl.load(colors_ptr + 3 * row + here, mask=is_here, other=0.0) > 0.0, v, 0.0)
        if KEEPS:
            v_first += v
        else:
            v_first += C0 * v
        if STORED > 1:
            x, y, z, inverse = direction(means_ptr, centres_ptr, g, camera, live)
            if not KEEPS:
                v_rest += all_bases(x, y, z, bands, STORED, B)[:, :, None] * v[:, None, :]
            is_used = live[:, None, None] & (others < 3 * bands - 3)
            along = tl.sum(tl.load(rest_ptr + rest, mask=is_used, other=0.0) * v[:, None, :], axis=2)
            slope_x, slope_y, slope_z = add_slopes(along, x, y, z, STORED, B)
            radial = x * slope_x + y * slope_y + z * slope_z  # a step along the ray changes nothing
            total_x += (slope_x - x * radial) * inverse
            total_y += (slope_y - y * radial) * inverse
            total_z += (slope_z - z * radial) * inverse
    store_coefficients(
        v_first_ptr, v_rest_ptr, first, rest, others, v_first, v_rest, known, is_channel,
        STORED > 1 and not KEEPS, STORED,
    )  # fmt: skip
    tl.store(v_means_ptr + 3 * g, total_x, mask=known)
    tl.store(v_means_ptr + 3 * g + 1, total_y, mask=known)
    tl.store(v_means_ptr + 3 * g + 2, total_z, mask=known)


class SphericalHarmonics(torch.autograd.Function):
    """(means, first, rest, centres, seen, degree, kept) -> colours. All contiguous, float32, on CUDA.

    Centres get a gradient if there is one camera. Without `rest`, `first` has all coefficients. With `kept`, there is
    one camera, and coefficients get no gradients: see `ColorGradients`.
    """

    @staticmethod
    def forward(
        ctx: Any, means: Tensor, first: Tensor, rest: Tensor | None, centres: Tensor, seen: Tensor, degree: int,
        kept: ColorGradients | None,
    ) -> Tensor:  # fmt: skip
        num, cameras, bands = len(means), len(centres), (degree + 1) ** 2
        layout = first.shape[1] if rest is None else 1 + rest.shape[1], rest is None
        colors = torch.empty(cameras, num, 3, device=means.device)
        seen = seen.view(torch.uint8)
        _colors[(triton.cdiv(num, BLOCK), cameras)](
            means, centres, first, first if rest is None else rest, seen, colors, num, bands, *layout, BLOCK,
            num_warps=WARPS,
        )  # fmt: skip
        ctx.save_for_backward(means, first, rest, centres, seen, colors)
        ctx.bands, ctx.layout, ctx.kept = bands, layout, kept
        return colors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_colors: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        means, first, rest, centres, seen, colors = ctx.saved_tensors
        num, kept = len(means), ctx.kept
        v_means, v_first = (
            torch.empty_like(means),
            torch.empty_like(first) if kept is None else means.new_empty(num + 1, 3),
        )
        v_rest = None if rest is None or kept is not None else torch.empty_like(rest)
        _gradients[(triton.cdiv(num, BLOCK),)](
            means, centres, first, first if rest is None else rest, seen, colors, v_colors.contiguous(), v_means,
            v_first, v_first if v_rest is None else v_rest, num, len(centres), ctx.bands, *ctx.layout,
            kept is not None, BLOCK, num_warps=WARPS,
        )  # fmt: skip
        if kept is not None:
            v_first[num] = centres[0]
            kept.found, kept.bands = v_first, ctx.bands
            return v_means, None, None, None, None, None, None
        # a step of all Gaussians is one of the camera in the other direction
        v_centres = -v_means.sum(0, keepdim=True, dtype=torch.float64).float() if ctx.needs_input_grad[3] else None
        return v_means, v_first, v_rest, v_centres, None, None, None


def spherical_harmonics(
    means: Tensor, first: Tensor, rest: Tensor | None, centres: Tensor, seen: Tensor, degree: int,
    kept: ColorGradients | None = None,
) -> Tensor:  # fmt: skip
    """Compute the colours of Gaussians as cameras see them; differentiable in the first four arguments.

    Args:
        means: (N, 3) centres in world units.
        first: (N, 1, 3), the coefficients of degree 0; or all of them, (N, K, 3), if `rest` is None.
        rest: (N, K - 1, 3), the coefficients of degrees 1 and up, K at least (degree + 1)².
        centres: (C, 3) positions of the cameras.
        seen: (C, N) bool; unseen Gaussians get an arbitrary colour and no gradient.
        degree: highest SH degree to use, 0 to 3.
        kept: keeps the gradients of the colours in place of those of the coefficients; for one camera that is not
            trained, and coefficients of degree 0 apart from the others.

    Returns:
        (C, N, 3) colours, not below 0.
    """
    if centres.requires_grad and len(centres) > 1:
        each = zip(centres.split(1), seen.split(1), strict=True)
        return torch.cat([spherical_harmonics(means, first, rest, *camera, degree) for camera in each])
    rest = rest if rest is None else rest.contiguous()
    return SphericalHarmonics.apply(  # type: ignore[return-value]
        means.contiguous(), first.contiguous(), rest, centres.contiguous(), seen.contiguous(), degree, kept
    )


def first_launches(device: str, stored: int) -> list[Callable[[], object]]:
    """Return a launch of each kernel with the kinds of arguments that training has, for Triton to compile it.

    Args:
        device: the device to launch on.
        stored: number of coefficients of one Gaussian.
    """
    three, rest = torch.ones(3, device=device), torch.zeros(stored * 3, device=device)
    seen = torch.ones(1, dtype=torch.uint8, device=device)
    layout = (stored, False, BLOCK)
    gaussian = (three, three.clone(), three.clone(), rest, seen, three.clone())
    gradients = (three.clone(), torch.empty_like(three), torch.empty_like(three), torch.empty_like(rest), 1, 1, 1)
    return [
        partial(_gradients[(1,)], *gaussian, *gradients, stored, False, False, BLOCK, num_warps=WARPS),
        partial(_colors[(1, 1)], *gaussian, 1, 1, *layout, num_warps=WARPS),
    ]
