"""SSIM on CUDA as Triton kernels: two passes forward (along rows, then along columns), two passes backward.

PyTorch's CUDA builds ship Triton, so this needs no package and no CUDA compiler. Interleaved images (H, W, 3), the
output of rasterisers, are used without a copy: a row of W pixels with C channels is a row of W * C numbers in which
the neighbour of a pixel is C numbers away.

Triton does not specialise on sizes: images of all sizes share the kernels, which are compiled before any is loaded.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_ROWS, TILE_COLS = 16, 64
TAPS = tl.constexpr(11)


@triton.jit(do_not_specialize=["rows", "length", "out_length"])
def _blur_rows(
    a_ptr, b_ptr, out_ptr, window_ptr, rows, length, out_length, C: tl.constexpr, R: tl.constexpr, X: tl.constexpr
):
    """Blur a, b, aa, bb and ab along rows: (rows, length) -> (5, rows, out_length)."""
    y = tl.program_id(1) * R + tl.arange(0, R)[:, None]
    x = tl.program_id(0) * X + tl.arange(0, X)[None, :]
    live = (y < rows) & (x < out_length)
    start = y * length + x
    e_a = tl.zeros((R, X), tl.float32)
    e_b = tl.zeros((R, X), tl.float32)
    e_aa = tl.zeros((R, X), tl.float32)
    e_bb = tl.zeros((R, X), tl.float32)
    e_ab = tl.zeros((R, X), tl.float32)
    for k in range(TAPS):
        w = tl.load(window_ptr + k)
        a = tl.load(a_ptr + start + k * C, mask=live, other=0.0)
        b = tl.load(b_ptr + start + k * C, mask=live, other=0.0)
        wa = w * a
        wb = w * b
        e_a += wa
        e_b += wb
        e_aa += wa * a
        e_bb += wb * b
        e_ab += wa * b
    plane = rows * out_length
    out = out_ptr + y * out_length + x
    tl.store(out, e_a, mask=live)
    tl.store(out + plane, e_b, mask=live)
    tl.store(out + 2 * plane, e_aa, mask=live)
    tl.store(out + 3 * plane, e_bb, mask=live)
    tl.store(out + 4 * plane, e_ab, mask=live)


@triton.jit(do_not_specialize=["height", "out_height", "length", "planes", "sharing"])
def _ssim_of_columns(
    maps_ptr, window_ptr, weights_ptr, sums_ptr, grads_ptr, height, out_height, length, planes, sharing,
    c1, c2, C: tl.constexpr, WEIGHTED: tl.constexpr, GRADS: tl.constexpr, R: tl.constexpr, X: tl.constexpr,
):  # fmt: skip
    """Blur the five maps along columns; write sums of SSIM and its derivatives with respect to E[a], E[aa], E[ab].

    If WEIGHTED, each window's value and derivatives are times its weight, which ``sharing`` planes have in common.
    """
    image = tl.program_id(2)
    y = tl.program_id(1) * R + tl.arange(0, R)[:, None]
    x = tl.program_id(0) * X + tl.arange(0, X)[None, :]
    live = (y < out_height) & (x < length)
    plane = planes * height * length
    start = maps_ptr + (image * height + y) * length + x
    mu_a = tl.zeros((R, X), tl.float32)
    mu_b = tl.zeros((R, X), tl.float32)
    e_aa = tl.zeros((R, X), tl.float32)
    e_bb = tl.zeros((R, X), tl.float32)
    e_ab = tl.zeros((R, X), tl.float32)
    for k in range(TAPS):
        w = tl.load(window_ptr + k)
        row = start + k * length
        mu_a += w * tl.load(row, mask=live, other=0.0)
        mu_b += w * tl.load(row + plane, mask=live, other=0.0)
        e_aa += w * tl.load(row + 2 * plane, mask=live, other=0.0)
        e_bb += w * tl.load(row + 3 * plane, mask=live, other=0.0)
        e_ab += w * tl.load(row + 4 * plane, mask=live, other=0.0)
    product = mu_a * mu_b
    squares = mu_a * mu_a + mu_b * mu_b
    luminance = 2.0 * product + c1
    structure = 2.0 * (e_ab - product) + c2
    inverse_squares = 1.0 / (squares + c1)
    inverse_variances = 1.0 / (e_aa + e_bb - squares + c2)
    inverse = inverse_squares * inverse_variances
    value = luminance * structure * inverse
    if WEIGHTED:
        weight = tl.load(
            weights_ptr + (image // sharing * out_height + y) * (length // C) + x // C, mask=live, other=0.0
        )
        counted = value * weight
    else:
        counted = value
    blocks = tl.num_programs(0) * tl.num_programs(1)
    block = image * blocks + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(sums_ptr + block, tl.sum(tl.where(live, counted, 0.0)))
    if GRADS:
        by_aa = -value * inverse_variances
        by_ab = 2.0 * luminance * inverse
        by_mu = 2.0 * (mu_b * structure * inverse - mu_a * value * inverse_squares) - 2.0 * mu_a * by_aa - mu_b * by_ab
        if WEIGHTED:
            by_mu *= weight
            by_aa *= weight
            by_ab *= weight
        plane = planes * out_height * length
        out = grads_ptr + (image * out_height + y) * length + x
        tl.store(out, by_mu, mask=live)
        tl.store(out + plane, by_aa, mask=live)
        tl.store(out + 2 * plane, by_ab, mask=live)


@triton.jit(do_not_specialize=["height", "out_height", "length", "planes"])
def _spread_columns(
    grads_ptr, out_ptr, window_ptr, height, out_height, length, planes, R: tl.constexpr, X: tl.constexpr
):
    """Transpose the blur along columns of three maps: (3, planes, out_height, length) -> (…, height, length)."""
    image = tl.program_id(2)
    y = tl.program_id(1) * R + tl.arange(0, R)[:, None]
    x = tl.program_id(0) * X + tl.arange(0, X)[None, :]
    inside = x < length
    plane_in = planes * out_height * length
    plane_out = planes * height * length
    start = grads_ptr + (image * out_height + y) * length + x
    mu = tl.zeros((R, X), tl.float32)
    aa = tl.zeros((R, X), tl.float32)
    ab = tl.zeros((R, X), tl.float32)
    for k in range(TAPS):
        w = tl.load(window_ptr + k)
        live = inside & (y >= k) & (y - k < out_height)
        row = start - k * length
        mu += w * tl.load(row, mask=live, other=0.0)
        aa += w * tl.load(row + plane_in, mask=live, other=0.0)
        ab += w * tl.load(row + 2 * plane_in, mask=live, other=0.0)
    live = inside & (y < height)
    out = out_ptr + (image * height + y) * length + x
    tl.store(out, mu, mask=live)
    tl.store(out + plane_out, aa, mask=live)
    tl.store(out + 2 * plane_out, ab, mask=live)


@triton.jit(do_not_specialize=["upstream_ptr", "rows", "length", "out_length"])
def _spread_rows(
    spread_ptr, a_ptr, b_ptr, grad_ptr, upstream_ptr, window_ptr, scale, rows, length, out_length,
    C: tl.constexpr, R: tl.constexpr, X: tl.constexpr,
):  # fmt: skip
    """Transpose the blur along rows, and apply the chain rule to a: (3, rows, out_length) -> (rows, length)."""
    y = tl.program_id(1) * R + tl.arange(0, R)[:, None]
    x = tl.program_id(0) * X + tl.arange(0, X)[None, :]
    inside = y < rows
    plane = rows * out_length
    start = spread_ptr + y * out_length + x
    mu = tl.zeros((R, X), tl.float32)
    aa = tl.zeros((R, X), tl.float32)
    ab = tl.zeros((R, X), tl.float32)
    for k in range(TAPS):
        w = tl.load(window_ptr + k)
        live = inside & (x >= k * C) & (x - k * C < out_length)
        column = start - k * C
        mu += w * tl.load(column, mask=live, other=0.0)
        aa += w * tl.load(column + plane, mask=live, other=0.0)
        ab += w * tl.load(column + 2 * plane, mask=live, other=0.0)
    live = inside & (x < length)
    offset = y * length + x
    a = tl.load(a_ptr + offset, mask=live, other=0.0)
    b = tl.load(b_ptr + offset, mask=live, other=0.0)
    upstream = tl.load(upstream_ptr) * scale
    tl.store(grad_ptr + offset, upstream * (mu + 2.0 * a * aa + b * ab), mask=live)


def blur_rows(a: Tensor, b: Tensor, window: Tensor, channels: int) -> Tensor:
    """Compute the maps of a, b, aa, bb and ab: (P, H, L) -> (5, P, H, L - 10 channels)."""
    planes, height, length = a.shape
    rows, out_length = planes * height, length - (len(window) - 1) * channels
    maps = torch.empty(5, planes, height, out_length, device=a.device)
    grid = (triton.cdiv(out_length, TILE_COLS), triton.cdiv(rows, TILE_ROWS))
    _blur_rows[grid](a, b, maps, window, rows, length, out_length, channels, TILE_ROWS, TILE_COLS)
    return maps


def ssim_of_columns(
    maps: Tensor, window: Tensor, c1: float, c2: float, needs_grad: bool, channels: int, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return sums of SSIM, one per program, and its derivatives (3, P, H - 10, L) if they are needed.

    Weights (B, H - 10, L / channels) of windows count for P / B planes each.
    """
    _, planes, height, length = maps.shape
    out_height = height - (len(window) - 1)
    grid = (triton.cdiv(length, TILE_COLS), triton.cdiv(out_height, TILE_ROWS), planes)
    sums = torch.empty(grid[0] * grid[1] * grid[2], device=maps.device)
    grads = torch.empty(3, planes, out_height, length, device=maps.device) if needs_grad else sums
    weighted = weights is not None
    _ssim_of_columns[grid](
        maps, window, weights if weighted else sums, sums, grads, height, out_height, length, planes,
        planes // len(weights) if weighted else 1, c1, c2, channels, weighted, needs_grad, TILE_ROWS, TILE_COLS,
    )  # fmt: skip
    return sums, grads


