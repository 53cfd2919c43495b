"""A writer of plain files that any program can read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from splatkit_ns.hooks.writers.base import WRITER_REGISTRY, Writer


@WRITER_REGISTRY.register()
class JsonLinesWriter(Writer):
    """Appends one JSON object a line to ``metrics.jsonl``; images become PNG files beside it, named in their line.

    A scalar's line is ``{"step": 100, "name": "val/psnr", "value": 27.3}``. NaN and infinities, which JSON lacks, are
    the strings ``"nan"``, ``"inf"`` and ``"-inf"``.

    Args:
        log_dir: folder of the files; made if it does not exist.
    """

    def __init__(self, log_dir: str | Path) -> None:
        self.log_dir = Path(log_dir)
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self.path = self.log_dir / "metrics.jsonl"
        self._file = self.path.open("a", buffering=1, encoding="utf-8")

    def write_scalar(self, name: str, scalar: float | Tensor, step: int) -> None:
        """Write a number."""
        value = float(scalar)
        self._write(step=step, name=name, value=value if math.isfinite(value) else str(value))

    def write_image(self, name: str, image: Tensor, step: int) -> None:
        """Write an image as PNG, 8 bits."""
        from PIL import Image

        path = self.log_dir / "images" / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', name)}_{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = (image.detach().clamp(0, 1) * 255).round().byte().cpu().numpy()
        Image.fromarray(pixels).save(path)
        self._write(step=step, name=name, image=path.relative_to(self.log_dir).as_posix())

    def write_config(self, name: str, config_dict: Mapping[str, Any], step: int) -> None:
        """Write the settings; a value of a type that JSON lacks becomes a string."""
        self._write(step=step, name=name, config=dict(config_dict))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **entry: Any) -> None:
        self._file.write(json.dumps(entry, default=str) + "\n")
