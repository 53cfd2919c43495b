"""SSIM on the CPU: compiled by numba, forward and backward, many times as fast as torch's convolutions.

Rows are computed one by one from buffers that stay in the cache. Each is computed by one thread in a fixed order, so
the result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from splatkit_ns.image_metrics.ssim_window import WINDOW_SIZE
from splatkit_ns.rasterize.cpu.parallel import run_parallel

Array = NDArray[Any]


class SsimMap(torch.autograd.Function):
    """SSIM of each window: (B, C, H, W) twice -> (B, C, H - 10, W - 10), for contiguous CPU tensors."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, window: Tensor, c1: float, c2: float) -> Tensor:
        size = len(window)
        out_shape = (*a.shape[:2], a.shape[2] - size + 1, a.shape[3] - size + 1)
        values = a.new_empty(out_shape)
        # derivatives of SSIM with respect to the blurred maps; only the gradient of b needs the last one
        wanted = (any(ctx.needs_input_grad), any(ctx.needs_input_grad), *ctx.needs_input_grad[:2])
        partials = [a.new_empty(out_shape if want else (0, 0, 0, 0)) for want in wanted]
        ctx.save_for_backward(a, b, window, *partials)
        constants = np.array([c1, c2], dtype=_planes(window).dtype)
        arrays = [_planes(tensor) for tensor in (a, b, window, values, *partials)]
        _over_rows(_forward_rows, values, (*arrays, constants))
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, b, window, by_square, by_product, by_a, by_b = ctx.saved_tensors
        upstream = grads[0].contiguous()
        results: list[Tensor | None] = []
        for needed, own, other, by_own in (
            (ctx.needs_input_grad[0], a, b, by_a),
            (ctx.needs_input_grad[1], b, a, by_b),
        ):
            if not needed:
                results.append(None)
                continue
            grad = torch.empty_like(own)
            tensors = (own, other, window, upstream, by_square, by_product, by_own, grad)
            _over_rows(_backward_rows, grad, tuple(_planes(tensor) for tensor in tensors))
            results.append(grad)
        return (*results, None, None, None)


def _planes(tensor: Tensor) -> Array:
    """Return the tensor's memory as an array, with batch and channels as one dimension."""
    return tensor.detach().flatten(0, -3).numpy() if tensor.dim() > 2 else tensor.detach().numpy()


def _over_rows(kernel: Callable[..., None], output: Tensor, arguments: tuple[Array, ...]) -> None:
    """Run the kernel over all rows of the output."""
    run_parallel(kernel, output.shape[0] * output.shape[1] * output.shape[2], *arguments)


_compiled = njit(nogil=True, cache=True, fastmath={"contract", "arcp"}, error_model="numpy")


@_compiled
def _blur_along(out: Array, values: Array, window: Array) -> None:
    """Set out[x] to the window-weighted sum over values[x] and those after it; the window is symmetric."""
    for x in range(out.shape[0]):
        total = out.dtype.type(0)
        for t in range(WINDOW_SIZE):  # a loop of known length is unrolled, so that the sum stays in a register
            total += window[t] * values[x + t]
        out[x] = total


@_compiled
def _forward_rows(
    start: int, stop: int,
    a: Array, b: Array, window: Array,
    values: Array, by_square: Array, by_product: Array, by_a: Array, by_b: Array,
    constants: Array,
) -> None:  # fmt: skip
    """Write rows start to stop of the SSIM map, counted through all planes, and derivatives if these have a size."""
    width, out_height, out_width = a.shape[2], values.shape[1], values.shape[2]
    c1, c2 = constants[0], constants[1]
    columns = np.empty((5, width), dtype=a.dtype)
    maps = np.empty((5, out_width), dtype=a.dtype)
    for row in range(start, stop):
        plane, y = row // out_height, row % out_height
        columns[:] = 0
        for t in range(WINDOW_SIZE):
            weight, row_a, row_b = window[t], a[plane, y + t], b[plane, y + t]
            for x in range(width):
                value_a, value_b = row_a[x], row_b[x]
                weighted_a, weighted_b = weight * value_a, weight * value_b
                columns[0, x] += weighted_a
                columns[1, x] += weighted_b
                columns[2, x] += weighted_a * value_a
                columns[3, x] += weighted_b * value_b
                columns[4, x] += weighted_a * value_b
        for i in range(5):
            _blur_along(maps[i], columns[i], window)
        for x in range(out_width):
            mean_a, mean_b = maps[0, x], maps[1, x]
            product, squares = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
            covariance, variances = maps[4, x] - product, maps[2, x] + maps[3, x] - squares
            luminance, structure = product + product + c1, covariance + covariance + c2
            luminance_norm, structure_norm = squares + c1, variances + c2
            scale = constants.dtype.type(1) / (luminance_norm * structure_norm)
            value = luminance * structure * scale
            values[plane, y, x] = value
            if by_square.shape[0] > 0:
                by_square[plane, y, x] = -value / structure_norm
                by_product[plane, y, x] = (luminance + luminance) * scale
                difference = (structure - luminance) * scale
                balance = value / luminance_norm - value / structure_norm
                if by_a.shape[0] > 0:
                    half = mean_b * difference - mean_a * balance
                    by_a[plane, y, x] = half + half
                if by_b.shape[0] > 0:
                    half = mean_a * difference - mean_b * balance
                    by_b[plane, y, x] = half + half


@_compiled
def _backward_rows(
    start: int, stop: int,
    own: Array, other: Array, window: Array, upstream: Array,
    by_square: Array, by_product: Array, by_own: Array,
    grad: Array,
) -> None:  # fmt: skip
    """Write rows start to stop of the gradient of `own`: each pixel gathers from all windows that contain it."""
    height, width = grad.shape[1], grad.shape[2]
    out_height, out_width = upstream.shape[1], upstream.shape[2]
    margin = WINDOW_SIZE - 1
    columns = np.zeros((3, out_width + 2 * margin), dtype=own.dtype)  # the margins stay zero
    sums = np.empty((3, width), dtype=own.dtype)
    for row in range(start, stop):
        plane, y = row // height, row % height
        columns[:, margin : margin + out_width] = 0
        for out_y in range(max(0, y - margin), min(out_height, y + 1)):
            weight = window[y - out_y]
            for x in range(out_width):
                weighted = weight * upstream[plane, out_y, x]
                columns[0, margin + x] += weighted * by_own[plane, out_y, x]
                columns[1, margin + x] += weighted * by_square[plane, out_y, x]
                columns[2, margin + x] += weighted * by_product[plane, out_y, x]
        for i in range(3):
            _blur_along(sums[i], columns[i], window)
        for x in range(width):
            twice = own[plane, y, x] + own[plane, y, x]
            grad[plane, y, x] = sums[0, x] + twice * sums[1, x] + other[plane, y, x] * sums[2, x]
