"""SSIM on the CPU: compiled by numba, both directions, many times quicker than torch's convolutions.

Rows are computed one by one from buffers that stay in the cache. Each is computed by one thread in a fixed order, so
the result does not depend on the number of threads. A plain thread pool runs the rows, not numba's own threads: two of
those at once (a viewer that renders during training) end the process where only numba's "workqueue" layer is installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


class SsimMap(torch.autograd.Function):
    """SSIM of each window: (B, C, H, W) twice -> (B, C, H - 10, W - 10), for contiguous CPU tensors."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, window: Tensor, c1: float, c2: float) -> Tensor:
        size = len(window)
        out_shape = (*a.shape[:2], a.shape[2] - size + 1, a.shape[3] - size + 1)
        values = a.new_empty(out_shape)
        # derivatives of SSIM by the blurred maps; the last is needed for the gradient of b only
        wanted = (any(ctx.needs_input_grad), any(ctx.needs_input_grad), *ctx.needs_input_grad[:2])
        partials = [a.new_empty(out_shape if want else (0, 0, 0, 0)) for want in wanted]
        ctx.save_for_backward(a, b, window, *partials)
        constants = np.array([c1, c2], dtype=_planes(window).dtype)
        arrays = [_planes(tensor) for tensor in (a, b, window, values, *partials)]
        _over_rows(_forward_rows, values, (*arrays, constants))
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
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
    """The tensor's memory as an array, with batch and channels as one dimension."""
    return tensor.detach().flatten(0, -3).numpy() if tensor.dim() > 2 else tensor.detach().numpy()


def _over_rows(kernel: Callable[..., None], output: Tensor, arguments: tuple[Array, ...]) -> None:
    """Run the kernel over all rows of the output, in as many parts as torch has threads."""
    num_rows = output.shape[0] * output.shape[1] * output.shape[2]
    num_parts = max(1, min(torch.get_num_threads(), num_rows))
    bounds = [num_rows * part // num_parts for part in range(num_parts + 1)]
    others = [_pool(os.getpid()).submit(kernel, bounds[i], bounds[i + 1], *arguments) for i in range(1, num_parts)]
    kernel(bounds[0], bounds[1], *arguments)
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def _pool(process_id: int) -> ThreadPoolExecutor:
    """One pool a process: threads do not survive a fork."""
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="ssim")


_compiled = njit(nogil=True, cache=True, fastmath={"contract", "arcp"}, error_model="numpy")


@_compiled
def _add_scaled(out: Array, values: Array, weight: Any) -> None:
    for x in range(out.shape[0]):
        out[x] += weight * values[x]


@_compiled
def _forward_rows(
    start: int, stop: int,
    a: Array, b: Array, window: Array,
    values: Array, by_square: Array, by_product: Array, by_a: Array, by_b: Array,
    constants: Array,
) -> None:  # fmt: skip
    """Rows start to stop of the SSIM map, counted through all planes, and its derivatives where these have a size."""
    size, width, out_height, out_width = window.shape[0], a.shape[2], values.shape[1], values.shape[2]
    c1, c2 = constants[0], constants[1]
    columns = np.empty((5, width), dtype=a.dtype)
    maps = np.empty((5, out_width), dtype=a.dtype)
    for row in range(start, stop):
        plane, y = row // out_height, row % out_height
        columns[:] = 0
        for t in range(size):
            weight, row_a, row_b = window[t], a[plane, y + t], b[plane, y + t]
            for x in range(width):
                value_a, value_b = row_a[x], row_b[x]
                weighted_a, weighted_b = weight * value_a, weight * value_b
                columns[0, x] += weighted_a
                columns[1, x] += weighted_b
                columns[2, x] += weighted_a * value_a
                columns[3, x] += weighted_b * value_b
                columns[4, x] += weighted_a * value_b
        maps[:] = 0
        for i in range(5):
            for t in range(size):
                _add_scaled(maps[i], columns[i, t : t + out_width], window[t])
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
    """Rows start to stop of the gradient by `own`: each pixel gathers from all the windows that it is in."""
    size, height, width = window.shape[0], grad.shape[1], grad.shape[2]
    out_height, out_width = upstream.shape[1], upstream.shape[2]
    margin = size - 1
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
        sums[:] = 0
        for i in range(3):
            for t in range(size):
                _add_scaled(sums[i], columns[i, margin - t : margin - t + width], window[t])
        for x in range(width):
            twice = own[plane, y, x] + own[plane, y, x]
            grad[plane, y, x] = sums[0, x] + twice * sums[1, x] + other[plane, y, x] * sums[2, x]
