"""Failures of the processes of a run, and the one message about them."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.run.ending.signals import StoppedBySignal
from splatkit_ns.plugin.step.finite import NotFiniteError
from splatkit_ns.ranks import GPU_PATIENCE, RankLost

IMPORTED_AGAIN = 64
"""The exit status of a rank whose script begins the run again when it is imported."""


KILLERS: dict[int, str] = {
    signal.SIGKILL: ", as the system does if main memory is full",
    signal.SIGABRT: ", as PyTorch does if a GPU has waited for that of another rank for more than "
    f"{GPU_PATIENCE.seconds} seconds",
}
"""The usual cause of a signal that kills a rank, as a part of the message."""


@dataclass(frozen=True)
class Failure:
    """The failure of a rank."""

    text: str
    error: Exception | None = None
    """The exception, if it can be sent to another process."""
    trace: str = ""
    """Its traceback."""
    kind: str = "error"
    """"error"; "lost" if another rank was the cause; "stopped" by a signal, "early" before training began; "exit" by
    `SystemExit`."""
    code: Any = None
    """The signal's number, or the exit status."""


class RemoteTraceback(Exception):
    """The traceback of an exception in another process, as its text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


_tell: Callable[[Failure], None] | None = None


def tell_failures_to(tell: Callable[[Failure], None]) -> None:
    """Make this process a rank whose failure is told so."""
    global _tell
    _tell = tell


def end_at_once(error: BaseException) -> None:
    """Tell the failure of this process, and end it without cleaning up, which waits for the GPU; if it is a rank."""
    if _tell is None:
        return
    _tell(failure_of(error))
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)


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
        how = f"was killed by {signal.Signals(-status).name}{KILLERS.get(-status, '')} (process {pid})"
    else:
        how = f"ended with status {status} (process {pid})"
    lines = errors.read_text(errors="replace").strip().splitlines() if errors.exists() else []
    return how + (f"; its last words: {' '.join(lines[-3:])}" if lines else "")


def failure_of(error: BaseException) -> Failure:
    """The failure of a process that an exception has ended."""
    if isinstance(error, StoppedBySignal):
        return Failure("", kind="early" if error.is_early else "stopped", code=int(error.signum))
    if isinstance(error, KeyboardInterrupt):
        return Failure("", kind="early", code=int(signal.SIGINT))
    if isinstance(error, SystemExit):
        return Failure("", kind="exit", code=error.code)
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    kind = "lost" if is_lost(error) else "error"
    sent: Any = error if _survives(error) else None
    if sent is None and isinstance(error, SplatkitError):  # of a class with other arguments
        sent = SplatkitError(str(error))
    return Failure(str(error), sent, trace, kind)


def is_lost(error: BaseException | None) -> bool:
    """Whether the end of another rank is the cause of an exception."""
    while error is not None:
        if isinstance(error, RankLost):
            return True
        error = error.__cause__
    return False


def _survives(error: BaseException) -> bool:
    """Whether an exception comes out of a pipe as it went in."""
    try:
        return isinstance(error, Exception) and str(pickle.loads(pickle.dumps(error))) == str(error)
    except Exception:  # a user's exception may raise anything
        return False


def raise_cause(failures: Sequence[tuple[str, Failure]], number: int, signums: list[int], checkpoint: str) -> NoReturn:
    """Raise the cause of the end of the ranks.

    Args:
        failures: what has failed, for the begin of a sentence, and how; "" if the failure says what has.
        number: of failures there can be: what all of them say needs no rank.
        signums: the signals that this process has received.
        checkpoint: a sentence that says which checkpoint there is; "" adds none.
    """
    for kinds in (("exit",), ("stopped", "early")):
        for _, failure in failures:
            if failure.kind in kinds:
                raise SystemExit(failure.code) if failure.kind == "exit" else StoppedBySignal(failure.code)
    if signums:
        raise StoppedBySignal(signums[0])
    causes = [(who, failure) for who, failure in failures if failure.kind == "error"] or list(failures)
    who, first = causes[0]
    if first.trace and not isinstance(first.error, SplatkitError):
        found = first.error or RuntimeError(first.text)
        raise found from RemoteTraceback(f"In {who[:1].lower()}{who[1:]}:\n{first.trace}")
    if all(isinstance(cause.error, NotFiniteError) for _, cause in causes):  # names the rank, and one its terms
        who, first = max(causes, key=lambda entry: len(entry[1].text))
        causes = [(who, first)] * number
    is_everywhere = len(causes) == number and len({cause.text for _, cause in causes}) == 1
    colon = ":" if first.trace else ""
    told = first.text.replace("  ", " ").replace(" \n", "\n").strip()
    text = told if is_everywhere or not who else f"{who}{colon} {told}"
    raise _like(first.error, text if checkpoint in text else f"{text.rstrip('.')}. {checkpoint}")


def _like(error: Exception | None, text: str) -> SplatkitError:
    """An error of the same class with another text."""
    try:
        made: Any = SplatkitError(text) if error is None else type(error)(text)
    except Exception:  # a class with other arguments
        return SplatkitError(text)
    return made if str(made) == text else SplatkitError(text)
