"""The noise of 3DGS-MCMC on CUDA in one Triton kernel; the formula is in `splatkit_ns.densification.mcmc`."""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from splatkit_ns.rasterize._rows_triton import load3, rotation, store3, times, unit_quaternion

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
    w, x, y, z, _ = unit_quaternion(quats_ptr, row, live)
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = rotation(w, x, y, z)
    opacity = tl.sigmoid(tl.load(logits_ptr + row, mask=live, other=0.0))
    gate = tl.sigmoid(100.0 * (0.005 - opacity)) * strength
    n0, n1, n2, _ = tl.randn4x(seed, i)
    # along the axes of the Gaussian: its rotation's transpose, then its variances
    s0, s1, s2 = load3(log_scales_ptr, row, live)
    a0, a1, a2 = times(r00, r10, r20, r01, r11, r21, r02, r12, r22, n0, n1, n2)
    a0 *= tl.exp(2.0 * s0) * gate
    a1 *= tl.exp(2.0 * s1) * gate
    a2 *= tl.exp(2.0 * s2) * gate
    d0, d1, d2 = times(r00, r01, r02, r10, r11, r12, r20, r21, r22, a0, a1, a2)
    m0, m1, m2 = load3(means_ptr, row, live)
    store3(means_ptr, row, m0 + d0, m1 + d1, m2 + d2, live)


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
