"""Failures of the processes of a run, and the one message about them."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.run.signals import StoppedBySignal
from splatkit_ns.plugin.step.finite import NotFiniteError

IMPORTED_AGAIN = 64
"""The exit status of a rank whose script begins the run again when it is imported."""


@dataclass(frozen=True)
class Failure:
    """The failure of a rank."""

    text: str
    error: Exception | None = None
    """The exception, if it can be sent to another process."""
    trace: str = ""
    """Its traceback."""
    kind: str = "error"
    """"error"; "lost" if another rank was the cause; "stopped" by a signal; "exit" by `SystemExit`."""
    code: Any = None
    """The signal's number, or the exit status."""


class RemoteTraceback(Exception):
    """The traceback of an exception in another process, as its text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def how_it_ended(status: int, pid: int, errors: Path) -> str:
    """A phrase for a rank that has ended without a report.

    Args:
        status: its exit status; minus the signal's number if one ended it.
        pid: of its process.
        errors: the file with what it has written to its standard error, if it exists.
    """
    if status == IMPORTED_AGAIN:
        return 'began the run again: put the calls of your script under if __name__ == "__main__":'
    if status < 0:
        name = signal.Signals(-status).name
        hint = ", as the system does if main memory is full" if -status == signal.SIGKILL else ""
        how = f"was killed by {name}{hint} (process {pid})"
    else:
        how = f"ended with status {status} (process {pid})"
    lines = errors.read_text(errors="replace").strip().splitlines() if errors.exists() else []
    return how + (f"; its last words: {' '.join(lines[-3:])}" if lines else "")


def raise_cause(failed: Sequence[Failure | None], signums: list[int], checkpoint: str) -> NoReturn:
    """Raise the cause of the end of the ranks.

    Args:
        failed: how each rank has failed; None if it has not.
        signums: the signals that this process has received.
        checkpoint: a sentence that says which checkpoint there is.
    """
    failures = [(rank, failure) for rank, failure in enumerate(failed) if failure is not None]
    for _, failure in failures:
        if failure.kind == "exit":
            raise SystemExit(failure.code)
    for _, failure in failures:
        if failure.kind == "stopped":
            raise StoppedBySignal(failure.code)
    if signums:
        raise StoppedBySignal(signums[0])
    causes = [(rank, failure) for rank, failure in failures if failure.kind == "error"] or failures
    (rank, first), size = causes[0], len(failed)
    if first.trace and not isinstance(first.error, SplatkitError):
        found = first.error or RuntimeError(first.text)
        raise found from RemoteTraceback(f"In rank {rank} of {size} (the first is 0):\n{first.trace}")
    if all(isinstance(cause.error, NotFiniteError) for _, cause in causes):  # names the rank, and one its terms
        rank, first = max(causes, key=lambda entry: len(entry[1].text))
        causes = [(rank, first)] * size
    is_everywhere = len(causes) == size and len({cause.text for _, cause in causes}) == 1
    colon = ":" if first.trace else ""
    told = first.text.replace("  ", " ").replace(" \n", "\n").strip()
    text = told if is_everywhere else f"Rank {rank} of {size} (the first is 0){colon} {told}"
    raise _like(first.error, text if checkpoint in text else f"{text.rstrip('.')}. {checkpoint}")


def _like(error: Exception | None, text: str) -> SplatkitError:
    """An error of the same class with another text."""
    try:
        made: Any = SplatkitError(text) if error is None else type(error)(text)
    except Exception:  # a class with other arguments
        return SplatkitError(text)
    return made if str(made) == text else SplatkitError(text)
