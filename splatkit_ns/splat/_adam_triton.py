"""One Adam step of several parameters in one launch, as a Triton kernel.

The arithmetic is that of PyTorch's fused Adam without weight decay and AMSGrad (https://arxiv.org/abs/1412.6980,
algorithm 1). Triton does not specialise on lengths, so a change of rows does not compile a kernel again; the kernel
reads step counts and learning rates on the device, so that a CUDA graph of it can be replayed with others.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
SLOTS = 7
"""The number of parameters in one launch: the six of Gaussians and the poses of the cameras."""
MAX_NUMBERS = 2**31 - BLOCK
"""The limit of numbers in a parameter, from the kernel's 32-bit indices."""


class AdamTensors(NamedTuple):
    """The tensors of one parameter's step: on one device, float32, contiguous and of one shape."""

    param: Tensor
    grad: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor
    """The number of steps taken so far, 0-dimensional."""
    lr: Tensor
    """The learning rate, 0-dimensional float32."""


@triton.jit
def _one_minus_power(log_beta, step):
    """Return 1 - beta^step, by a series if beta^step is so close to 1 that the difference would lose digits."""
    x = log_beta * step
    series = 1.0 + x / 6.0 * (1.0 + x / 7.0 * (1.0 + x / 8.0))
    series = 1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0 * series)))
    return tl.where(x > -0.5, -x * series, 1.0 - tl.exp(x))


@triton.jit
def _update(
    p_ptr, g_ptr, m_ptr, v_ptr, step_size, root_correction, offsets, live, beta1, rest1, beta2, rest2, eps
):  # fmt: skip
    g = tl.load(g_ptr + offsets, mask=live, other=0.0)
    m = tl.load(m_ptr + offsets, mask=live, other=0.0)
    v = tl.load(v_ptr + offsets, mask=live, other=0.0)
    p = tl.load(p_ptr + offsets, mask=live, other=0.0)
    m = beta1 * m + rest1 * g
    v = beta2 * v + rest2 * g * g
    p -= step_size * m / (tl.sqrt(v) / root_correction + eps)
    tl.store(m_ptr + offsets, m, mask=live)
    tl.store(v_ptr + offsets, v, mask=live)
    tl.store(p_ptr + offsets, p, mask=live)


@triton.jit
def _slot(
    first, end, n, p, g, m, v, t, lr, next_n, next_p, next_g, next_m, next_v, next_t, next_lr, B: tl.constexpr,
):  # fmt: skip
    """Select this parameter, or the next one if this program's block lies behind it.

    Returns:
        The parameter's first block, the block behind its last, its length and its pointers.
    """
    if tl.program_id(0) >= end:
        first, end = end, end + tl.cdiv(next_n, B)
        n, p, g, m, v, t, lr = next_n, next_p, next_g, next_m, next_v, next_t, next_lr
    return first, end, n, p, g, m, v, t, lr


@triton.jit(do_not_specialize=[f"{name}{slot}" for name in ("n", "t", "lr") for slot in range(SLOTS)])
def _adam(
    p0, g0, m0, v0, t0, lr0, n0,
    p1, g1, m1, v1, t1, lr1, n1,
    p2, g2, m2, v2, t2, lr2, n2,
    p3, g3, m3, v3, t3, lr3, n3,
    p4, g4, m4, v4, t4, lr4, n4,
    p5, g5, m5, v5, t5, lr5, n5,
    p6, g6, m6, v6, t6, lr6, n6,
    beta1, rest1, log_beta1, beta2, rest2, log_beta2, eps, B: tl.constexpr,
):  # fmt: skip
    """Update one block of B numbers per program; the blocks of all parameters follow one another.

    Each program picks its parameter first, so that the code has the update once: seven copies take seconds to compile.
    """
    first, end, n, p, g, m, v, t, lr = 0, tl.cdiv(n0, B), n0, p0, g0, m0, v0, t0, lr0
    first, end, n, p, g, m, v, t, lr = _slot(first, end, n, p, g, m, v, t, lr, n1, p1, g1, m1, v1, t1, lr1, B)
    first, end, n, p, g, m, v, t, lr = _slot(first, end, n, p, g, m, v, t, lr, n2, p2, g2, m2, v2, t2, lr2, B)
    first, end, n, p, g, m, v, t, lr = _slot(first, end, n, p, g, m, v, t, lr, n3, p3, g3, m3, v3, t3, lr3, B)
    first, end, n, p, g, m, v, t, lr = _slot(first, end, n, p, g, m, v, t, lr, n4, p4, g4, m4, v4, t4, lr4, B)
    first, end, n, p, g, m, v, t, lr = _slot(first, end, n, p, g, m, v, t, lr, n5, p5, g5, m5, v5, t5, lr5, B)
    first, end, n, p, g, m, v, t, lr = _slot(first, end, n, p, g, m, v, t, lr, n6, p6, g6, m6, v6, t6, lr6, B)
    start = (tl.program_id(0) - first) * B
    step = tl.load(t)
    step_size = tl.load(lr) / _one_minus_power(log_beta1, step)
    root_correction = tl.sqrt(_one_minus_power(log_beta2, step))
    offsets = start + tl.arange(0, B)
    if start + B <= n:  # without a mask, four numbers are loaded at once
        everything = tl.full((B,), 1, tl.int1)
        _update(p, g, m, v, step_size, root_correction, offsets, everything, beta1, rest1, beta2, rest2, eps)
    else:
        _update(p, g, m, v, step_size, root_correction, offsets, offsets < n, beta1, rest1, beta2, rest2, eps)


@torch.no_grad()
def adam_step(entries: Sequence[AdamTensors], beta1: float, beta2: float, eps: float) -> None:
    """Take one step, in place: parameters, both moments and the counts of steps.

    Args:
        entries: any number of parameters, each of less than `MAX_NUMBERS` numbers; each of them once.
        beta1: decay of the first moment, in (0, 1).
        beta2: decay of the second, in (0, 1).
        eps: added to the root of the second moment.
    """
    # As in PyTorch, the counts have a launch of their own: other programs still have to read them.
    torch._foreach_add_([entry.step for entry in entries], 1)
    decays = (beta1, 1.0 - beta1, math.log(beta1), beta2, 1.0 - beta2, math.log(beta2))
    for start in range(0, len(entries), SLOTS):
        chosen = entries[start : start + SLOTS]
        blocks = sum(triton.cdiv(entry.param.numel(), BLOCK) for entry in chosen)
        if blocks == 0:
            continue
        arguments = [part for entry in chosen for part in (*entry, entry.param.numel())]
        arguments += (*chosen[0], 0) * (SLOTS - len(chosen))
        _adam[(blocks,)](*arguments, *decays, eps, BLOCK)
    for entry in entries:
        torch.autograd.graph.increment_version(entry.param)


def first_launch(device: str) -> None:
    """Launch a tiny step with the kinds of arguments that training has, for Triton to compile the kernel."""
    param, grad, exp_avg, exp_avg_sq = torch.zeros(4, 4, device=device)
    probe = AdamTensors(param, grad, exp_avg, exp_avg_sq, *torch.zeros(2, device=device))
    adam_step([probe], 0.9, 0.999, 1e-15)
