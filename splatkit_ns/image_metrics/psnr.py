"""Peak signal-to-noise ratio, for modules and for evaluation."""

from __future__ import annotations

import torch
from torch import Tensor


def psnr(rendered: Tensor, target: Tensor, masks: Tensor | None) -> Tensor:
    """Compute the peak signal-to-noise ratio in dB over the pixels that the mask keeps, on the device.

    Args:
        rendered: one image or several, (…, H, W, 3); clamped to [0, 1].
        target: (…, H, W, 3) in [0, 1].
        masks: (…, H, W) bool, or None for all pixels.
    """
    squared = (rendered.detach().clamp(0, 1) - target).square()
    if masks is None:
        return -10 * torch.log10(squared.mean())
    kept = (masks.sum() * squared.shape[-1]).clamp(min=1)
    return -10 * torch.log10((squared * masks.unsqueeze(-1)).sum() / kept)
