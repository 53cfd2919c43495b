"""Stopping on Ctrl+C and SIGTERM: at the end of a step the first time, at once the second time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from nerfstudio.utils.rich_utils import CONSOLE

STOPPING = (signal.SIGINT, signal.SIGTERM)


class StoppedBySignal(SystemExit):
    """Training ended early, saved and cleaned up, because of a signal.

    A `SystemExit` with the conventional status, 128 + the signal's number: 130 for Ctrl+C, 143 for SIGTERM. Not a
    `KeyboardInterrupt`, for which nerfstudio prints a traceback and exits with status 0.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


@contextmanager
def interruptible() -> Generator[None]:
    """Let Ctrl+C in the block, which runs before training, end the process with the same exit status as in training.

    Raises:
        StoppedBySignal: Python raised `KeyboardInterrupt`.
    """
    try:
        yield
    except KeyboardInterrupt:
        CONSOLE.print("SIGINT: stopped before training began.")
        raise StoppedBySignal(signal.SIGINT) from None


@dataclass
class StopRequest:
    """A signal's request to stop the training; true if there is one."""

    signum: int | None = None

    def __bool__(self) -> bool:
        return self.signum is not None


@contextmanager
def stop_requests() -> Generator[StopRequest, None, None]:
    """Treat SIGINT and SIGTERM as requests while the block runs; the previous handlers are restored afterwards.

    After the first signal both have their default action again: a second one ends the process at once, also inside
    a kernel that takes long. Python lets only the main thread handle signals: in other threads nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous: dict[signal.Signals, Any] = {}

    def handle(signum: int, frame: FrameType | None) -> None:
        request.signum = signum
        for each in STOPPING:
            signal.signal(each, signal.SIG_DFL)
        name = signal.Signals(signum).name
        CONSOLE.print(f"{name}: training stops after this step and saves. Once more to stop at once, unsaved.")

    for each in STOPPING:
        previous[each] = signal.signal(each, handle)
    try:
        yield request
    finally:
        for each, handler in previous.items():
            # None: a handler that was not set from Python, so that Python cannot restore it
            signal.signal(each, signal.SIG_DFL if handler is None else handler)
