"""Image metrics, over the pixels that a mask keeps."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from splatkit_ns.image_metrics.color_correction import color_corrected
from splatkit_ns.image_metrics.pixel_errors import l1
from splatkit_ns.image_metrics.psnr import psnr
from splatkit_ns.image_metrics.ssim import ssim
from splatkit_ns.image_metrics.ssim_window import WINDOW_SIZE

logger = logging.getLogger("splatkit_ns")

CORRECTED = "cc_"
"""The beginning of the names of metrics of the colour-corrected render."""
LPIPS_SIDE = 31
"""The smallest side in pixels of which the layers of AlexNet leave anything."""


class ImageMetrics:
    """PSNR, SSIM (11×11 Gaussian window, valid padding) and LPIPS (AlexNet), with and without colour correction.

    Args:
        lpips: whether to try LPIPS; its weights are loaded, and downloaded if they are missing, at the first image. A
            download that fails is not tried again in this process.
    """

    def __init__(self, lpips: bool = True) -> None:
        self._wants_lpips = lpips

    @contextmanager
    def without_lpips(self) -> Generator[None]:
        """Leave out LPIPS in the block, which takes longer than the other metrics, and perhaps a download."""
        before, self._wants_lpips = self._wants_lpips, False
        try:
            yield
        finally:
            self._wants_lpips = before

    @staticmethod
    def l1(rendered: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the mean absolute difference of two images (H, W, 3)."""
        return l1(rendered[None], target[None], None if mask is None else mask[None])

    @staticmethod
    def psnr(rendered: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the peak signal-to-noise ratio of two images (H, W, 3) in [0, 1], in dB."""
        return psnr(rendered, target, mask)

    def all(self, rendered: Tensor, target: Tensor, mask: Tensor | None) -> dict[str, float]:
        """Compute all metrics of one image; SSIM if it holds its window, LPIPS if both sides have `LPIPS_SIDE` pixels.

        Args:
            rendered: (H, W, 3) in [0, 1].
            target: (H, W, 3) in [0, 1].
            mask: (H, W) bool, or None. LPIPS sees pixels outside it black in both images.

        Returns:
            psnr, ssim and lpips of the render, and the same of `color_corrected` as cc_psnr, cc_ssim and cc_lpips.
        """
        values = self.uncorrected(rendered, target, mask)
        corrected = self.uncorrected(color_corrected(rendered, target, mask), target, mask)
        return values | {CORRECTED + name: value for name, value in corrected.items()}

    def uncorrected(self, rendered: Tensor, target: Tensor, mask: Tensor | None) -> dict[str, float]:
        """Compute the metrics of `all` without colour correction."""
        a, b = rendered.permute(2, 0, 1)[None], target.permute(2, 0, 1)[None]
        values = {"psnr": float(self.psnr(rendered, target, mask))}
        if min(rendered.shape[:2]) >= WINDOW_SIZE:
            values["ssim"] = float(ssim(a, b, mask=None if mask is None else mask[None]))
        network = self._network(rendered.device) if min(rendered.shape[:2]) >= LPIPS_SIDE else None
        if network is not None:
            kept = 1.0 if mask is None else mask[None, None].float()
            values["lpips"] = float(network(a * kept, b * kept))
        return values

    def _network(self, device: torch.device) -> Any:
        if not self._wants_lpips:
            return None
        network = lpips_network()
        return None if network is None else network.to(device)


@lru_cache(maxsize=1)
def lpips_network() -> Any:
    """The LPIPS metric with its AlexNet weights, one for the process; None, with one warning, if there are none."""
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        with torch.random.fork_rng():  # the network is initialised at random before its weights are loaded
            return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    except Exception as error:  # no internet, no disk space, no torchvision: the metric is optional
        logger.warning(
            "LPIPS is left out of the metrics: the AlexNet weights are not on this machine and could not be "
            "downloaded (%s: %s).",
            type(error).__name__,
            error,
        )
        return None
