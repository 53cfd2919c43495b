"""Colours from spherical harmonics on CUDA, seen from each camera: one kernel for the colours, one for their gradients.

The basis is that of 3D Gaussian Splatting and gsplat: real spherical harmonics with the Condon-Shortley phase. Unlike
gsplat's function this one also computes the directions, adds 0.5 and cuts off at 0, and the gradients of the centres
are added up in the same order in every run.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 64
C0 = tl.constexpr(math.sqrt(1 / math.pi) / 2)
C1 = tl.constexpr(math.sqrt(3 / math.pi) / 2)
C20 = tl.constexpr(math.sqrt(15 / math.pi) / 2)
C21 = tl.constexpr(math.sqrt(5 / math.pi) / 4)
C22 = tl.constexpr(math.sqrt(15 / math.pi) / 4)
C30 = tl.constexpr(math.sqrt(35 / (2 * math.pi)) / 4)
C31 = tl.constexpr(math.sqrt(105 / math.pi) / 2)
C32 = tl.constexpr(math.sqrt(21 / (2 * math.pi)) / 4)
C33 = tl.constexpr(math.sqrt(7 / math.pi) / 4)
C34 = tl.constexpr(math.sqrt(105 / math.pi) / 4)


@triton.jit
def _direction(means_ptr, centres_ptr, g, camera, live):
    """Return unit vectors from the camera's centre to the Gaussians, and 1 / distance."""
    x = tl.load(means_ptr + 3 * g, mask=live, other=1.0) - tl.load(centres_ptr + 3 * camera)
    y = tl.load(means_ptr + 3 * g + 1, mask=live, other=0.0) - tl.load(centres_ptr + 3 * camera + 1)
    z = tl.load(means_ptr + 3 * g + 2, mask=live, other=0.0) - tl.load(centres_ptr + 3 * camera + 2)
    inverse = 1.0 / tl.maximum(tl.sqrt(x * x + y * y + z * z), 1e-12)
    return x * inverse, y * inverse, z * inverse, inverse


@triton.jit
def _basis(k: tl.constexpr, x, y, z):
    """Evaluate basis function number k."""
    if k == 0:
        return x * 0.0 + C0
    if k == 1:
        return -C1 * y
    if k == 2:
        return C1 * z
    if k == 3:
        return -C1 * x
    if k == 4:
        return C20 * x * y
    if k == 5:
        return -C20 * y * z
    if k == 6:
        return C21 * (2.0 * z * z - x * x - y * y)
    if k == 7:
        return -C20 * x * z
    if k == 8:
        return C22 * (x * x - y * y)
    if k == 9:
        return -C30 * y * (3.0 * x * x - y * y)
    if k == 10:
        return C31 * x * y * z
    if k == 11:
        return -C32 * y * (4.0 * z * z - x * x - y * y)
    if k == 12:
        return C33 * z * (2.0 * z * z - 3.0 * x * x - 3.0 * y * y)
    if k == 13:
        return -C32 * x * (4.0 * z * z - x * x - y * y)
    if k == 14:
        return C34 * z * (x * x - y * y)
    return -C30 * x * (x * x - 3.0 * y * y)


@triton.jit
def _slope(k: tl.constexpr, x, y, z):
    """Evaluate the derivatives of basis function number k, taken as a polynomial in x, y and z."""
    zero = x * 0.0
    if k == 0:
        return zero, zero, zero
    if k == 1:
        return zero, zero - C1, zero
    if k == 2:
        return zero, zero, zero + C1
    if k == 3:
        return zero - C1, zero, zero
    if k == 4:
        return C20 * y, C20 * x, zero
    if k == 5:
        return zero, -C20 * z, -C20 * y
    if k == 6:
        return -2.0 * C21 * x, -2.0 * C21 * y, 4.0 * C21 * z
    if k == 7:
        return -C20 * z, zero, -C20 * x
    if k == 8:
        return 2.0 * C22 * x, -2.0 * C22 * y, zero
    if k == 9:
        return -6.0 * C30 * x * y, -3.0 * C30 * (x * x - y * y), zero
    if k == 10:
        return C31 * y * z, C31 * x * z, C31 * x * y
    if k == 11:
        return 2.0 * C32 * x * y, -C32 * (4.0 * z * z - x * x - 3.0 * y * y), -8.0 * C32 * y * z
    if k == 12:
        return -6.0 * C33 * x * z, -6.0 * C33 * y * z, C33 * (6.0 * z * z - 3.0 * x * x - 3.0 * y * y)
    if k == 13:
        return -C32 * (4.0 * z * z - 3.0 * x * x - y * y), 2.0 * C32 * x * y, -8.0 * C32 * x * z
    if k == 14:
        return 2.0 * C34 * x * z, -2.0 * C34 * y * z, C34 * (x * x - y * y)
    return -3.0 * C30 * (x * x - y * y), 6.0 * C30 * x * y, zero


