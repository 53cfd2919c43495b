"""`splatkit_ns.loss_fn.geometry.normal_error` on CUDA in one Triton kernel per direction."""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 1024


@triton.jit
def _load(normals_ptr, references_ptr, alphas_ptr, i, live):
    """Load both vectors and alpha; 0 for pixels that do not count, because their values may be NaN."""
    nx = tl.load(normals_ptr + 3 * i, mask=live, other=0.0)
    ny = tl.load(normals_ptr + 3 * i + 1, mask=live, other=0.0)
    nz = tl.load(normals_ptr + 3 * i + 2, mask=live, other=0.0)
    rx = tl.load(references_ptr + 3 * i, mask=live, other=0.0)
    ry = tl.load(references_ptr + 3 * i + 1, mask=live, other=0.0)
    rz = tl.load(references_ptr + 3 * i + 2, mask=live, other=0.0)
    return nx, ny, nz, rx, ry, rz, tl.load(alphas_ptr + i, mask=live, other=0.0)


@triton.jit(do_not_specialize=["pixels"])
def _sums(normals_ptr, references_ptr, alphas_ptr, valid_ptr, sums_ptr, pixels, B: tl.constexpr):
    """Write each block's sum of errors, and after all of these, each block's number of valid pixels."""
    block = tl.program_id(0)
    i = block * B + tl.arange(0, B)
    live = tl.load(valid_ptr + i, mask=i < pixels, other=0) != 0
    nx, ny, nz, rx, ry, rz, a = _load(normals_ptr, references_ptr, alphas_ptr, i, live)
    tl.store(sums_ptr + block, tl.sum(a * (a - (nx * rx + ny * ry + nz * rz))))
    tl.store(sums_ptr + tl.num_programs(0) + block, tl.sum(live.to(tl.float32)))


@triton.jit(do_not_specialize=["pixels"])
def _gradients(
    normals_ptr, references_ptr, alphas_ptr, valid_ptr, g_ptr, count_ptr, g_normals_ptr, g_references_ptr, pixels,
    B: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * B + tl.arange(0, B)
    inside = i < pixels
    live = tl.load(valid_ptr + i, mask=inside, other=0) != 0
    nx, ny, nz, rx, ry, rz, a = _load(normals_ptr, references_ptr, alphas_ptr, i, live)
    g = -a * (tl.load(g_ptr) / tl.load(count_ptr))
    tl.store(g_normals_ptr + 3 * i, g * rx, mask=inside)
    tl.store(g_normals_ptr + 3 * i + 1, g * ry, mask=inside)
    tl.store(g_normals_ptr + 3 * i + 2, g * rz, mask=inside)
    tl.store(g_references_ptr + 3 * i, g * nx, mask=inside)
    tl.store(g_references_ptr + 3 * i + 1, g * ny, mask=inside)
    tl.store(g_references_ptr + 3 * i + 2, g * nz, mask=inside)


class NormalError(torch.autograd.Function):
    """(normals, references, alphas, valid) -> the error; gradients for the first two. All float32 but valid, bool."""

    @staticmethod
    def forward(ctx: Any, normals: Tensor, references: Tensor, alphas: Tensor, valid: Tensor) -> Tensor:
        tensors = tuple(tensor.contiguous() for tensor in (normals, references, alphas, valid.view(torch.uint8)))
        blocks = triton.cdiv(valid.numel(), BLOCK)
        sums = alphas.new_empty(2, blocks)
        with torch.cuda.device_of(alphas):  # does nothing for CPU tensors, which Triton's interpreter accepts
            _sums[(blocks,)](*tensors, sums, valid.numel(), B=BLOCK)
        error, count = sums.sum(1).unbind()
        count = count.clamp(min=1.0)
        ctx.save_for_backward(*tensors, count)
        return error / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_error: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, count = ctx.saved_tensors
        g_normals, g_references = torch.empty_like(tensors[0]), torch.empty_like(tensors[1])
        pixels = tensors[2].numel()
        with torch.cuda.device_of(g_error):
            _gradients[(triton.cdiv(pixels, BLOCK),)](
                *tensors, g_error, count, g_normals, g_references, pixels, B=BLOCK
            )  # fmt: skip
        return g_normals, g_references, None, None
