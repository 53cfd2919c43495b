"""A module that logs how long each part of a step takes."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from splatkit_ns.memory import peak_memory
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.context import PHASES
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.parts.steps import is_due
from splatkit_ns.ranges import NonNegative
from splatkit_ns.splat import SplatTrainingState

STEPS_PER_READING = 100
"""The most steps between two reads of the CUDA events, which wait for the GPU: so the events do not pile up."""


@dataclass
class SplatTimer(SplatBaseModule[SplatRenderPayload]):
    """Logs every n-th step how long each part of a step took, and the most memory used.

    The parts: data, render, loss, backward, optimizers, densify, modules (the hooks of all modules), and other
    (everything between steps: logging, viewer, evaluation, checkpoints). On a GPU they are timed with CUDA events,
    which do not hold it up.

    Raises:
        OptionsError: if every is negative.
    """

    every: Annotated[int, NonNegative] = 500
    """Steps between reports, each a mean over the steps since the last; 0 turns it off."""

    @property
    def is_idle(self) -> bool:
        return self.every == 0

    def on_setup(self, training_state: SplatTrainingState) -> None:
        self._on_gpu = training_state.device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._steps = 0
        self.report: dict[str, float] = {}
        """The last report: milliseconds a step by phase."""

    def on_phase(self, phase: str) -> None:
        """Note the time at which a phase ends."""
        if self._on_gpu:
            mark: Any = torch.cuda.Event(enable_timing=True)
            mark.record()
        else:
            mark = time.perf_counter()
        self._marks.append((phase, mark))

    def post_step(
        self, logger: logging.Logger, step: int, training_state: SplatTrainingState, images_per_step: int = 1
    ) -> None:
        """Report if a report is due."""
        self._steps += 1
        if self._steps % STEPS_PER_READING == 0:
            self._read()
        if is_due(step, self.every, images_per_step):
            self._tell(logger, step, training_state)

    def on_cleanup(self, logger: logging.Logger, step: int, training_state: SplatTrainingState) -> None:
        """Report on the steps since the last report."""
        if self._steps > 1:
            self._tell(logger, step, training_state)

    def _read(self) -> None:
        if self._on_gpu and self._marks:
            self._marks[-1][1].synchronize()
        for (_, before), (phase, after) in zip(self._marks, self._marks[1:], strict=False):
            self._seconds[phase] += before.elapsed_time(after) / 1000 if self._on_gpu else after - before
        del self._marks[:-1]

    def _tell(self, logger: logging.Logger, step: int, training_state: SplatTrainingState) -> None:
        self._read()
        self.report = {phase: 1000 * self._seconds[phase] / self._steps for phase in PHASES}
        total = sum(self.report.values())
        parts = ", ".join(f"{phase} {ms:.2f} ({ms / max(total, 1e-9):.0%})" for phase, ms in self.report.items())
        memory = peak_memory(training_state.device) / 2**20
        logger.info(
            "Step %d: %.2f ms a step over %d steps: %s. Peak memory %.0f MiB.", step, total, self._steps, parts, memory
        )
        self._seconds.clear()
        self._steps = 0
