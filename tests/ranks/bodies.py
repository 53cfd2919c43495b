"""What ranks do in tests, and the same in one process."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from splatkit_ns.plugin.run.checkpoints import saving
from splatkit_ns.plugin.run.folder.run_folder import RunFolder
from splatkit_ns.plugin.run.processes.rank_processes import run_in_ranks
from splatkit_ns.plugin.step.training_step import TrainingStep
from splatkit_ns.plugin.trainer import SplatkitTrainer, SplatkitTrainerConfig
from splatkit_ns.ranks import Ranks
from tests.faults.runs import make_trainer


class Trained(NamedTuple):
    """The end of a run."""

    parameters: list[dict[str, Tensor]]
    """By rank."""
    numbers: list[int]
    """The number of Gaussians after each step."""
    images: list[list[int]]
    """The images that each rank has trained on."""


def in_ranks(config: SplatkitTrainerConfig, modules: Any = (), size: int = 2, body: Any = None) -> Any:
    """Train in several processes; returns what rank 0 has gathered, a `Trained` if there is no other body."""
    config.machine.num_devices, config.vis, config.held_out = size, "none", False
    config.save_config()
    try:
        return run_in_ranks(config, body or train, modules)
    finally:
        RunFolder(config).release()


def train(config: SplatkitTrainerConfig, modules: Sequence[Any]) -> Trained:
    """The body of a rank."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as if the tests were not started by nohup
    trainer = make_trainer(config, *modules, seed=100 + Ranks.current().rank)
    steps = noted(trainer)
    trainer.train()
    found = parameters_of(trainer)
    everything = Ranks.current().gather_objects((found, [image for _, image in steps]))
    return Trained([each[0] for each in everything], [number for number, _ in steps], [each[1] for each in everything])


def train_and_stop(config: SplatkitTrainerConfig, place: tuple[int, int]) -> list[tuple[int, str | None]]:
    """The body of a rank without parts of users, one of which, of this number, asks to stop during a step.

    Returns:
        The number of steps and the reason to stop, by rank.
    """
    trainer = make_trainer(config, seed=100)
    rank, last_image = place
    steps, run, context = noted(trainer), trainer.training_step.run, trainer.pipeline.model.context

    def asking(step: int) -> Any:
        result = run(step)
        if Ranks.current().rank == rank and context.step == last_image:
            context.stop("as asked")
        return result

    trainer.training_step.run = asking  # type: ignore[method-assign]
    trainer.train()
    return Ranks.current().gather_objects((len(steps), context.stop_reason))


def train_with_a_stuck_gpu(config: SplatkitTrainerConfig, modules: Sequence[Any]) -> Any:
    """The body of a rank whose GPU does not answer any more when another rank is lost: cleaning up takes for ever."""
    saving.device_answers = lambda device: False
    TrainingStep.close = lambda self: time.sleep(1000)
    return train(config, modules)


def train_with_a_slow_save(config: SplatkitTrainerConfig, modules: Sequence[Any]) -> list[float]:
    """The body of a rank; returns when rank 0 had saved at last, and when the other one had done with training."""
    trainer, rank = make_trainer(config, *modules), Ranks.current().rank
    save, ends = saving.Saver.save_last, list[float]()

    def save_slowly(self: saving.Saver, step: int, stopped: bool) -> None:
        save(self, step, stopped)
        time.sleep(0.5 * (rank == 0))
        ends.append(time.monotonic())

    saving.Saver.save_last = save_slowly
    trainer.train()
    return Ranks.current().gather_objects(ends[0] if rank == 0 else time.monotonic())


def train_and_note_files(config: SplatkitTrainerConfig, argument: tuple[Path, Sequence[Any]]) -> Any:
    """The body of a rank; returns what `train` does, and by rank the names of the files that it wrote in a folder."""
    folder, modules = argument
    written = set[str]()

    def note(event: str, arguments: Any) -> None:
        if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            path = Path(arguments[0])
            if path.is_relative_to(folder):
                written.add(str(path.relative_to(folder)))

    sys.addaudithook(note)
    found = train(config, modules)
    return found, Ranks.current().gather_objects(sorted(written))


def parameters_of(trainer: SplatkitTrainer) -> dict[str, Tensor]:
    """All that is trained, by parameter group."""
    return {name: params[0].detach() for name, params in trainer.pipeline.get_param_groups().items()}


def noted(trainer: SplatkitTrainer) -> list[tuple[int, int]]:
    """The number of Gaussians and the image of each step that a trainer will take."""
    steps: list[tuple[int, int]] = []
    run, context = trainer.training_step.run, trainer.pipeline.model.context

    def noting(step: int) -> Any:
        result = run(step)
        assert context.image_index is not None
        steps.append((len(context.training_state), context.image_index))
        return result

    trainer.training_step.run = noting  # type: ignore[method-assign]
    return steps


def in_one_process(config: SplatkitTrainerConfig, modules: Sequence[Any] = (), batch_size: int = 2) -> Trained:
    """Train with the mean gradient of the same images at each step."""
    from tests.faults.runs import writer

    writer.EVENT_WRITERS.clear()
    torch.manual_seed(config.machine.seed)
    config.batch_size = batch_size
    trainer = config.setup()
    trainer.modules.extend(modules)
    trainer.setup()
    steps = noted(trainer)
    trainer.train()
    RunFolder(config).release()
    found = parameters_of(trainer)
    return Trained([found], [number for number, _ in steps], [[image for _, image in steps]])
