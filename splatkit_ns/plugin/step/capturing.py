"""The capture of CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from splatkit_ns.errors import SplatkitError

ResultT = TypeVar("ResultT")


def captured(graph: torch.cuda.CUDAGraph, run: Callable[[], ResultT], pool: Any = None) -> ResultT:
    """Capture what a function launches on the current stream, which must not be the default one; nothing runs yet.

    Args:
        graph: holds the kernels afterwards.
        run: the function; what it raises is raised.
        pool: the memory of the graph; None means memory of its own.

    Returns:
        The result of the function.

    Raises:
        SplatkitError: the capture failed in a way after which CUDA's random numbers cannot be drawn any more.
    """
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    failure: Exception | None = None
    result: list[ResultT] = []
    try:
        result.append(run())
    except Exception as error:
        failure = error
    try:
        graph.capture_end()
    except RuntimeError as error:
        raise SplatkitError(
            f"This step cannot be captured in a CUDA graph ({failure or error}). Start again with "
            "--cuda-graphs False, or do not declare the renderer or loss capturable."
        ) from (failure or error)
    if failure is not None:
        raise failure
    return result[0]
