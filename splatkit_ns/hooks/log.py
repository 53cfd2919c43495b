"""A hook that logs losses and validation metrics, and shows a bar."""

from __future__ import annotations

import logging
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from splatkit_ns.errors import OptionsError
from splatkit_ns.hooks.base import HOOK_REGISTRY, Hook
from splatkit_ns.hooks.view import TrainerView
from splatkit_ns.parts.steps import is_due

VALIDATION_METRICS = ("L1_loss", "psnr", "ssims", "lpips", "cc_psnr", "cc_ssim", "cc_lpips")
"""Metrics whose mean over an evaluation is logged."""

logger = logging.getLogger("splatkit_ns")


@HOOK_REGISTRY.register()
class LogHook(Hook):
    """Logs the number of Gaussians, the learning rate of their positions and the losses, and means of evaluations.

    A progress bar shows the exponential moving average of the loss if output goes to a terminal. The means over all
    evaluation images are written as ``val/psnr`` and so on, those of nerfstudio's checks of a single image as
    ``val_image/psnr``; nothing is read from the device in steps that are not logged.

    Args:
        every: steps between two log entries.

    Raises:
        OptionsError: `every` is less than 1.
    """

    def __init__(self, every: int = 10) -> None:
        if every < 1:
            raise OptionsError([f"LogHook's every is {every}, expected at least 1"])
        self.every = every
        self.bar_info: dict[str, str] = {}
        """The values that the bar shows, by name."""
        self.val_means: dict[str, float] = {}
        """Means of the last evaluation, by metric."""
        self._ema: Tensor | float = 0.0
        self._sums: dict[str, float] = {}
        self._bar: Progress | None = None

    @property
    def ema_loss_for_log(self) -> float:
        """0.4 times the last finite loss plus 0.6 times the value before, from 0; reading it waits for the GPU."""
        return float(self._ema)

    # ------------------------------------------------------------------ training

    def before_train(self, trainer: TrainerView) -> None:
        """Show the bar."""
        console = Console()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._bar.add_task("training", total=trainer.cfg.max_steps, completed=trainer.global_step)
        self._bar.start()

    @torch.no_grad()
    def after_train_iter(self, trainer: TrainerView) -> None:
        """Update the average of the loss; write and show it if that is due."""
        losses = trainer.loss_dict
        loss = losses["loss"]  # not finite in a step that was left out, which must not spoil all later means
        self._ema = torch.where(torch.isfinite(loss), 0.4 * loss + 0.6 * self._ema, self._ema)
        step = trainer.global_step
        if step != trainer.cfg.max_steps and not is_due(step, self.every, trainer.context.images_per_step):
            return
        self.bar_info["loss"] = f"{self.ema_loss_for_log:.7f}"
        self._show(step)
        if trainer.logger is None:
            return
        scalars: dict[str, float | Tensor] = {"num_pt": len(trainer.model.point_cloud), **losses}
        for group in trainer.optimizer.param_groups:
            if group["name"] == "point_cloud.position":
                scalars["pos_lr"] = group["lr"]
        for name, value in scalars.items():
            trainer.logger.write_scalar(name, value, step)

    def after_run(self, trainer: TrainerView) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show(self, step: int) -> None:
        if self._bar is not None:
            text = ", ".join(f"{name} {value}" for name, value in self.bar_info.items())
            self._bar.update(self._bar.task_ids[0], completed=step, description=text)

    # ------------------------------------------------------------------ evaluation

    def before_val(self, trainer: TrainerView) -> None:
        """Start new means."""
        self._sums = {}

    def after_val_iter(self, trainer: TrainerView) -> None:
        """Add an image."""
        for name in VALIDATION_METRICS:
            if name in trainer.metric_dict:
                self._sums[name] = self._sums.get(name, 0.0) + float(trainer.metric_dict[name])

    def after_val(self, trainer: TrainerView) -> None:
        """Write the means."""
        number, step = trainer.val_dataset_size, trainer.global_step
        self.val_means = {name: value / number for name, value in self._sums.items()}
        group = "val" if trainer.val_is_complete else "val_image"
        for name, value in self.val_means.items():
            if trainer.logger is not None:
                trainer.logger.write_scalar(f"{group}/{name}", value, step)
        means = ", ".join(f"{name} {value:.4f}" for name, value in self.val_means.items())
        logger.info("Step %d, %d evaluation image(s): %s", step, number, means)

    # ------------------------------------------------------------------ checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The moving average."""
        return {"ema_loss": self.ema_loss_for_log}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the moving average."""
        self._ema = float(state["ema_loss"])
