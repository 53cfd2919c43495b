"""Stopping on Ctrl+C and SIGTERM, at the end of a step the first time, at once the second time; and if the terminal is
closed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from nerfstudio.utils.rich_utils import CONSOLE

HANG_UP: signal.Signals | None = getattr(signal, "SIGHUP", None)
"""The signal of a terminal that has been closed; None on Windows."""
STOPPING = tuple(each for each in (signal.SIGINT, signal.SIGTERM, HANG_UP) if each is not None)


class StoppedBySignal(SystemExit):
    """Training ended early, saved and cleaned up, because of a signal.

    A `SystemExit` with the conventional status, 128 + the signal's number: 130 for Ctrl+C, 143 for SIGTERM, 129 for a
    closed terminal. Not a `KeyboardInterrupt`, for which nerfstudio prints a traceback and exits with status 0.
    """

    def __init__(self, signum: int, is_early: bool = False) -> None:
        super().__init__(128 + signum)
        self.signum = signum
        self.is_early = is_early
        """Whether training had not begun."""


@contextmanager
def interruptible() -> Generator[None]:
    """Let Ctrl+C in the block, which runs before training, end the process with the same exit status as in training.

    Raises:
        StoppedBySignal: Python raised `KeyboardInterrupt`.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise stopped_early(signal.SIGINT) from None


def stopped_early(signum: int) -> StoppedBySignal:
    """Print that a signal has stopped a run before its training began, and make the exception to raise."""
    CONSOLE.print(f"{signal.Signals(signum).name}: stopped before training began.")
    return StoppedBySignal(signum, is_early=True)


def say_that_training_stops(signum: int) -> None:
    """Print what a first signal does in training."""
    name = signal.Signals(signum).name
    with suppress(RuntimeError):  # the signal came while text was being written, as to a terminal that is slow
        CONSOLE.print(f"{name}: training stops after this step and saves. Once more to stop at once, unsaved.")


@dataclass
class StopRequest:
    """A signal's request to stop the training; true if there is one."""

    signum: int | None = None

    def __bool__(self) -> bool:
        return self.signum is not None


def stopping_signals() -> list[signal.Signals]:
    """The signals that stop a run: `STOPPING`, without those of terminals if they are ignored, as by ``nohup``."""
    return [each for each in STOPPING if each != HANG_UP or signal.getsignal(each) != signal.SIG_IGN]


@contextmanager
def stop_requests() -> Generator[StopRequest, None, None]:
    """Treat the signals of `stopping_signals` as requests in the block; previous handlers are restored afterwards.

    After the first signal, SIGINT and SIGTERM have their default action again: a second one ends the process at once,
    also inside a kernel that takes long. A closed terminal does not: a shell may tell of it twice. Python lets only the
    main thread handle signals: in other threads nothing is changed.
    """
    request = StopRequest()

    def handle(signum: int, frame: FrameType | None) -> None:
        request.signum = request.signum or signum
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        say_that_training_stops(signum)

    with handled(handle):
        yield request


@contextmanager
def handled(handle: Callable[[int, FrameType | None], None]) -> Generator[None]:
    """Let a function handle the signals of `stopping_signals` in the block, if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous: dict[signal.Signals, Any] = {each: signal.signal(each, handle) for each in stopping_signals()}
    try:
        yield
    finally:
        for each, handler in previous.items():
            # None: a handler that was not set from Python, so that Python cannot restore it
            signal.signal(each, signal.SIG_DFL if handler is None else handler)
