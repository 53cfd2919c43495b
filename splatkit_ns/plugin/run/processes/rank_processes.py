"""The processes of a run on several devices: starting them, passing on signals, and one message if one fails."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from splatkit_ns import ranks
from splatkit_ns.environment import environment_variable
from splatkit_ns.errors import SplatkitError
from splatkit_ns.lasting_output import make_output_last
from splatkit_ns.plugin.run.ending.signals import stopped_early
from splatkit_ns.plugin.run.folder.checkpoint_files import checkpoint_paths, describe_last_checkpoint
from splatkit_ns.plugin.run.folder.run_folder import RunFolder
from splatkit_ns.plugin.run.parts.modules import CPU_KERNELS
from splatkit_ns.plugin.run.processes.machines import Machines, address_of
from splatkit_ns.plugin.run.processes.rank_failures import IMPORTED_AGAIN, Failure, raise_cause
from splatkit_ns.plugin.run.processes.rank_main import Lifelines, Place, rank_main
from splatkit_ns.plugin.run.processes.rank_waiting import RankProcess, passing_on, wait_for_all

logger = logging.getLogger("splatkit_ns")

SLOW_START = (
    "Each rank imports everything again, some 8 s more, because something has asked for CUDA devices in the process "
    "that starts them. With PYTORCH_NVML_BASED_CUDA_CHECK=1 in the environment that does no harm."
)
COPY_PATIENCE = 5.0
"""Seconds that a copy of this process has to say whether it can use CUDA."""
ENTRANCES = {"nerfstudio.scripts.train"}
"""Modules of commands, which each rank imports again: here once for all, if they run."""

NAME = "splatkit rank"
"""The begin of the names of the processes."""

Body = Callable[[Any, Any], Any]
"""The work of a rank: called with the config and an argument; the result of rank 0 is returned to the caller."""


def number_of_ranks(config: Any) -> int:
    """The number of processes that a run of this config is to have."""
    return max(config.machine.num_devices * config.machine.num_machines, getattr(config, "ranks_to_start", 1))


def end_if_imported() -> None:
    """End a rank that is still importing the script which started it, if that script begins the run itself."""
    if multiprocessing.current_process().name.startswith(NAME):
        os._exit(IMPORTED_AGAIN)


def hide_ranks(config: Any, machines: Machines | None) -> None:
    """Let ``ns-train`` make the trainer in its own process, which then starts the ranks: its launcher needs CUDA.

    Args:
        config: the config of the run.
        machines: those of the run, which have met; None if there is one.
    """
    config.ranks_to_start, config.machines = number_of_ranks(config), machines
    config.machine = replace(config.machine, num_devices=1, num_machines=1, machine_rank=0)


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
    """Run a function in several processes, one a device, that train one run together, and are started here.

    Ctrl+C, SIGTERM and that of a closed terminal are passed on to all of them. If one fails, the others save and end.

    Args:
        config: the config of the run, whose folder this process has claimed.
        body: the function; it and its argument can be pickled.
        argument: passed to `body`.
        forks: whether this process has done nothing but import and check options, so that copies of it can be ranks of
            GPUs, unless it has touched CUDA. They need not import everything again, which takes ten seconds.

    Returns:
        The result of rank 0; None on other machines than its own.

    Raises:
        SplatkitError: a rank failed, or the processes cannot be started; the message names rank and cause.
        StoppedBySignal: the ranks have been stopped.
        Exception: what else a rank has raised.
    """
    machines: Machines | None = getattr(config, "machines", None)
    if machines is None:
        return _run_in_ranks(config, body, argument, None, forks)
    with machines.telling():
        result = _run_in_ranks(config, body, argument, machines, forks)
    machines.leave()
    return result


def _run_in_ranks(config: Any, body: Body, argument: Any, machines: Machines | None, forks: bool) -> Any:
    folder = RunFolder(config)
    places = _places(config, machines, folder.is_continued)
    work = _pickled((_config_of_ranks(config), body, argument))
    context = _context(config.machine.device_type, forks)
    with (
        tempfile.TemporaryDirectory(prefix="splatkit-ranks-") as logs,
        folder.discarded_if_refused(),
        _lifelines(context) as (lines, machines_line),
    ):
        store = _store(config.machine.dist_url) if machines is None else None
        where = "" if machines is None else f" on {machines.this}"
        started: list[RankProcess] = []
        with passing_on(started, machines) as signums, _killed_at_the_end(started):
            for place in places:
                port = place.port if store is None else store.port
                place = replace(place, errors=Path(logs, f"{place.rank}.txt"), port=port)
                started.append(_start(context, place, work, lines, where))
                if signums:  # ranks that were not there yet have not been told, and no rank trains without them
                    raise stopped_early(signums[0])
            result = wait_for_all(started, machines, machines_line)
        _raise_failures(config, started, machines, signums)
        return result


def _config_of_ranks(config: Any) -> Any:
    """A copy of the config that starts no ranks, and does not hold the machines, with which ranks do not talk."""
    config = copy(config)
    config.machine, config.ranks_to_start, config.machines = replace(config.machine, num_devices=1), 1, None
    return config


@contextmanager
def _lifelines(context: Any) -> Generator[tuple[Lifelines, Connection]]:
    """The lifelines of ranks, and what closes that of the machines; all close after the block."""
    alive, lifeline = context.Pipe(duplex=False)
    all_here, machines_line = context.Pipe(duplex=False)
    try:
        yield Lifelines(alive, all_here, (lifeline, machines_line)), machines_line
    finally:
        for line in (alive, lifeline, all_here, machines_line):
            line.close()


@contextmanager
def _killed_at_the_end(started: list[RankProcess]) -> Generator[None]:
    """Kill the ranks that still run after the block."""
    try:
        yield
    finally:
        for each in started:
            each.process.kill()
            each.process.join()


def _raise_failures(config: Any, started: list[RankProcess], machines: Machines | None, signums: list[int]) -> None:
    """Raise the cause if ranks, or other machines, have failed; `signums` are the signals that came here."""
    fault = None if machines is None else machines.fault
    failures = [(each.name, each.failure) for each in started if each.failure is not None]
    if fault is not None:
        failures.insert(0, (fault.who, fault.failure))
    if failures:
        _note_signal(failures, signums, machines)
        number = len(started) + (machines is not None)  # what others say is known of one of them
        raise_cause(failures, number, signums, _describe_last_checkpoint(config, machines))


def _places(config: Any, machines: Machines | None, is_continued: bool) -> list[Place]:
    """The places of the ranks of this machine."""
    size, host, port, number = number_of_ranks(config), "127.0.0.1", 0, 0
    on_machine = size
    if machines is not None:
        on_machine, host, port = size // machines.number, machines.host, machines.port
        number = machines.this.number
    device_type = config.machine.device_type
    return [
        Place(number * on_machine + i, size, i, on_machine, device_type, host, port, is_continued, Path())
        for i in range(on_machine)
    ]


def _describe_last_checkpoint(config: Any, machines: Machines | None) -> str:
    if machines is not None and not machines.is_first:
        return f"Checkpoints are on {machines.first}, in {machines.first.folder}."
    folder = config.get_checkpoint_dir()
    if RunFolder(config).is_resuming and not checkpoint_paths(folder):
        return ""  # there is that from which the run was to go on
    return describe_last_checkpoint(folder)


def _note_signal(failures: list[tuple[str, Failure]], signums: list[int], machines: Machines | None) -> None:
    """Print that a signal has stopped the run if it came to another machine."""
    codes = [failure.code for _, failure in failures if failure.kind in ("stopped", "early")]
    if machines is not None and codes and not signums:
        name = signal.Signals(codes[0]).name
        CONSOLE.print(f"{name} on another machine: training has stopped on all.", highlight=False)


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
    address = ("", 0) if dist_url == "auto" else address_of(dist_url)
    if address is None:
        raise SplatkitError(f"--machine.dist-url is {dist_url}, expected auto or tcp://127.0.0.1:PORT.")
    try:
        return ranks.serve(address[1])
    except OSError as error:
        raise SplatkitError(
            f"--machine.dist-url is {dist_url}, but {error}. Name another, or leave it out: then a free one is found."
        ) from error


# ---------------------------------------------------------------------- starting


def _context(device_type: str, forks: bool) -> Any:
    """The context of `multiprocessing` in which ranks start."""
    if device_type == "cuda":
        copies = forks and _copies_can_use_cuda()
        if forks and not copies:
            logger.info(SLOW_START)
        return multiprocessing.get_context("fork" if copies else "spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["splatkit_ns.trainer", CPU_KERNELS, *(sys.modules.keys() & ENTRANCES)])
    return context


def _copies_can_use_cuda() -> bool:
    """Whether a copy of this process can use the GPU; it cannot if CUDA was initialised here, even to count devices."""
    if sys.platform != "linux":
        return False
    copy_id = os.fork()
    if copy_id == 0:
        os._exit(int(torch.cuda._is_in_bad_fork()))  # type: ignore[reportPrivateUsage]  # nothing public tells
    deadline = time.monotonic() + COPY_PATIENCE
    while time.monotonic() < deadline:
        ended, status = os.waitpid(copy_id, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.002)
    os.kill(copy_id, signal.SIGKILL)  # something that runs in every copy holds it up, and would hold ranks up, too
    os.waitpid(copy_id, 0)
    return False


def _start(context: Any, place: Place, work: bytes, lines: Lifelines, where: str = "") -> RankProcess:
    reports, writer = context.Pipe(duplex=False)
    arguments = (place, work, writer, lines)
    process = context.Process(target=rank_main, args=arguments, name=f"{NAME} {place.rank}")
    with _only_gpu(place):
        process.start()
    writer.close()
    name = f"Rank {place.rank} of {place.size} (the first is 0){where}"
    return RankProcess(name, process, reports, place.errors)


def _only_gpu(place: Place) -> AbstractContextManager[None]:
    """Let a process that is started in the block see the GPU of its rank alone, as its first."""
    if place.device_type != "cuda":
        return nullcontext()
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    visible = before.split(",") if before else [str(i) for i in range(torch.cuda.device_count())]
    return environment_variable(name, visible[place.local_rank].strip())
