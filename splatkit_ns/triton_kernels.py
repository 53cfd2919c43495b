"""Kernels in Triton: whether they can be used on this machine, and how they are compiled before they are needed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import torch

KernelT = TypeVar("KernelT")

logger = logging.getLogger("splatkit_ns")


def working_kernel(load: Callable[[], KernelT], otherwise: str) -> KernelT | None:
    """A kernel that has been seen to run, or None.

    Args:
        load: imports the kernel, runs it once, and returns it.
        otherwise: what happens without it, for the log.
    """
    try:
        return load()
    except Exception as error:  # no Triton in this torch, or no C compiler for its launchers: many kinds of exception
        logger.info("%s (%s: %s).", otherwise, type(error).__name__, error)
        return None


class LazyKernel(Generic[KernelT]):
    """Calling it gives a kernel that has been seen to run, or None: the first call loads it, whichever thread's it is.

    Others that call meanwhile wait. Loading has a thread of its own; see `run_apart`. `lazy_kernel` makes one.
    """

    def __init__(self, load: Callable[[], KernelT], otherwise: str) -> None:
        self._load = load
        self._otherwise = otherwise
        self._lock = threading.Lock()
        self._found: tuple[KernelT | None] | None = None

    def __call__(self) -> KernelT | None:
        if self._found is None:
            run_apart(self._find)
        assert self._found is not None
        return self._found[0]

    def _find(self) -> None:
        with self._lock:
            if self._found is None:
                self._found = (working_kernel(self._load, self._otherwise),)


def lazy_kernel(otherwise: str) -> Callable[[Callable[[], KernelT]], LazyKernel[KernelT]]:
    """Decorates what imports a kernel, runs it once on the current GPU, and returns it; see `working_kernel`."""
    return lambda load: LazyKernel(load, otherwise)


def load_ahead(kernels: Sequence[LazyKernel[Any]], device: str) -> threading.Thread | None:
    """Load kernels in the background: compiling them takes seconds, in which data can be read.

    Whoever calls one of them meanwhile gets it when it is ready. Nothing is drawn from a random generator.

    Args:
        kernels: what a run will need, in no particular order.
        device: the run's; for any but a GPU, and for versions of Triton that do not compile in several threads at once
            (before 3.4), nothing is done.

    Returns:
        The thread, which ends by itself.
    """
    if torch.device(device).type != "cuda" or not kernels:
        return None
    torch.cuda.init()  # not in the thread: a seed that is set just then could get lost

    def load_all() -> None:
        with suppress(ImportError), torch.cuda.device(device):
            if can_compile_in_threads():
                with suppress(Exception):  # which loading the kernels meets again, and logs
                    start_triton()
                run_together(kernels)

    thread = threading.Thread(target=load_all, name="splatkit-kernels")
    thread.start()
    return thread


def run_together(calls: Sequence[Callable[[], object]]) -> None:
    """Call each in a thread of its own, on the current GPU; one after the other if Triton needs that.

    Triton compiles a kernel when it is launched for the first time, mostly without Python's lock.

    Raises:
        Exception: what one of them raised, after all have ended.
    """
    if can_compile_in_threads():
        run_apart(*calls)
    else:
        for call in calls:
            call()


def run_apart(*calls: Callable[[], object]) -> None:
    """Call each in a thread of its own, on the current GPU, and wait for all.

    nerfstudio's viewer interrupts a render by an exception at whatever line its thread is. What is loaded once for the
    rest of the process must not be cut short by that, nor take it for a failure: here only the waiting is.

    Raises:
        Exception: what one of them raised, after all have ended.
    """
    device = torch.cuda.current_device() if torch.cuda.is_available() else -1  # which stands for none
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
    """Launch a kernel that does nothing: what Triton does once a process, threads would each do for themselves."""
    import triton

    @triton.jit
    def nothing(pointer: Any) -> None:
        pass

    nothing[(1,)](torch.empty(1, device="cuda"))
