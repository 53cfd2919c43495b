"""Several "machines" on one host: each a process that starts ranks, as the command does."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch

from splatkit_ns.data_provider import NerfstudioDataProvider
from splatkit_ns.modules import SplatBaseModule
from splatkit_ns.plugin.run.folder.run_folder import RunFolder
from splatkit_ns.plugin.run.processes import machines
from splatkit_ns.plugin.run.processes.rank_processes import run_in_ranks
from splatkit_ns.plugin.trainer import SplatkitTrainerConfig
from splatkit_ns.splat import SplatTrainingState
from splatkit_ns.trainer import SplatTrainer, SplatTrainerConfig
from tests.faults.children import Child
from tests.faults.runs import CHEAP, CheapLoss, CheapRenderer, make_config
from tests.ranks.bodies import Trained, train

QUICK = {"PATIENCE": 60.0, "SILENCE": 20.0, "BEAT": 0.05}
"""Times of `machines`, in seconds."""


def free_address() -> str:
    """A ``dist-url`` of this host, whose port is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


@dataclass
class Started:
    """A machine."""

    child: Child
    config: SplatkitTrainerConfig
    result: Path

    def status(self) -> int:
        """How it ended, once it has."""
        return self.child.wait(120)

    def trained(self) -> Trained | None:
        """What `train` has returned there; None on other machines than the first."""
        status = self.status()
        assert status == 0, self.child.text()
        return pickle.loads(self.result.read_bytes())


def start_machine(
    scene: Path,
    folder: Path,
    number: int,
    url: str,
    *,
    num_machines: int = 2,
    num_devices: int = 1,
    modules: Sequence[SplatBaseModule[Any]] = (),
    times: dict[str, float] | None = None,
    versions: dict[str, str] | None = None,
    output: Path | None = None,
    **options: Any,
) -> Started:
    """Start one machine; its runs go into a folder of its own, in `folder`.

    Args:
        scene: the data set.
        folder: of all machines.
        number: from 0.
        url: of machine 0.
        num_machines: of the run.
        num_devices: of each machine.
        modules: of the ranks.
        times: others than those of `QUICK`.
        versions: of packages, in place of those that are installed.
        output: folder of runs; None means one for this machine alone.
        options: of `make_config`.
    """
    config = make_config(scene, output or folder / f"machine_{number}", **{**CHEAP, **options})
    config.vis, config.held_out = "none", False
    config.machine.num_machines, config.machine.machine_rank = num_machines, number
    config.machine.num_devices, config.machine.dist_url = num_devices, url
    result = folder / f"result_{number}.pickle"
    child = Child(
        _run_machine, folder / f"machine_{number}.txt", config=config, modules=list(modules), result=result,
        server=forkserver._forkserver._forkserver_address, times={**QUICK, **(times or {})}, versions=versions,
    )  # fmt: skip
    return Started(child, config, result)


def start_machines(scene: Path, folder: Path, number: int = 2, **arguments: Any) -> list[Started]:
    """Start all machines of a run; see `start_machine`."""
    url = free_address()
    return [start_machine(scene, folder, i, url, num_machines=number, **arguments) for i in range(number)]


def _run_machine(
    config: SplatkitTrainerConfig, modules: Any, result: Path, server: str, times: Any, versions: Any
) -> None:
    from splatkit_ns.plugin.options import starting

    _take_server(server, times)
    if versions is not None:
        starting.package_versions = lambda: versions  # type: ignore[assignment]
    for module in modules:
        if isinstance(module, OnMachine):
            module.starter = os.getpid()
    config.set_timestamp()
    config.save_config()
    try:
        result.write_bytes(pickle.dumps(run_in_ranks(config, train_on_one_thread, modules)))
    finally:
        RunFolder(config).release()


def _take_server(server: str, times: dict[str, float]) -> None:
    """Let ranks be forks of the server of the tests, which has imported everything."""
    forkserver._forkserver._forkserver_address = server  # type: ignore[attr-defined]
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    for name, value in times.items():
        setattr(machines, name, value)


def start_from_python(scene: Path, folder: Path, number: int, url: str) -> Child:
    """Start one of two machines, with one rank, whose script uses `SplatTrainer`, and prints what it gets."""
    return Child(
        _run_trainer, folder / f"python_{number}.txt", scene=scene, folder=folder, number=number, url=url,
        server=forkserver._forkserver._forkserver_address,
    )  # fmt: skip


def _run_trainer(scene: Path, folder: Path, number: int, url: str, server: str) -> None:
    _take_server(server, QUICK)
    config = SplatTrainerConfig(
        max_steps=8, num_machines=2, machine_rank=number, dist_url=url, device="cpu", lpips=False,
        output_dir=folder / str(number), settings={"held_out": False},
    )  # fmt: skip
    trainer = SplatTrainer(
        config, NerfstudioDataProvider(scene), renderer=CheapRenderer(), loss_fn=CheapLoss(), modules=[OneThread()]
    )
    result = trainer.run()
    sys.stdout.write(f"step {result.step} is in {result.checkpoint_path}")


class OneThread(SplatBaseModule[Any]):
    """Lets ranks, which are forks of a process that may have had more, use one thread from the start."""

    def __reduce__(self) -> Any:
        return _on_one_thread, ()


def _on_one_thread() -> OneThread:
    torch.set_num_threads(1)
    return OneThread()


def train_on_one_thread(config: SplatkitTrainerConfig, modules: Any) -> Trained:
    """The body of a rank; as if there were a core for each of two ranks on one machine."""
    torch.set_num_threads(1)
    return train(config, modules)


class OnMachine(SplatBaseModule[Any]):
    """Lets something happen to a machine of one rank at a step, by that rank.

    Args:
        rank: of the run.
        when: the step, 1-based.
        action: the name of one of the methods below.
    """

    starter = 0
    """The process that has started the rank."""

    def __init__(self, rank: int, when: int, action: str) -> None:
        self.rank, self.when, self.action = rank, when, action

    def pre_step(self, step: int, world_rank: int, training_state: SplatTrainingState) -> None:
        if step == self.when and world_rank == self.rank:
            getattr(self, self.action)()

    def die(self) -> None:
        """The machine loses its power."""
        os.kill(self.starter, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def freeze(self) -> None:
        """The machine is cut off: its connections stay open, and nothing comes."""
        os.kill(self.starter, signal.SIGSTOP)
        with suppress(ProcessLookupError):
            while True:  # until the test has killed that process
                os.kill(self.starter, 0)
                time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)

    def interrupt(self) -> None:
        """Ctrl+C there."""
        os.kill(self.starter, signal.SIGINT)

    def kill_rank(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
