"""The figures of a run's training steps, kept for its result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from nerfstudio.utils import writer as nerfstudio_writer
from torch import Tensor

NAMES = {"Train Loss": "loss", "gaussian_count": "num_gaussians"}
"""nerfstudio's name of a figure -> its name in the history."""


class History:
    """A nerfstudio writer that keeps the figures of training steps.

    Attributes:
        entries: one dictionary for each logged step; see `SplatTrainerResult.history`.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, float]] = []
        self._began = time.perf_counter()

    @classmethod
    def begin(cls) -> History:
        """A history that nerfstudio's log writes to, until its writers are reset."""
        history = cls()
        nerfstudio_writer.EVENT_WRITERS.append(history)
        return history

    def complete(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the figures of the last step, counted from 1, if it was not logged."""
        self._entry(step).update(metrics)

    def _entry(self, step: int) -> dict[str, float]:
        if not self.entries or self.entries[-1]["step"] != step:
            self.entries.append({"step": step, "seconds": time.perf_counter() - self._began})
        return self.entries[-1]

    def write_scalar(self, name: str, scalar: float | Tensor, step: int) -> None:
        """Take a figure of a step (0-based), if it is a training figure."""
        if name in NAMES or name.startswith("learning_rate/"):
            self._entry(step + 1)[NAMES.get(name, name)] = float(scalar)

    def write_scalar_dict(self, name: str, scalar_dict: Mapping[str, float | Tensor], step: int) -> None:
        """Take the terms of the loss, or the figures of a training image."""
        prefix = {"Train Loss Dict": "loss/", "Train Metrics Dict": ""}.get(name)
        if prefix is not None:
            values = {f"{prefix}{NAMES.get(key, key)}": float(value) for key, value in scalar_dict.items()}
            self._entry(step + 1).update(values)

    def write_image(self, name: str, image: Tensor, step: int) -> None:
        """Leave images to other writers."""

    def write_config(self, name: str, config_dict: Mapping[str, Any], step: int) -> None:
        """Leave configs to other writers."""
