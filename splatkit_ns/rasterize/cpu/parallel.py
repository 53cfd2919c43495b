"""Run a kernel over a range with as many threads as torch uses.

Our own pool rather than numba's `prange`, whose OpenMP threads spin while they wait: on a machine of few cores where
anything else runs (a viewer, data loading, torch's own OpenMP pool), that made a step ten times slower. Here threads
sleep while they wait, take pieces as they get done, and may serve several callers (a viewer renders while training
does). Kernels release Python's interpreter lock and never depend on how a range is cut.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

PIECES_PER_THREAD = 6

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    """In a forked child the pool's threads do not exist."""
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)


def run_parallel(kernel: Callable[..., Any], count: int, *args: Any) -> None:
    """Call kernel(first, last, *args) on pieces that make up range(count), on `torch.get_num_threads()` threads."""
    global _pool
    threads = min(torch.get_num_threads(), count)
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
