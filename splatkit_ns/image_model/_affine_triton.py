"""An affine change of colours on CUDA in one Triton kernel per direction; see `affine`.

The gradient of the twelve numbers is a sum over all pixels. Each program writes its own sums, and PyTorch adds them in
an order of its own that does not change from run to run: the gradient has the same bits every time.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from splatkit_ns.rasterize._rows_triton import load3

BLOCK = 1024


@triton.jit(do_not_specialize=["pixels"])
def _change_colors(colors_ptr, change_ptr, out_ptr, pixels, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    live = i < pixels
    red, green, blue = load3(colors_ptr, i, live)
    for c in tl.static_range(3):
        of_channel = red if c == 0 else (green if c == 1 else blue)
        changed = of_channel + tl.load(change_ptr + 9 + c)
        changed += tl.load(change_ptr + c) * red
        changed += tl.load(change_ptr + 3 + c) * green
        changed += tl.load(change_ptr + 6 + c) * blue
        tl.store(out_ptr + 3 * i + c, changed, mask=live)


@triton.jit(do_not_specialize=["pixels"])
def _gradients(colors_ptr, change_ptr, g_ptr, g_colors_ptr, sums_ptr, pixels, B: tl.constexpr):
    """Write the gradient of the colours, and each program's sums for the change: (12, programs)."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    i = program * B + tl.arange(0, B)
    live = i < pixels
    red, green, blue = load3(colors_ptr, i, live)
    g_red, g_green, g_blue = load3(g_ptr, i, live)
    for k in tl.static_range(3):
        g_channel = g_red if k == 0 else (g_green if k == 1 else g_blue)
        g_color = g_channel + tl.load(change_ptr + 3 * k) * g_red
        g_color += tl.load(change_ptr + 3 * k + 1) * g_green
        g_color += tl.load(change_ptr + 3 * k + 2) * g_blue
        tl.store(g_colors_ptr + 3 * i + k, g_color, mask=live)
        of_channel = red if k == 0 else (green if k == 1 else blue)
        tl.store(sums_ptr + (3 * k) * programs + program, tl.sum(of_channel * g_red))
        tl.store(sums_ptr + (3 * k + 1) * programs + program, tl.sum(of_channel * g_green))
        tl.store(sums_ptr + (3 * k + 2) * programs + program, tl.sum(of_channel * g_blue))
        tl.store(sums_ptr + (9 + k) * programs + program, tl.sum(g_channel))


class AffineChange(torch.autograd.Function):
    """(colors (…, 3), change (1, 4, 3)) -> the changed colours (…, 3), contiguous. All float32."""

    @staticmethod
    def forward(ctx: Any, colors: Tensor, change: Tensor) -> Tensor:
        colors, change = colors.contiguous(), change.contiguous()
        out = torch.empty_like(colors)
        pixels = colors.numel() // 3
        with torch.cuda.device_of(colors):  # does nothing for CPU tensors, which Triton's interpreter accepts
            _change_colors[(triton.cdiv(pixels, BLOCK),)](colors, change, out, pixels, B=BLOCK)
        ctx.save_for_backward(colors, change)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_out: Tensor) -> tuple[Tensor, Tensor]:
        colors, change = ctx.saved_tensors
        pixels = colors.numel() // 3
        programs = triton.cdiv(pixels, BLOCK)
        g_colors, sums = torch.empty_like(colors), colors.new_empty(12, programs)
        with torch.cuda.device_of(colors):
            _gradients[(programs,)](colors, change, g_out.contiguous(), g_colors, sums, pixels, B=BLOCK)
        return g_colors, sums.sum(1).view_as(change)


def first_launches(device: str) -> None:
    """Launch each kernel with the kinds of arguments that training has, for Triton to compile it."""
    colors = torch.zeros(1, 1, 1, 3, device=device, requires_grad=True)
    change = torch.zeros(1, 4, 3, device=device, requires_grad=True)
    out: Any = AffineChange.apply(colors, change)
    out.sum().backward()
