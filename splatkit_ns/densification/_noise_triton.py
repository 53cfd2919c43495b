"""The noise of 3DGS-MCMC on CUDA in one Triton kernel; the formula is in `splatkit_ns.densification.mcmc`."""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128


@triton.jit(do_not_specialize=["number"])
def _add_noise(
    means_ptr, quats_ptr, log_scales_ptr, logits_ptr, numbers_ptr, number, B: tl.constexpr
):  # one Gaussian per lane
    strength = tl.load(numbers_ptr).to(tl.float32)
    seed = tl.load(numbers_ptr + 1).to(tl.int32)
    i = tl.program_id(0) * B + tl.arange(0, B)
    live = i < number
    row = i.to(tl.int64)
    w = tl.load(quats_ptr + 4 * row, mask=live, other=1.0)
    x = tl.load(quats_ptr + 4 * row + 1, mask=live, other=0.0)
    y = tl.load(quats_ptr + 4 * row + 2, mask=live, other=0.0)
    z = tl.load(quats_ptr + 4 * row + 3, mask=live, other=0.0)
    length = tl.maximum(tl.sqrt(w * w + x * x + y * y + z * z), 1e-12)
    w, x, y, z = w / length, x / length, y / length, z / length
    opacity = tl.sigmoid(tl.load(logits_ptr + row, mask=live, other=0.0))
    gate = tl.sigmoid(100.0 * (0.005 - opacity)) * strength
    n0, n1, n2, _ = tl.randn4x(seed, i)
    # along the axes of the Gaussian: its rotation's transpose, then its variances
    v0 = tl.exp(2.0 * tl.load(log_scales_ptr + 3 * row, mask=live, other=0.0)) * gate
    v1 = tl.exp(2.0 * tl.load(log_scales_ptr + 3 * row + 1, mask=live, other=0.0)) * gate
    v2 = tl.exp(2.0 * tl.load(log_scales_ptr + 3 * row + 2, mask=live, other=0.0)) * gate
    r00, r01, r02 = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    r10, r11, r12 = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    r20, r21, r22 = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    a0 = (r00 * n0 + r10 * n1 + r20 * n2) * v0
    a1 = (r01 * n0 + r11 * n1 + r21 * n2) * v1
    a2 = (r02 * n0 + r12 * n1 + r22 * n2) * v2
    mean = means_ptr + 3 * row
    tl.store(mean, tl.load(mean, mask=live, other=0.0) + r00 * a0 + r01 * a1 + r02 * a2, mask=live)
    tl.store(mean + 1, tl.load(mean + 1, mask=live, other=0.0) + r10 * a0 + r11 * a1 + r12 * a2, mask=live)
    tl.store(mean + 2, tl.load(mean + 2, mask=live, other=0.0) + r20 * a0 + r21 * a1 + r22 * a2, mask=live)


def add_noise(means: Tensor, quats: Tensor, log_scales: Tensor, logits: Tensor, numbers: Tensor) -> None:
    """Move the means in place; a CUDA graph can hold this.

    Args:
        means: (N, 3) float32, contiguous, as are the others.
        quats: (N, 4), wxyz, of any length.
        log_scales: (N, 3).
        logits: logits of the opacities, (N,).
        numbers: (2,) float64: the strength of the noise, see `splatkit_ns.densification.mcmc.add_position_noise`, and
            its seed, an integer of at least 0 and below 2**31.
    """
    number = len(means)
    if number == 0:
        return
    grid = (triton.cdiv(number, BLOCK),)
    with torch.cuda.device_of(means):  # does nothing for CPU tensors, which Triton's interpreter accepts
        _add_noise[grid](means, quats, log_scales, logits, numbers, number, B=BLOCK)


def first_launch(device: str) -> None:
    """Add noise of strength 0 with the kinds of arguments that training has, for Triton to compile the kernel."""
    one = torch.ones(1, 4, device=device)
    numbers = torch.zeros(2, dtype=torch.float64, device=device)
    add_noise(one[:, :3].clone(), one, one[:, :3].contiguous(), one[:, 0].contiguous(), numbers)
