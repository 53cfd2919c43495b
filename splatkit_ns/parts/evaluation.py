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


@dataclass(frozen=True)
class HeldOutFigures:
    """The quality of the held-out images after a step."""

    step: int
    """Counted from 1."""
    psnr: float
    """The mean over the images that were measured, dB."""
    ssim: float | None
    """The mean; None if images are too small for it."""
    num_measured: int
    num_images: int
    """The number of all held-out images."""
    worst_name: str
    """The file name of the image with the lowest PSNR."""
    worst_psnr: float
    cc_psnr: float | None = None
    """The mean PSNR after the renders' colours have been corrected, in a run with an image model; else None."""

    def __str__(self) -> str:
        corrected = "" if self.cc_psnr is None else f", {self.cc_psnr:.2f} dB with corrected colours"
        ssim = "" if self.ssim is None else f", SSIM {self.ssim:.4f}"
        mean = f"held out {self.psnr:.2f} dB{corrected}{ssim}"
        if self.num_images == 1:
            return f"{mean} ({self.worst_name})"
        some = "" if self.num_measured == self.num_images else f" of {self.num_images}"
        worst = f"worst {self.worst_name}, {self.worst_psnr:.2f} dB"
        return f"{mean} (mean of {self.num_measured}{some} images; {worst})"


@runtime_checkable
class EvaluationSource(Protocol):
    """A ``data_provider`` that can evaluate the Gaussians as they are now."""

    def evaluate(self) -> Iterator[ImageEvaluation]:
        """Render and measure the evaluation images one by one."""
        ...

    def evaluation_protocol(self) -> dict[str, Any]:
        """The conditions of the figures: split, images, background, masks, metrics, versions; fit for JSON."""
        ...
