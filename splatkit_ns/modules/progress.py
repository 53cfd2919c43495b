"""A progress bar in the terminal."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Annotated, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from splatkit_ns.image_metrics.psnr import psnr
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.evaluation import HeldOutFigures
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.parts.steps import is_due
from splatkit_ns.ranges import NonNegative
from splatkit_ns.splat import SplatTrainingState


@dataclass
class SplatProgressTracker(SplatBaseModule[SplatRenderPayload]):
    """Shows step, loss, PSNR of the step's image and of the held-out ones, number of Gaussians, steps a second and the
    time left. Quiet if there is no terminal.

    Raises:
        OptionsError: if update_every is negative.
    """

    update_every: Annotated[int, NonNegative] = 10
    """Steps between updates, each of which waits for the GPU to read the loss; 0 turns it off."""

    @property
    def is_idle(self) -> bool:
        return self.update_every == 0

    def on_setup(self, logger: logging.Logger, world_rank: int) -> None:
        console = _console(logger)
        self._console = console if console.is_terminal and world_rank == 0 else None
        self._bar: Progress | None = None

    def post_step(
        self,
        step: int,
        max_steps: int,
        loss: Tensor,
        rendered_frames: Tensor,
        target_frames: Tensor,
        masks: Tensor | None,
        training_state: SplatTrainingState,
        data_provider: Any = None,
        images_per_step: int = 1,
    ) -> None:
        """Update the bar if that is due."""
        is_shown = step == max_steps or is_due(step, self.update_every, images_per_step)
        if self._console is None or (not is_shown and self._bar is not None):
            return
        now = time.perf_counter()
        if self._bar is None:  # at the first step, when images have been loaded and nothing else draws a bar
            self._start(self._console, step, max_steps, now)
        assert self._bar is not None
        last_step, last_time = self._last
        rate = (step - last_step) / (now - last_time) if step > last_step else 0.0
        self._last = (step, now)
        self._bar.update(
            self._task,
            completed=step,
            loss=float(loss.detach()),
            psnr=float(psnr(rendered_frames, target_frames, masks)),
            gaussians=len(training_state),
            rate=rate,
            held_out=_held_out(data_provider),
        )

    def on_cleanup(self) -> None:
        """Stop the bar, which stays as it is."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start(self, console: Console, step: int, max_steps: int, now: float) -> None:
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  PSNR {task.fields[psnr]:.2f} dB"),
            TextColumn("{task.fields[held_out]}"),
            TextColumn("{task.fields[gaussians]:,} Gaussians  {task.fields[rate]:.1f} it/s"),
            TimeRemainingColumn(),
            console=console,
        )
        fields: dict[str, Any] = {"loss": 0.0, "psnr": 0.0, "gaussians": 0, "rate": 0.0, "held_out": ""}
        self._task = self._bar.add_task("", total=max_steps, completed=step, **fields)
        self._last = (step, now)
        self._bar.start()


def _held_out(data_provider: Any) -> str:
    """The last figures of held-out images; nothing if the data provider has none."""
    figures = getattr(data_provider, "held_out", None)
    if not isinstance(figures, HeldOutFigures):
        return ""
    ssim = "" if figures.ssim is None else f", {figures.ssim:.3f}"
    return f"held out {figures.psnr:.2f} dB{ssim} (step {figures.step:,})"


def _console(logger: logging.Logger) -> Console:
    """The console that log messages go to, so that they and the bar do not overwrite each other."""
    for handler in logger.handlers:
        if isinstance(handler, RichHandler):
            return handler.console
    return Console(stderr=True)
