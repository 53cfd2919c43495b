"""Tiny runs with hooks."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from splatkit_ns.hooks import Hook
from splatkit_ns.methods import splatkit_3dgs_adc
from splatkit_ns.plugin.trainer import SplatkitTrainer, SplatkitTrainerConfig

POINTS = [
    "before_run", "after_load_checkpoint", "before_train", "before_train_iter", "after_train_iter", "before_val",
    "before_val_iter", "after_val_iter", "after_val", "before_save_checkpoint", "after_train", "after_run", "exception",
]  # fmt: skip


class Recorder(Hook):
    """Notes every point with the step at which it was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


def _recording(point: str) -> Any:
    def method(self: Recorder, trainer: Any) -> None:
        self.calls.append((point, trainer.global_step))

    return method


for _point in POINTS:
    setattr(Recorder, _point, _recording(_point))


def run_config(scene: Path, output: Path, steps: int = 3, **settings: Any) -> SplatkitTrainerConfig:
    """A run of a few steps on the CPU, without viewer, without evaluations or checkpoints in between."""
    config = deepcopy(splatkit_3dgs_adc.config)
    assert isinstance(config, SplatkitTrainerConfig)
    config.data = config.pipeline.datamanager.data = scene
    config.output_dir, config.experiment_name, config.timestamp = output, "tiny", "run"
    config.machine.device_type = "cpu"
    parser = config.pipeline.datamanager.dataparser
    parser.eval_mode, parser.eval_interval = "interval", 4  # type: ignore[attr-defined]
    config.viewer.quit_on_train_completion = True
    config.max_num_iterations = steps
    config.steps_per_save = config.steps_per_eval_image = config.steps_per_eval_all_images = 1000
    config.pipeline.model.lpips = False
    config.vis = "none"
    for name, value in settings.items():
        setattr(config, name, value)
    return config


def make_trainer(scene: Path, output: Path, *hooks: Hook | str, **settings: Any) -> SplatkitTrainer:
    """A trainer with these hooks, not set up yet; see `run_config` for the settings."""
    trainer = run_config(scene, output, hooks=hooks, **settings).setup(local_rank=0, world_size=1)
    assert isinstance(trainer, SplatkitTrainer)
    return trainer


def run(trainer: SplatkitTrainer) -> SplatkitTrainer:
    """Set up and train."""
    trainer.setup()
    trainer.train()
    return trainer
