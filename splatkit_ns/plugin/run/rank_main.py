"""One of the processes that train a run together: joining the others, staying silent, and reporting its end."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from splatkit_ns.plugin.run.folder import RunFolder
from splatkit_ns.plugin.run.rank_failures import Failure
from splatkit_ns.plugin.run.signals import StoppedBySignal
from splatkit_ns.ranks import RankLost, Ranks

LAST_SECONDS = 60.0
"""Seconds that a rank has to save and end after the process that started it has ended."""


@dataclass(frozen=True)
class Place:
    """The place of a rank in its run."""

    rank: int
    size: int
    device_type: str
    port: int
    """The port at which the ranks find each other."""
    is_continued: bool
    """Whether the run goes on in its own folder."""
    errors: Path
    """A file for what the rank writes to its standard error."""


def rank_main(place: Place, work: bytes, reports: Connection, alive: Connection, lifeline: Connection) -> None:
    """Run a rank.

    Args:
        place: its place in the run.
        work: the pickled config, function and argument; see `run_in_ranks`.
        reports: takes ("done", result) or ("failed", `Failure`), pickled.
        alive: closes when the process that started the ranks ends.
        lifeline: the other end of it, which that process alone is to hold.
    """
    lifeline.close()
    os.setpgrp()  # Ctrl+C goes to the process that started the ranks, which passes it on
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    if place.rank > 0:
        _be_silent(place.errors)
    if place.device_type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // place.size))
    try:
        config, body, argument = pickle.loads(work)
        if place.rank > 0:
            config.vis = "none"
        RunFolder(config).belongs_to_starter(place.is_continued)
        Ranks.start(place.rank, place.size, place.device_type, place.port)
        result = body(config, argument)
        report = pickle.dumps(("done", result if place.rank == 0 else None))
    except BaseException as error:
        reports.send_bytes(pickle.dumps(("failed", _failure(error))))
        _flush()
        os._exit(1)  # at once, so that the others notice; a GPU may wait for them for ever
    reports.send_bytes(report)  # as plain bytes: tensors sent as such are lost with this process
    _flush()
    os._exit(0)


def _end_with(alive: Connection) -> None:
    """End this process, saved if possible, when the one that started it has ended."""
    with suppress(OSError):
        alive.poll(None)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LAST_SECONDS)
    os._exit(1)


def _be_silent(errors: Path) -> None:
    """Show nothing, but keep what a crash writes."""
    for descriptor, path in ((1, os.devnull), (2, str(errors))):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    CONSOLE.quiet = True
    warnings.simplefilter("ignore")
    logger = logging.getLogger("splatkit_ns")
    logger.handlers, logger.propagate = [logging.NullHandler()], False


def _failure(error: BaseException) -> Failure:
    if isinstance(error, StoppedBySignal):
        return Failure("", kind="stopped", code=int(error.signum))
    if isinstance(error, KeyboardInterrupt):
        return Failure("", kind="stopped", code=int(signal.SIGINT))
    if isinstance(error, SystemExit):
        return Failure("", kind="exit", code=error.code)
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    kind = "lost" if _is_lost(error) else "error"
    return Failure(str(error), error if _survives(error) else None, trace, kind)  # type: ignore[arg-type]


def _is_lost(error: BaseException | None) -> bool:
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


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
