"""Run a kernel over a range with as many threads as torch uses.

The pool is our own because the OpenMP threads of numba's `prange` spin while they wait: on a machine with few cores and
other work (a viewer, data loading, torch's own OpenMP pool), that made a step ten times slower. Here threads sleep
while they wait, take the next piece when one is done, and may serve several callers (a viewer renders during training).
Kernels release Python's interpreter lock, and their results never depend on the pieces.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

PIECES_PER_THREAD = 6
FEW_THREADS = 2
"""The most threads with which `cores_for_kernels` has an effect: it is faster up to there, and more were not tried."""

_pool: ThreadPoolExecutor | None = None
_kernel_threads: int | None = None
"""The number of threads that kernels have within `cores_for_kernels`."""


def _forget_pool() -> None:
    """Drop the pool in a forked child, which has none of its threads."""
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)


@contextmanager
def cores_for_kernels() -> Generator[None]:
    """Run torch's own operations on one thread within the block, and kernels on all as before, if threads are few.

    torch's OpenMP threads spin for a while after each operation, on a core that a kernel's thread needs by then; and if
    other programs run, an operation waits for its slower half. On two cores a step is a fifth quicker without them.
    """
    global _kernel_threads
    threads = torch.get_num_threads()
    if _kernel_threads is not None or not 1 < threads <= FEW_THREADS:
        yield
        return
    _kernel_threads = threads
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _kernel_threads = None
        torch.set_num_threads(threads)


def run_parallel(kernel: Callable[..., Any], count: int, *args: Any) -> None:
    """Call kernel(first, last, *args) on pieces that make up range(count), on `torch.get_num_threads()` threads.

    Within `cores_for_kernels` the number of threads is the one from before that block.
    """
    global _pool
    threads = min(_kernel_threads or torch.get_num_threads(), count)
    if threads <= 1:
        kernel(0, count, *args)
        return
    pieces = min(count, threads * PIECES_PER_THREAD)
    waiting = iter(range(pieces))  # shared: each piece is handed out once

    def work() -> None:
        for piece in waiting:
            kernel(piece * count // pieces, (piece + 1) * count // pieces, *args)

    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="splatkit-rasterize")
    helpers = [_pool.submit(work) for _ in range(threads - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():  # a helper that has not begun has nothing left to do
            helper.result()
