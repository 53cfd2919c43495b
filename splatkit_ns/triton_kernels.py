"""Kernels in Triton: a check that they work on this machine, and their compilation before use."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import torch

KernelT = TypeVar("KernelT")

logger = logging.getLogger("splatkit_ns")

ATTEMPTS = 3
"""The number of times that a kernel is loaded if files fail: processes that compile at once remove empty folders of
Triton's cache from under each other (https://github.com/triton-lang/triton/issues/11512)."""


def working_kernel(
    load: Callable[[], KernelT], otherwise: str, report: Callable[[Exception], object] = lambda error: None
) -> KernelT | None:
    """Return a kernel that has run successfully, or None.

    Args:
        load: function that imports the kernel, runs it once, and returns it.
        otherwise: consequence of its absence, for the log.
        report: function that is called with the error.
    """
    for left in reversed(range(ATTEMPTS)):
        try:
            return load()
        except Exception as error:  # no Triton in this torch, no C compiler for its launchers: many kinds of exception
            if left and isinstance(error, OSError):
                continue
            logger.info("%s (%s: %s).", otherwise, type(error).__name__, error)
            report(error)
            break
    return None


class LazyKernel(Generic[KernelT]):
    """A kernel that the first call loads, in any thread: a call returns it if it has run successfully, else None.

    Calls from other threads wait meanwhile. Loading has a thread of its own; see `run_apart`. `lazy_kernel` makes one.
    """

    def __init__(self, load: Callable[[], KernelT], otherwise: str) -> None:
        self._load = load
        self._otherwise = otherwise
        self._lock = threading.Lock()
        self._found: tuple[KernelT | None] | None = None
        self.failure: str | None = None
        """The reason why the last call returned None, one line without a full stop."""

    def __call__(self) -> KernelT | None:
        if self._found is None:
            run_apart(self._find)
        assert self._found is not None
        return self._found[0]

    def _find(self) -> None:
        with self._lock:
            if self._found is None:
                self._found = (working_kernel(self._load, self._otherwise, self._note_failure),)

    def _note_failure(self, error: Exception) -> None:
        first_words = " ".join(str(error).split())[:300]
        self.failure = f"Triton's kernels cannot be used here ({type(error).__name__}: {first_words})"


def lazy_kernel(otherwise: str) -> Callable[[Callable[[], KernelT]], LazyKernel[KernelT]]:
    """Decorate a function that imports a kernel, runs it on the current GPU, and returns it; see `working_kernel`."""
    return lambda load: LazyKernel(load, otherwise)


def load_ahead(kernels: Sequence[LazyKernel[Any]], device: str) -> threading.Thread | None:
    """Load kernels in the background: compiling them takes seconds, in which data can be read.

    A call of one of them waits until it is ready. No random numbers are drawn.

    Args:
        kernels: the kernels that a run will need, in any order.
        device: the device of the run; nothing is done if it is no GPU, or if this version of Triton does not compile in
            several threads at once (before 3.4).

    Returns:
        The thread, which ends by itself.
    """
    if torch.device(device).type != "cuda" or not kernels:
        return None
    torch.cuda.init()  # not in the thread: a seed that is set meanwhile could get lost

    def load_all() -> None:
        with suppress(ImportError), torch.cuda.device(device):
            if can_compile_in_threads():
                with suppress(Exception):  # loading the kernels raises the error again, and logs it
                    start_triton()
                run_together(kernels)

    thread = threading.Thread(target=load_all, name="splatkit-kernels")
    thread.start()
    return thread


def run_together(calls: Sequence[Callable[[], object]]) -> None:
    """Call each function in a thread of its own, on the current GPU; in sequence if Triton needs that.

    Triton compiles a kernel when it is launched for the first time, mostly without Python's lock.

    Raises:
        Exception: the exception of one of them, after all have ended.
    """
    if can_compile_in_threads():
        run_apart(*calls)
    else:
        for call in calls:
            call()


def run_apart(*calls: Callable[[], object]) -> None:
    """Call each function in a thread of its own, on the current GPU, and wait for all.

    nerfstudio's viewer interrupts a render by an exception at any line of its thread. The exception must neither
    interrupt the loading of kernels, which happens once per process, nor count as its failure: here it only ends the
    waiting.

    Raises:
        Exception: the exception of one of them, after all have ended.
    """
    device = torch.cuda.current_device() if torch.cuda.is_available() else -1  # -1: no device
    errors: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        try:
            with torch.cuda.device(device):
                call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,), name="splatkit-kernel") for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def can_compile_in_threads() -> bool:
    """Whether this version of Triton compiles in several threads at once, as its own asynchronous compilation does.

    Raises:
        ImportError: there is no Triton.
    """
    import triton

    return hasattr(triton, "AsyncCompileMode")


def start_triton() -> None:
    """Launch a kernel that does nothing, for Triton's set-up once per process, which each thread would repeat."""
    import triton

    @triton.jit
    def nothing(pointer):  # type: ignore[reportMissingParameterType]  # Triton looks every other name up on the GPU
        pass

    nothing[(1,)](torch.empty(1, device="cuda"))
