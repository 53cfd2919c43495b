"""What a run tells nerfstudio's writers: at few steps, so that the steps between cost nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from nerfstudio.utils import writer
from nerfstudio.utils.misc import step_check
from nerfstudio.utils.writer import EventName
from torch import Tensor

from splatkit_ns.errors import describe_os_error
from splatkit_ns.plugin.reporting.console import report_once

if TYPE_CHECKING:
    from splatkit_ns.plugin.trainer import SplatkitTrainer


class RunLog:
    """Logs losses, metrics, learning rates and speed every ``config.logging.steps_per_log`` steps.

    Args:
        trainer: its pipeline is looked at only while it trains.
    """

    def __init__(self, trainer: SplatkitTrainer) -> None:
        self._trainer = trainer
        self._last = (0, 0.0)

    def begin(self) -> None:
        """Before the first step."""
        writer.GLOBAL_BUFFER["step"] = self._trainer.start_step  # the terminal's table reads it before anything is put

    def is_due(self, step: int) -> bool:
        """Whether a step is logged; not the first, whose time is that of loading images and compiling kernels."""
        return step > self._trainer.start_step and step_check(step, self._trainer.config.logging.steps_per_log)

    def after_step(self, step: int, loss: Tensor, terms: dict[str, Tensor], metrics: dict[str, Tensor]) -> None:
        """Log a step where it is due.

        Args:
            step: 0-based.
            loss: scalar.
            terms: the loss's named terms.
            metrics: of this step's image.
        """
        if step == self._trainer.start_step:
            self._last = (step, time.perf_counter())
        elif self.is_due(step):
            self._put_speed(step)
            self._put_values(step, loss, terms, metrics)

    def _put_speed(self, step: int) -> None:
        last_step, last_time = self._last
        now = time.perf_counter()
        self._last = (step, now)
        seconds = (now - last_time) / (step - last_step)
        writer.put_time(EventName.ITER_TRAIN_TIME, seconds, step, avg_over_steps=True, update_eta=True)
        rays = self._trainer.pipeline.datamanager.get_train_rays_per_batch()
        writer.put_time(EventName.TRAIN_RAYS_PER_SEC, rays / seconds, step, avg_over_steps=True)

    def _put_values(self, step: int, loss: Tensor, terms: dict[str, Tensor], metrics: dict[str, Tensor]) -> None:
        writer.put_scalar(name="Train Loss", scalar=loss.detach(), step=step)
        detached = {name: term.detach() for name, term in terms.items()}
        writer.put_dict(name="Train Loss Dict", scalar_dict=detached, step=step)
        writer.put_dict(name="Train Metrics Dict", scalar_dict=metrics, step=step)
        for name, scheduler in self._trainer.optimizers.schedulers.items():
            writer.put_scalar(name=f"learning_rate/{name}", scalar=scheduler.get_last_lr()[0], step=step)
        if self._trainer.device != "cpu":
            megabytes = torch.cuda.max_memory_allocated() / 1024**2
            writer.put_scalar(name="GPU Memory (MB)", scalar=megabytes, step=step)

    def flush(self) -> None:
        """Write logged values; a full disk costs those, not the run."""
        try:
            writer.write_out_storage()
        except OSError as error:
            report_once(f"The log cannot be written: {describe_os_error(error)}. Training goes on.")
