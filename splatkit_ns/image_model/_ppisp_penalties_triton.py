"""PPISP's regularisers of one photograph and their gradients on CUDA; see `ppisp` for the formulas."""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from splatkit_ns.image_model._ppisp_constants_triton import ROWS


@triton.jit
def _of_channels(ptr, size: tl.constexpr, j):
    """Numbers j of the three channels, and their mean."""
    live = j < size
    first = tl.load(ptr + j, mask=live, other=0.0)
    second = tl.load(ptr + size + j, mask=live, other=0.0)
    third = tl.load(ptr + 2 * size + j, mask=live, other=0.0)
    return first, second, third, (first + second + third) / 3.0


@triton.jit
def _variance(ptr, size: tl.constexpr, j):
    """The variances of a camera's numbers over the channels, summed up."""
    first, second, third, mean = _of_channels(ptr, size, j)
    first, second, third = first - mean, second - mean, third - mean
    return tl.sum(first * first + second * second + third * third) / 3.0


@triton.jit(do_not_specialize=["index_ptr"])
def _penalties(
    exposure_ptr, colors_ptr, centers_ptr, falloffs_ptr, curves_ptr, cameras_ptr, index_ptr, out_ptr,
    prior, center_reg, falloff_reg, channel_reg,
):  # fmt: skip
    """Write the four terms of `PPISP.regularizers`; one program."""
    index = tl.load(index_ptr)
    camera = tl.load(cameras_ptr + index)
    exposure = tl.load(exposure_ptr + index)
    j = tl.arange(0, 16)
    shifts = tl.load(colors_ptr + 8 * index + j, mask=j < 8, other=0.0)
    centers = tl.load(centers_ptr + 6 * camera + j, mask=j < 6, other=0.0)
    falloffs = tl.load(falloffs_ptr + 9 * camera + j, mask=j < 9, other=0.0)
    tl.store(out_ptr, prior * (exposure * exposure + tl.sum(shifts * shifts)))
    tl.store(out_ptr + 1, center_reg * tl.sum(centers * centers) / 3.0)
    tl.store(out_ptr + 2, falloff_reg * tl.sum(tl.maximum(falloffs, 0.0)) / 9.0)
    variance = _variance(centers_ptr + 6 * camera, 2, j)
    variance += _variance(falloffs_ptr + 9 * camera, 3, j) + _variance(curves_ptr + 12 * camera, 4, j)
    tl.store(out_ptr + 3, channel_reg * variance / 9.0)


@triton.jit
def _store_rows(out_ptr, row, rows, j, size: tl.constexpr, chosen, values):
    """Store values in the chosen row, 0 in all others."""
    values = tl.where((row == chosen)[:, None], values[None, :], 0.0)
    tl.store(out_ptr + size * row[:, None] + j[None, :], values, mask=(row < rows)[:, None] & (j < size)[None, :])


@triton.jit
def _deviations(ptr, size: tl.constexpr, channel_size: tl.constexpr, j):
    """A camera's numbers j, less their means over the channels."""
    live = j < size
    values = tl.load(ptr + j, mask=live, other=0.0)
    first = tl.load(ptr + j % channel_size, mask=live, other=0.0)
    second = tl.load(ptr + channel_size + j % channel_size, mask=live, other=0.0)
    third = tl.load(ptr + 2 * channel_size + j % channel_size, mask=live, other=0.0)
    return values, values - (first + second + third) / 3.0


@triton.jit(do_not_specialize=["index_ptr", "photographs"])
def _penalty_gradients(
    exposure_ptr, colors_ptr, centers_ptr, falloffs_ptr, curves_ptr, cameras_ptr, index_ptr, g_ptr,
    g_exposure_ptr, g_colors_ptr, g_centers_ptr, g_falloffs_ptr, g_curves_ptr,
    prior, center_reg, falloff_reg, channel_reg, photographs, N: tl.constexpr,
):  # fmt: skip
    """Write the gradients of all parameters, of which a program has the rows of N photographs."""
    row = tl.program_id(0) * N + tl.arange(0, N)
    index = tl.load(index_ptr)
    camera = tl.load(cameras_ptr + index)
    g_prior = 2.0 * prior * tl.load(g_ptr)
    g_center = 2.0 / 3.0 * center_reg * tl.load(g_ptr + 1)
    g_falloff = falloff_reg / 9.0 * tl.load(g_ptr + 2)
    g_channels = 2.0 / 27.0 * channel_reg * tl.load(g_ptr + 3)
    value = tl.where(row == index, g_prior * tl.load(exposure_ptr + index), 0.0)
    tl.store(g_exposure_ptr + row, value, mask=row < photographs)
    j = tl.arange(0, 16)
    shifts = tl.load(colors_ptr + 8 * index + j, mask=j < 8, other=0.0)
    _store_rows(g_colors_ptr, row, photographs, j, 8, index, g_prior * shifts)
    values, deviations = _deviations(centers_ptr + 6 * camera, 6, 2, j)
    _store_rows(g_centers_ptr, row, photographs, j, 6, camera, g_center * values + g_channels * deviations)
    values, deviations = _deviations(falloffs_ptr + 9 * camera, 9, 3, j)
    g_positive = tl.where(values >= 0.0, g_falloff, 0.0)  # at 0 as PyTorch's clamp
    _store_rows(g_falloffs_ptr, row, photographs, j, 9, camera, g_positive + g_channels * deviations)
    values, deviations = _deviations(curves_ptr + 12 * camera, 12, 4, j)
    _store_rows(g_curves_ptr, row, photographs, j, 12, camera, g_channels * deviations)


class PPISPPenalties(torch.autograd.Function):
    """(exposure, colors, centers, falloffs, curves, cameras, index, weights) -> the four regularisers, weighted, (4,).

    The weights are the four of `PPISP`; see `PPISPImage` for the rest. The first five get gradients.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, weights = arguments
        terms = tensors[0].new_empty(4)
        with torch.cuda.device_of(terms):
            _penalties[(1,)](*tensors, terms, *weights)
        ctx.save_for_backward(*tensors)
        ctx.weights = weights
        return terms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_terms: Tensor) -> tuple[Tensor | None, ...]:
        *parameters, cameras, index = ctx.saved_tensors
        gradients = [torch.empty_like(parameter) for parameter in parameters]
        photographs = len(cameras)
        with torch.cuda.device_of(g_terms):
            _penalty_gradients[(triton.cdiv(photographs, ROWS),)](
                *parameters, cameras, index, g_terms.contiguous(), *gradients, *ctx.weights, photographs, N=ROWS
            )
        return *gradients, None, None, None