@triton.jit(do_not_specialize=["num", "bands"])
def _colors(
    means_ptr, centres_ptr, coefficients_ptr, seen_ptr, colors_ptr, num, bands,
    STORED: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    g = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    camera = tl.program_id(1).to(tl.int64)
    place = camera * num + g
    live = (g < num) & (tl.load(seen_ptr + place, mask=g < num, other=0) != 0)
    x, y, z, _inverse = _direction(means_ptr, centres_ptr, g, camera, live)
    first = coefficients_ptr + 3 * STORED * g
    limit = tl.zeros((B,), tl.int32) + bands
    c0 = tl.full((B,), 0.5, tl.float32)
    c1 = tl.full((B,), 0.5, tl.float32)
    c2 = tl.full((B,), 0.5, tl.float32)
    for k in tl.static_range(STORED):
        basis, used = _basis(k, x, y, z), live & (limit > k)
        c0 += basis * tl.load(first + 3 * k, mask=used, other=0.0)
        c1 += basis * tl.load(first + 3 * k + 1, mask=used, other=0.0)
        c2 += basis * tl.load(first + 3 * k + 2, mask=used, other=0.0)
    tl.store(colors_ptr + 3 * place, tl.maximum(c0, 0.0), mask=g < num)
    tl.store(colors_ptr + 3 * place + 1, tl.maximum(c1, 0.0), mask=g < num)
    tl.store(colors_ptr + 3 * place + 2, tl.maximum(c2, 0.0), mask=g < num)


@triton.jit(do_not_specialize=["num", "cameras", "bands"])
def _gradients(
    means_ptr, centres_ptr, coefficients_ptr, seen_ptr, colors_ptr, v_colors_ptr, v_means_ptr, v_coefficients_ptr,
    num, cameras, bands, STORED: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Add up gradients camera by camera: the first camera sets those of the coefficients, the others add to them."""
    g = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    known = g < num
    first = coefficients_ptr + 3 * STORED * g
    limit = tl.zeros((B,), tl.int32) + bands
    v_first = v_coefficients_ptr + 3 * STORED * g
    total_x = tl.zeros((B,), tl.float32)
    total_y = tl.zeros((B,), tl.float32)
    total_z = tl.zeros((B,), tl.float32)
    for camera in range(cameras):
        place = camera * num + g
        live = known & (tl.load(seen_ptr + place, mask=known, other=0) != 0)
        x, y, z, inverse = _direction(means_ptr, centres_ptr, g, camera, live)
        v0 = tl.load(v_colors_ptr + 3 * place, mask=live, other=0.0)
        v1 = tl.load(v_colors_ptr + 3 * place + 1, mask=live, other=0.0)
        v2 = tl.load(v_colors_ptr + 3 * place + 2, mask=live, other=0.0)
        v0 = tl.where(tl.load(colors_ptr + 3 * place, mask=live, other=0.0) > 0.0, v0, 0.0)
        v1 = tl.where(tl.load(colors_ptr + 3 * place + 1, mask=live, other=0.0) > 0.0, v1, 0.0)
        v2 = tl.where(tl.load(colors_ptr + 3 * place + 2, mask=live, other=0.0) > 0.0, v2, 0.0)
        slope_x = tl.zeros((B,), tl.float32)
        slope_y = tl.zeros((B,), tl.float32)
        slope_z = tl.zeros((B,), tl.float32)
        more = known & (camera > 0)
        for k in tl.static_range(STORED):
            used = live & (limit > k)
            basis = tl.where(used, _basis(k, x, y, z), 0.0)
            c0 = tl.load(first + 3 * k, mask=used, other=0.0)
            c1 = tl.load(first + 3 * k + 1, mask=used, other=0.0)
            c2 = tl.load(first + 3 * k + 2, mask=used, other=0.0)
            along = c0 * v0 + c1 * v1 + c2 * v2
            by_x, by_y, by_z = _slope(k, x, y, z)
            slope_x += by_x * along
            slope_y += by_y * along
            slope_z += by_z * along
            to0 = v_first + 3 * k
            to1 = v_first + 3 * k + 1
            to2 = v_first + 3 * k + 2
            tl.store(to0, basis * v0 + tl.load(to0, mask=more, other=0.0), mask=known)
            tl.store(to1, basis * v1 + tl.load(to1, mask=more, other=0.0), mask=known)
            tl.store(to2, basis * v2 + tl.load(to2, mask=more, other=0.0), mask=known)
        radial = x * slope_x + y * slope_y + z * slope_z  # a step along the ray changes nothing
        total_x += (slope_x - x * radial) * inverse
        total_y += (slope_y - y * radial) * inverse
        total_z += (slope_z - z * radial) * inverse
    tl.store(v_means_ptr + 3 * g, total_x, mask=known)
    tl.store(v_means_ptr + 3 * g + 1, total_y, mask=known)
    tl.store(v_means_ptr + 3 * g + 2, total_z, mask=known)


class SphericalHarmonics(torch.autograd.Function):
    """(means, coefficients, centres, seen, degree) -> colours. All contiguous, float32, on CUDA.

    Centres get a gradient if there is one camera.
    """

    @staticmethod
    def forward(ctx: Any, means: Tensor, coefficients: Tensor, centres: Tensor, seen: Tensor, degree: int) -> Tensor:
        (num, stored, _), cameras, bands = coefficients.shape, len(centres), (degree + 1) ** 2
        colors = torch.empty(cameras, num, 3, device=means.device)
        seen = seen.view(torch.uint8)
        grid = (triton.cdiv(num, BLOCK), cameras)
        _colors[grid](means, centres, coefficients, seen, colors, num, bands, stored, BLOCK, num_warps=2)
        ctx.save_for_backward(means, coefficients, centres, seen, colors)
        ctx.bands = bands
        return colors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_colors: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        means, coefficients, centres, seen, colors = ctx.saved_tensors
        (num, stored, _), cameras = coefficients.shape, len(centres)
        v_means, v_coefficients = torch.empty_like(means), torch.empty_like(coefficients)
        _gradients[(triton.cdiv(num, BLOCK),)](
            means, centres, coefficients, seen, colors, v_colors.contiguous(), v_means, v_coefficients, num, cameras,
            ctx.bands, stored, BLOCK, num_warps=2,
        )  # fmt: skip
        # a step of all Gaussians is one of the camera in the other direction
        v_centres = -v_means.sum(0, keepdim=True, dtype=torch.float64).float() if ctx.needs_input_grad[2] else None
        return v_means, v_coefficients, v_centres, None, None


def spherical_harmonics(means: Tensor, coefficients: Tensor, centres: Tensor, seen: Tensor, degree: int) -> Tensor:
    """Compute the colours of Gaussians as cameras see them; differentiable in the first three arguments.

    Args:
        means: (N, 3) centres in world units.
        coefficients: (N, K, 3), K at least (degree + 1)².
        centres: (C, 3) positions of the cameras.
        seen: (C, N) bool; unseen Gaussians get an arbitrary colour and no gradient.
        degree: highest SH degree to use, 0 to 3.

    Returns:
        (C, N, 3) colours, not below 0.
    """
    if centres.requires_grad and len(centres) > 1:
        each = zip(centres.split(1), seen.split(1), strict=True)
        return torch.cat([spherical_harmonics(means, coefficients, *camera, degree) for camera in each])
    return SphericalHarmonics.apply(  # type: ignore[return-value]
        means.contiguous(), coefficients.contiguous(), centres.contiguous(), seen.contiguous(), degree
    )


def first_launches(device: str, stored: int) -> list[Callable[[], object]]:
    """Return a launch of each kernel with the kinds of arguments that training has, for Triton to compile it.

    Args:
        device: the device to launch on.
        stored: number of coefficients of one Gaussian.
    """
    three, coefficients = torch.ones(3, device=device), torch.zeros(stored * 3, device=device)
    seen = torch.ones(1, dtype=torch.uint8, device=device)
    colors = (three, three.clone(), coefficients, seen, three.clone(), 1, 1, stored, BLOCK)
    gradients = (
        three, three.clone(), coefficients, seen, three, three, three.clone(), coefficients.clone(), 1, 1, 1, stored,
        BLOCK,
    )  # fmt: skip
    return [partial(_gradients[(1,)], *gradients, num_warps=2), partial(_colors[(1, 1)], *colors, num_warps=2)]