def spread_columns(grads: Tensor, window: Tensor) -> Tensor:
    """Apply the transpose of the blur along columns: (3, P, H - 10, L) -> (3, P, H, L)."""
    _, planes, out_height, length = grads.shape
    height = out_height + len(window) - 1
    spread = torch.empty(3, planes, height, length, device=grads.device)
    grid = (triton.cdiv(length, TILE_COLS), triton.cdiv(height, TILE_ROWS), planes)
    _spread_columns[grid](grads, spread, window, height, out_height, length, planes, TILE_ROWS, TILE_COLS)
    return spread


def spread_rows(spread: Tensor, a: Tensor, b: Tensor, upstream: Tensor, window: Tensor, scale: float) -> Tensor:
    """Return the gradient of a (P, H, L), times ``upstream`` (one number) and ``scale``."""
    planes, height, length = a.shape
    rows, out_length = planes * height, spread.shape[-1]
    channels = (length - out_length) // (len(window) - 1)
    grad = torch.empty_like(a)
    grid = (triton.cdiv(length, TILE_COLS), triton.cdiv(rows, TILE_ROWS))
    _spread_rows[grid](
        spread, a, b, grad, upstream, window, scale, rows, length, out_length, channels, TILE_ROWS, TILE_COLS
    )
    return grad


