"""The interface through which modules evaluate the Gaussians of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageEvaluation:
    """One evaluation image, rendered and measured."""

    name: str
    """File name of the photograph."""
    metrics: Mapping[str, float]
    """psnr (dB), ssim, and lpips if its weights are at hand; with ``cc_`` before the name, those after the render's
    colours have been corrected."""
    target: Tensor
    """The photograph on the evaluation's background, (H, W, 3) in [0, 1]."""
    rendered: Tensor
    """The render, (H, W, 3) in [0, 1]."""


@runtime_checkable
class EvaluationSource(Protocol):
    """A ``data_provider`` that can evaluate the Gaussians as they are now."""

    def evaluate(self) -> Iterator[ImageEvaluation]:
        """Render and measure the evaluation images one by one."""
        ...

    def evaluation_protocol(self) -> dict[str, Any]:
        """The conditions of the figures: split, images, background, masks, metrics, versions; fit for JSON."""
        ...
