"""The processes of a run on several devices: starting them, passing on signals, and one message if one fails."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from copy import copy
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from splatkit_ns import ranks
from splatkit_ns.environment import environment_variable
from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.reporting.lasting_output import make_output_last
from splatkit_ns.plugin.run.checkpoints import describe_last_checkpoint
from splatkit_ns.plugin.run.folder import RunFolder
from splatkit_ns.plugin.run.modules import CPU_KERNELS
from splatkit_ns.plugin.run.rank_failures import IMPORTED_AGAIN, Failure, how_it_ended, raise_cause
from splatkit_ns.plugin.run.rank_main import Place, rank_main
from splatkit_ns.plugin.run.signals import stopped_early, stopping_signals

GRACE = 40.0
"""Seconds that the other ranks have to save and end after one has failed; then they are killed."""

ENTRANCES = {"nerfstudio.scripts.train"}
"""Modules of commands, which each rank imports again: here once for all, if they run."""

NAME = "splatkit rank"
"""The begin of the names of the processes."""

Body = Callable[[Any, Any], Any]
"""The work of a rank: called with the config and an argument; the result of rank 0 is returned to the caller."""


def number_of_ranks(config: Any) -> int:
    """The number of processes that a run of this config is to have."""
    return max(config.machine.num_devices, getattr(config, "ranks_to_start", 1))


def end_if_imported() -> None:
    """End a rank that is still importing the script which started it, if that script begins the run itself."""
    if multiprocessing.current_process().name.startswith(NAME):
        os._exit(IMPORTED_AGAIN)


def hide_ranks(config: Any) -> None:
    """Let ``ns-train`` make the trainer in its own process, which then starts the ranks: its launcher needs CUDA."""
    config.ranks_to_start = number_of_ranks(config)
    config.machine = replace(config.machine, num_devices=1)


class RankedTraining:
    """Looks to ``ns-train`` like the trainer of one process, and trains in several.

    Args:
        config: the config of the run.
    """

    def __init__(self, config: Any) -> None:
        self._config = config

    def setup(self) -> None:
        """Do nothing: each rank sets itself up."""

    def train(self) -> None:
        """Train in all ranks; see `run_in_ranks`."""
        make_output_last()
        try:
            run_in_ranks(self._config, _train, forks=True)
        finally:
            RunFolder(self._config).release()


def _train(config: Any, argument: Any) -> None:
    trainer = config.setup()
    trainer.setup()
    trainer.train()


def run_in_ranks(config: Any, body: Body, argument: Any = None, *, forks: bool = False) -> Any:
    """Run a function in several processes of this machine, one a device, that train one run together.

    Ctrl+C, SIGTERM and that of a closed terminal are passed on to all of them. If one fails, the others save and end.

    Args:
        config: the config of the run, whose folder this process has claimed.
        body: the function; it and its argument can be pickled.
        argument: passed to `body`.
        forks: whether this process has done nothing but import and check options, so that copies of it can be ranks of
            GPUs, unless it has touched CUDA. They need not import everything again, which takes ten seconds.

    Returns:
        The result of rank 0.

    Raises:
        SplatkitError: a rank failed, or the processes cannot be started; the message names rank and cause.
        StoppedBySignal: the ranks have been stopped.
        Exception: what else a rank has raised.
    """
    size, device_type, folder = number_of_ranks(config), config.machine.device_type, RunFolder(config)
    config = copy(config)
    config.machine, config.ranks_to_start = replace(config.machine, num_devices=1), 1
    work = _pickled((config, body, argument))
    context: Any = multiprocessing.get_context(_start_method(device_type, forks))
    with tempfile.TemporaryDirectory(prefix="splatkit-ranks-") as logs, folder.discarded_if_refused():
        if device_type != "cuda":
            context.set_forkserver_preload(["splatkit_ns.trainer", CPU_KERNELS, *(sys.modules.keys() & ENTRANCES)])
        store = _store(config.machine.dist_url)
        alive, lifeline = context.Pipe(duplex=False)
        started: list[_Process] = []
        with _passing_on(started) as signums:
            try:
                for rank in range(size):
                    errors = Path(logs, f"{rank}.txt")
                    place = Place(rank, size, device_type, store.port, folder.is_continued, errors)
                    started.append(_start(context, place, work, alive, lifeline))
                    if signums:  # ranks that were not there yet have not been told, and no rank trains without them
                        raise stopped_early(signums[0])
                result = _wait_for_all(started)
            finally:
                for each in started:
                    each.process.kill()
                    each.process.join()
                lifeline.close()
                alive.close()
        if any(each.failure is not None for each in started):
            raise_cause(
                [each.failure for each in started], signums, describe_last_checkpoint(config.get_checkpoint_dir())
            )
        return result


def _pickled(work: Any) -> bytes:
    try:
        return pickle.dumps(work)
    except Exception as error:  # whatever the parts of a user raise
        raise SplatkitError(
            f"This run cannot be sent to several processes, because a part of it cannot be pickled ({error}). Put "
            "classes and functions into a module of their own, outside of other functions, or train in one process."
        ) from error


def _store(dist_url: str) -> Any:
    """The meeting place of the ranks, at a free port or at that of ``--machine.dist-url``."""
    number = "0" if dist_url == "auto" else dist_url.rpartition(":")[2]
    if not number.isdigit() or int(number) >= 2**16:
        raise SplatkitError(f"--machine.dist-url is {dist_url}, expected auto or tcp://127.0.0.1:PORT.")
    try:
        return ranks.serve(int(number))
    except OSError as error:
        raise SplatkitError(
            f"--machine.dist-url is {dist_url}, but {error}. Name another, or leave it out: then a free one is found."
        ) from error


# ---------------------------------------------------------------------- starting


@dataclass(eq=False)
class _Process:
    """One rank, as the process that started it sees it."""

    rank: int
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


def _start_method(device_type: str, forks: bool) -> str:
    if device_type != "cuda":
        return "forkserver"
    return "fork" if forks and _copies_can_use_cuda() else "spawn"


def _copies_can_use_cuda() -> bool:
    """Whether a copy of this process can use the GPU; it cannot if CUDA was initialised here, even to count devices."""
    if sys.platform != "linux":
        return False
    copy_id = os.fork()
    if copy_id == 0:
        os._exit(int(torch.cuda._is_in_bad_fork()))  # type: ignore[reportPrivateUsage]  # nothing public tells
    return os.waitpid(copy_id, 0)[1] == 0


def _start(context: Any, place: Place, work: bytes, alive: Connection, lifeline: Connection) -> _Process:
    reports, writer = context.Pipe(duplex=False)
    arguments = (place, work, writer, alive, lifeline)
    process = context.Process(target=rank_main, args=arguments, name=f"{NAME} {place.rank}")
    with _only_gpu(place):
        process.start()
    writer.close()
    return _Process(place.rank, process, reports, place.errors)


def _only_gpu(place: Place) -> AbstractContextManager[None]:
    """Let a process that is started in the block see the GPU of its rank alone, as its first."""
    if place.device_type != "cuda":
        return nullcontext()
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    visible = before.split(",") if before else [str(i) for i in range(torch.cuda.device_count())]
    return environment_variable(name, visible[place.rank].strip())


@contextmanager
def _passing_on(started: list[_Process]) -> Generator[list[int]]:
    """Pass signals on to the ranks, which have process groups of their own, so that each gets them once.

    Yields:
        The signals that have come so far.
    """
    signums: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield signums
        return

    def handle(signum: int, frame: Any) -> None:
        signums.append(signum)
        for each in started:
            with suppress(ProcessLookupError):
                os.kill(each.process.pid, signum)

    previous = {signum: signal.signal(signum, handle) for signum in stopping_signals()}
    try:
        yield signums
    finally:
        for signum, handler in previous.items():
            # None: a handler that was not set from Python, so that Python cannot restore it
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


# ---------------------------------------------------------------------- waiting


def _wait_for_all(started: list[_Process]) -> Any:
    """Wait until all ranks have ended, and kill those that do not end soon after one has failed.

    Returns:
        The result of rank 0; None if it has none.
    """
    running, deadline = list(started), float("inf")
    while running:
        quiet = [each.reports for each in running if not each.is_done]  # a full pipe would hold a rank up
        wait([each.process.sentinel for each in running] + quiet, timeout=1.0)
        ended = [each for each in running if not each.process.is_alive()]
        for each in running:
            each.take_reports()
        for each in ended:
            running.remove(each)
            if not each.is_done:
                each.failure = each.failure or Failure(
                    how_it_ended(each.process.exitcode, each.process.pid, each.errors)
                )
        if any(each.failure is not None for each in started):
            deadline = min(deadline, time.monotonic() + GRACE)
        if time.monotonic() > deadline:
            for each in running:
                each.failure = each.failure or Failure("was killed, because it did not end", kind="lost")
                each.process.kill()
    return started[0].result
