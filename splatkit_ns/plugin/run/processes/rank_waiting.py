"""Waiting for the processes of a run: passing signals on to them, and ending those that hold the others up."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from splatkit_ns.plugin.run.ending.signals import handled, say_that_training_stops
from splatkit_ns.plugin.run.processes.machines import Machines
from splatkit_ns.plugin.run.processes.rank_failures import Failure, how_it_ended

GRACE = 40.0
"""Seconds that the other ranks have to save and end after one has failed; then they are killed."""


@dataclass(eq=False)
class RankProcess:
    """One rank, as the process that started it sees it."""

    name: str
    """The rank, as it stands at the begin of a sentence."""
    process: Any
    reports: Connection
    errors: Path
    failure: Failure | None = None
    is_done: bool = False
    result: Any = None

    def take_reports(self) -> None:
        """Take the report that has come, if there is one."""
        with suppress(EOFError, OSError):
            while self.reports.poll():
                name, value = pickle.loads(self.reports.recv_bytes())
                self.is_done = True
                if name == "failed":
                    self.failure = value
                else:
                    self.result = value


@contextmanager
def passing_on(started: list[RankProcess], machines: Machines | None) -> Generator[list[int]]:
    """Pass signals on to the ranks, which have process groups of their own, so that each gets them once.

    Yields:
        The signals that have come so far.
    """
    signums: list[int] = []

    def handle(signum: int, frame: Any) -> None:
        signums.append(signum)
        if machines is not None and not machines.is_first and len(signums) == 1:  # its ranks are silent
            say_that_training_stops(signum)
        for each in started:
            with suppress(ProcessLookupError):
                os.kill(each.process.pid, signum)

    with handled(handle):
        yield signums


# ---------------------------------------------------------------------- waiting


def wait_for_all(started: list[RankProcess], machines: Machines | None, machines_line: Connection) -> Any:
    """Wait until all ranks have ended, and kill those that do not end soon after one has failed.

    Args:
        started: those of this machine.
        machines: of the run; None if there is one.
        machines_line: closed to let the ranks no longer wait for other machines.

    Returns:
        The result of rank 0; None if it has none.
    """
    running, deadline = list(started), float("inf")
    while running:
        quiet = [each.reports for each in running if not each.is_done]  # a full pipe would hold a rank up
        wait([each.process.sentinel for each in running] + quiet, timeout=1.0)
        for each in _take_ended(running):
            if not each.is_done:
                how = how_it_ended(each.process.exitcode, each.process.pid, each.errors)
                each.failure = each.failure or Failure(how, kind="lost" if machines_line.closed else "error")
        if machines is not None:
            for each in started:
                if each.failure is not None and each.failure.kind in ("error", "early"):
                    machines.tell(each.name, each.failure)
            if machines.fault is not None:
                machines_line.close()
        if machines_line.closed or any(each.failure is not None for each in started):
            deadline = min(deadline, time.monotonic() + GRACE)
        if time.monotonic() > deadline:
            for each in running:
                each.failure = each.failure or Failure("was killed, because it did not end", kind="lost")
                each.process.kill()
    if machines is not None and any(each.failure is not None and each.failure.kind == "lost" for each in started):
        machines.await_cause()
    return started[0].result


def _take_ended(running: list[RankProcess]) -> list[RankProcess]:
    """Take the ranks that have ended out of the list, and the reports of all."""
    ended = [each for each in running if not each.process.is_alive()]  # first: their reports have come by now
    for each in running:
        each.take_reports()
    running[:] = [each for each in running if each not in ended]
    return ended
