"""Run a kernel over a range with as many threads as torch uses.

Our own pool rather than numba's `prange`, whose OpenMP threads spin while they wait: on a machine of few cores where
anything else runs (a viewer, data loading, torch's own OpenMP pool), that made a step ten times slower. Here threads
sleep while they wait, take pieces as they get done, and may serve several callers (a viewer renders while training
does). Kernels release Python's interpreter lock and never depend on how a range is cut.
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
"""Up to this many threads, torch's operations on one thread and ours on all are the quickest; more were not tried."""

_pool: ThreadPoolExecutor | None = None
_kernel_threads: int | None = None
"""How many threads kernels have within `cores_for_kernels`."""


def _forget_pool() -> None:
    """In a forked child the pool's threads do not exist."""
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)


@contextmanager
def cores_for_kernels() -> Generator[None]:
    """Within, where there are few threads, torch's own operations run on one of them, and kernels on all as before.

    torch's OpenMP threads spin for a while after each operation, on the core that a kernel's thread should have by
    then; and where other programs run, an operation waits for its slower half. On two cores a step is a fifth quicker
    without them.
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

    Within `cores_for_kernels` it is the number from before that counts.
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
        if not helper.cancel():  # one that has not begun has nothing left to do
            helper.result()