def first_launches(window: Tensor, c1: float, c2: float) -> list[Callable[[], object]]:
    """Return a launch of each kernel, as in training with images (B, H, W, 3), for Triton to compile it.

    Args:
        window: (11,) weights, on the device to launch on.
        c1: stabiliser of the luminance.
        c2: stabiliser of the structure.
    """
    channels, size = 3, len(window)
    image = torch.zeros(1, size, channels * size, device=window.device)
    maps = torch.zeros(5, 1, size, channels, device=window.device)
    spread, grads = torch.zeros_like(maps[:3]), torch.zeros(3, 1, 1, channels, device=window.device)
    return [
        lambda: ssim_of_columns(maps, window, c1, c2, True, channels, None),
        lambda: spread_columns(grads, window),
        lambda: spread_rows(spread, image, image, image[0, 0, 0], window, 1.0),
        lambda: blur_rows(image, image, window, channels),
    ]


class SummedSSIM(torch.autograd.Function):
    """(a, b, window, c1, c2, channels, weights, count) -> SSIM summed over windows, divided by ``count``.

    a and b are (P, H, L) float32 on CUDA and contiguous, with ``channels`` numbers from one pixel of a row to the next.
    Only a gets a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, window: Tensor, c1: float, c2: float, channels: int, weights: Tensor | None,
        count: int,
    ) -> Tensor:  # fmt: skip
        needs_grad = ctx.needs_input_grad[0]
        maps = blur_rows(a, b, window, channels)
        sums, grads = ssim_of_columns(maps, window, c1, c2, needs_grad, channels, weights)
        ctx.count = count
        if needs_grad:
            ctx.save_for_backward(a, b, window, grads)
        return sums.sum() / count

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        a, b, window, grads = ctx.saved_tensors
        grad = spread_rows(spread_columns(grads, window), a, b, upstream.contiguous(), window, 1.0 / ctx.count)
        return grad, *(None,) * 7


def mean_ssim(a: Tensor, b: Tensor, window: Tensor, c1: float, c2: float) -> Tensor:
    """Compute the mean SSIM of (B, C, H, W) float32 images on CUDA; only a gets a gradient.

    Args:
        a: rendered images, in any memory order.
        b: targets.
        window: (11,) weights.
        c1: stabiliser of the luminance.
        c2: stabiliser of the structure.
    """
    batch, channels, height, width = a.shape
    taps = len(window) - 1
    return _summed(a, b, window, c1, c2, None, batch * channels * (height - taps) * (width - taps))


def weighted_ssim_sum(a: Tensor, b: Tensor, window: Tensor, c1: float, c2: float, weights: Tensor) -> Tensor:
    """Compute the sum over channels and windows of SSIM times the weights (B, H - 10, W - 10); see `mean_ssim`."""
    return _summed(a, b, window, c1, c2, weights.contiguous(), 1)


def _summed(a: Tensor, b: Tensor, window: Tensor, c1: float, c2: float, weights: Tensor | None, count: int) -> Tensor:
    if a.permute(0, 2, 3, 1).is_contiguous():
        batch, channels, height, width = a.shape
        rows_a = a.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
        rows_b = b.permute(0, 2, 3, 1).contiguous().view(batch, height, width * channels)
        return SummedSSIM.apply(rows_a, rows_b, window, c1, c2, channels, weights, count)  # type: ignore[return-value]
    planes = (a.contiguous().flatten(0, 1), b.contiguous().flatten(0, 1))
    return SummedSSIM.apply(*planes, window, c1, c2, 1, weights, count)  # type: ignore[return-value]
