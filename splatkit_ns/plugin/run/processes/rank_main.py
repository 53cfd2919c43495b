"""One of the processes that train a run together: joining the others, staying silent, and reporting its end."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.run.folder.run_folder import RunFolder
from splatkit_ns.plugin.run.processes.rank_failures import end_at_once, tell_failures_to
from splatkit_ns.ranks import Ranks, give_up

LAST_SECONDS = 60.0
"""Seconds that a rank has to save and end after the process that started it has ended."""


@dataclass(frozen=True)
class Place:
    """The place of a rank in its run."""

    rank: int
    size: int
    local_rank: int
    """The number among those of this machine."""
    on_machine: int
    """The number of ranks on this machine."""
    device_type: str
    host: str
    port: int
    """The port of the store through which the ranks connect."""
    is_continued: bool
    """Whether the run goes on in its own folder."""
    errors: Path
    """A file for what the rank writes to its standard error."""


@dataclass(frozen=True)
class Lifelines:
    """Pipes whose closing tells a rank to end; the process that started the ranks holds the other ends."""

    alive: Connection
    """Closes when that process ends."""
    all_here: Connection
    """Closes when another machine has failed, or is lost."""
    others: tuple[Connection, ...]
    """The other ends, for the rank to close."""


def rank_main(place: Place, work: bytes, reports: Connection, lifelines: Lifelines) -> None:
    """Run a rank.

    Args:
        place: its place in the run.
        work: the pickled config, function and argument; see `run_in_ranks`.
        reports: takes ("done", result) or ("failed", `Failure`), pickled.
        lifelines: end this rank.
    """
    for each in lifelines.others:
        each.close()
    tell_failures_to(lambda failure: reports.send_bytes(pickle.dumps(("failed", failure))))
    os.setpgrp()  # Ctrl+C goes to the process that started the ranks, which passes it on
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(lifelines.alive,), daemon=True).start()
    threading.Thread(target=_give_up_with, args=(lifelines,), daemon=True).start()
    if place.rank > 0:
        _be_silent(place.errors)
    if place.device_type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // place.on_machine))
    try:
        config, body, argument = unpickled(work)
        if place.rank > 0:
            config.vis, config.writers = "none", ()
        ranks = Ranks.start(place.rank, place.size, place.device_type, place.port, place.host, place.on_machine)
        _take_over_folder(config, place, ranks)
        result = body(config, argument)
        report = pickle.dumps(("done", result if place.rank == 0 else None))
    except BaseException as error:
        end_at_once(error)  # so that the others notice; a GPU may wait for them for ever
        raise
    reports.send_bytes(report)  # as plain bytes: tensors sent as such are lost with this process
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def unpickled(work: bytes) -> Any:
    """Read what the process that started the ranks has sent.

    Raises:
        SplatkitError: a class or function of the user is not found in this process.
    """
    try:
        return pickle.loads(work)
    except (AttributeError, ImportError) as error:
        raise SplatkitError(
            f"A process of this run does not find a class or function of yours ({error}): it imports the program, and "
            "does not run it. Put parts at the top of a module or script, not under "
            'if __name__ == "__main__": or into a notebook.'
        ) from error


def _end_with(alive: Connection) -> None:
    """End this process, saved if possible, when the one that started it has ended."""
    with suppress(OSError):
        alive.poll(None)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LAST_SECONDS)
    os._exit(1)


def _give_up_with(lifelines: Lifelines) -> None:
    """End this process when another machine is lost: in training, by the next exchange, saved; before it, at once."""
    with suppress(OSError):
        lifelines.all_here.poll(None)
        time.sleep(0.2)
        if lifelines.alive.poll(0):  # the process that started this one has ended, and both have closed
            return
    give_up()
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:  # training, in which signals are requests, has not begun
        os._exit(1)


def _take_over_folder(config: Any, place: Place, ranks: Ranks) -> None:
    """Write into the folder that has been claimed by the process which started this one.

    Machine 0 alone reads the checkpoint to go on from: ranks of other machines go on if rank 0 does.
    """
    folder = RunFolder(config)
    folder.belongs_to_starter(place.is_continued)
    if ranks.are_on_several_machines:
        is_resuming = ranks.message_of_first(folder.is_resuming)
        if place.rank >= place.on_machine:
            config.load_dir = config.load_checkpoint = None
            folder.belongs_to_starter(is_resuming)


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
