"""A writer for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from splatkit_ns.hooks.writers.base import WRITER_REGISTRY, Writer
from splatkit_ns.parts.event_files import event_writer


@WRITER_REGISTRY.register()
class TensorboardWriter(Writer):
    """Writes event files: ``tensorboard --logdir FOLDER`` shows them.

    Args:
        log_dir: folder of the event files.

    Raises:
        ModuleError: the package tensorboard is not installed.
    """

    def __init__(self, log_dir: str | Path) -> None:
        self._events = event_writer(log_dir, "TensorboardWriter")

    def write_scalar(self, name: str, scalar: float | Tensor, step: int) -> None:
        """Add a point to a curve."""
        self._events.add_scalar(name, float(scalar), step)

    def write_image(self, name: str, image: Tensor, step: int) -> None:
        """Add an image."""
        self._events.add_image(name, image.detach().clamp(0, 1), step, dataformats="HWC")

    def write_config(self, name: str, config_dict: Mapping[str, Any], step: int) -> None:
        """Add the settings as a text, one line each."""
        lines = [f"    {key}: {value}" for key, value in config_dict.items()]
        self._events.add_text(name, "\n".join(lines), step)

    def close(self) -> None:
        """Flush and close the file."""
        self._events.close()
