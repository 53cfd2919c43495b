"""The output of the command while it works: progress bars, and the time that stages took."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SHOWN_NAMES = 20
"""The most names of pictures that are printed."""

Report = Callable[[float], None]
"""A function that is told how many are done."""


@contextmanager
def bar(console: Console, description: str, total: float) -> Generator[Report]:
    """A progress bar with time left; none if the output is no terminal.

    Args:
        console: the output.
        description: what is being done.
        total: the number at which it is done.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left:"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done: progress.update(task, completed=min(done, total))


def shown_time(seconds: float) -> str:
    """A time, such as "41 s", "3 min 20 s" or "1 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Watch:
    """A clock for one stage of the work."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def shown(self) -> str:
        """The time since it was made."""
        return shown_time(time.perf_counter() - self._start)
