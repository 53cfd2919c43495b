"""A small Triton kernel, and the time that it takes from its source to its result."""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false

from __future__ import annotations

import tempfile
import time

import torch
import triton
import triton.language as tl

from splatkit_ns.environment import environment_variable

SIZE = 1024


@triton.jit
def _double(values, results, size: tl.constexpr):
    place = tl.arange(0, size)
    tl.store(results + place, 2 * tl.load(values + place))


def probe() -> float:
    """Compile and run the kernel on the current GPU, in an empty cache, so that all that compiling needs is needed.

    Returns:
        Seconds.

    Raises:
        RuntimeError: the result is wrong.
        Exception: whatever Triton raises.
    """
    values = torch.arange(SIZE, dtype=torch.float32, device="cuda")
    results = torch.zeros_like(values)
    with (
        tempfile.TemporaryDirectory(prefix="splatkit-doctor-") as folder,
        environment_variable("TRITON_CACHE_DIR", folder),
    ):
        start = time.perf_counter()
        _double[(1,)](values, results, size=SIZE)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    if not torch.equal(results, 2 * values):
        raise RuntimeError("a kernel that doubles numbers gave wrong ones")
    return seconds
