"""The log of a run for nerfstudio's writers, written at few steps, so that the other steps cost nothing."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from nerfstudio.utils import writer
from nerfstudio.utils.writer import EventName
from torch import Tensor

from splatkit_ns.errors import describe_os_error
from splatkit_ns.parts.steps import reaches
from splatkit_ns.plugin.reporting.console import report_once
from splatkit_ns.plugin.step.training_step import StepResult


class RunLog:
    """Logs losses, metrics, learning rates and speed at regular steps.

    Args:
        steps_per_log: the number of steps between two entries; 0 logs nothing.
        device: the device of the training.
        schedules: the schedules of the optimizers, by parameter group.
        rays_per_step: the number of pixels of an image.
        start_step: the last image of the first step of this process, 0-based.
        images_per_step: the difference of two steps.
    """

    def __init__(
        self,
        steps_per_log: int,
        device: str,
        schedules: Mapping[str, Any],
        rays_per_step: int,
        start_step: int,
        images_per_step: int = 1,
    ) -> None:
        self._images_per_step = images_per_step
        self._steps_per_log, self._device, self._schedules = steps_per_log, device, schedules
        self._rays_per_step, self._start_step = rays_per_step, start_step
        self._last = (0, 0.0)
        self._unwritten: deque[_LoggedValues] = deque()

    def begin(self) -> None:
        """Begin the log, before the first step."""
        writer.GLOBAL_BUFFER["step"] = self._start_step  # the terminal's table reads it before anything is put
        if not sys.stdout.isatty():
            _print_each_line_once()

    def is_due(self, step: int) -> bool:
        """Whether a step is logged. The first is not: its time is that of loading images and compiling kernels."""
        return step > self._start_step and reaches(step, self._steps_per_log, self._images_per_step)

    def after_step(self, step: int, result: StepResult) -> None:
        """Log a step (0-based) if it is due."""
        if step == self._start_step:
            self._last = (step, time.perf_counter())
        elif self.is_due(step):
            self._put_speed(step)
            self._put_values(step, result)

    def _put_speed(self, step: int) -> None:
        last_step, last_time = self._last
        now = time.perf_counter()
        self._last = (step, now)
        seconds = (now - last_time) / (step - last_step)
        writer.put_time(EventName.ITER_TRAIN_TIME, seconds, step, avg_over_steps=True, update_eta=True)
        writer.put_time(EventName.TRAIN_RAYS_PER_SEC, self._rays_per_step / seconds, step, avg_over_steps=True)

    def _put_values(self, step: int, result: StepResult) -> None:
        writer.put_scalar(name="Train Loss", scalar=result.loss.detach(), step=step)
        detached = {name: term.detach() for name, term in result.loss_terms.items()}
        writer.put_dict(name="Train Loss Dict", scalar_dict=detached, step=step)
        writer.put_dict(name="Train Metrics Dict", scalar_dict=result.metrics, step=step)
        for name, scheduler in self._schedules.items():
            writer.put_scalar(name=f"learning_rate/{name}", scalar=scheduler.get_last_lr()[0], step=step)
        if self._device != "cpu":
            megabytes = torch.cuda.max_memory_allocated() / 1024**2
            writer.put_scalar(name="GPU Memory (MB)", scalar=megabytes, step=step)

    def flush(self, waits: bool = False) -> None:
        """Write logged values once the device has computed them; if the disk is full, they are lost.

        Args:
            waits: whether to wait for the device now, as at the end of a run. Otherwise the values of a step may be
                written a few steps later, so that the host need not stop for them.
        """
        if writer.EVENT_STORAGE:
            self._unwritten.append(_LoggedValues(list(writer.EVENT_STORAGE)))
            writer.EVENT_STORAGE.clear()
        while self._unwritten and (waits or self._unwritten[0].are_known()):
            self._write(self._unwritten.popleft())

    def close(self) -> None:
        """Write what is known of the steps that have been logged; the GPU may never answer, or be lost."""
        with suppress(RuntimeError):
            while self._unwritten and self._unwritten[0].are_known():
                self._write(self._unwritten.popleft())

    def _write(self, values: _LoggedValues) -> None:
        try:
            writer.EVENT_STORAGE.extend(values.events())
            writer.write_out_storage()
        except OSError as error:
            report_once(f"The log cannot be written: {describe_os_error(error)}. Training goes on.")


def _print_each_line_once() -> None:
    """Let nerfstudio's table of steps, which moves the cursor up to print all lines again, print only new lines."""
    for each in writer.EVENT_WRITERS:
        if isinstance(each, writer.LocalWriter):
            each.config = replace(each.config, max_log_size=0)


class _LoggedValues:
    """Events of nerfstudio's writers, whose scalars are copied from the device together, without waiting.

    Args:
        events: nerfstudio's; changed.
    """

    def __init__(self, events: list[dict[str, Any]]) -> None:
        self._events = events
        places: list[tuple[dict[str, Any], str]] = []
        for event in events:
            values = event["event"]
            places += [(values, name) for name in values] if isinstance(values, dict) else [(event, "event")]
        found = [(place, key, place[key]) for place, key in places if isinstance(place[key], Tensor)]
        scalars = [(place, key, value) for place, key, value in found if value.numel() == 1]
        self._places = [(place, key) for place, key, _ in scalars]
        self._values: Tensor | None = None
        self._copied: torch.cuda.Event | None = None
        if scalars:
            device = scalars[0][2].device
            values = torch.stack([value.detach().reshape(()).to(device, torch.float64) for _, _, value in scalars])
            place = torch.empty(len(scalars), dtype=torch.float64, pin_memory=device.type == "cuda")
            self._values = place.copy_(values, non_blocking=True)
            if device.type == "cuda":
                self._copied = torch.cuda.Event()
                self._copied.record()

    def are_known(self) -> bool:
        """Whether the device has computed and copied all of them."""
        return self._copied is None or self._copied.query()

    def events(self) -> list[dict[str, Any]]:
        """The events, with numbers in place of scalar tensors; waits for the device."""
        if self._copied is not None:
            self._copied.synchronize()
        if self._values is not None:
            for (place, key), number in zip(self._places, self._values.tolist(), strict=True):
                place[key] = number
        return self._events
