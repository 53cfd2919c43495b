"""The capture of CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from splatkit_ns.errors import SplatkitError

ResultT = TypeVar("ResultT")


class GraphMemory:
    """A memory pool for graphs that outlives the single ones, so that each reuses the memory of the one before.

    Args:
        stream: the stream on which they are captured.
    """

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream
        self._holder: torch.cuda.CUDAGraph | None = None

    def pool(self) -> Any:
        """The pool."""
        if self._holder is None:
            holder = torch.cuda.CUDAGraph()
            with torch.cuda.stream(self._stream):
                holder.capture_begin(capture_error_mode="thread_local")
                self._held = torch.zeros(1, device="cuda")
                holder.capture_end()
            self._holder = holder
        return self._holder.pool()

    def free(self) -> None:
        """Free the memory, as far as no graph has it."""
        self._holder = self._held = None


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
