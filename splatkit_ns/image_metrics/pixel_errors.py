"""Mean errors over the pixels that a mask keeps."""

from __future__ import annotations

import torch
from torch import Tensor


def l1(rendered: Tensor, target: Tensor, masks: Tensor | None = None) -> Tensor:
    """Compute the mean absolute difference over the pixels that the mask keeps.

    Args:
        rendered: (C, H, W, 3).
        target: (C, H, W, 3).
        masks: (C, H, W) bool, or None for all pixels.

    Returns:
        A scalar; 0 if the mask keeps nothing.
    """
    if masks is None:
        return torch.nn.functional.l1_loss(rendered, target)
    return _masked_difference(rendered, target, masks).abs().sum() / _count(masks, rendered)


def mse(rendered: Tensor, target: Tensor, masks: Tensor | None = None) -> Tensor:
    """Compute the mean squared difference over the pixels that the mask keeps; see `l1`."""
    if masks is None:
        return torch.nn.functional.mse_loss(rendered, target)
    return _masked_difference(rendered, target, masks).square().sum() / _count(masks, rendered)


def _masked_difference(rendered: Tensor, target: Tensor, masks: Tensor) -> Tensor:
    # pixels outside the mask may have any value, even NaN, and 0 * NaN would be NaN
    return torch.where(masks.unsqueeze(-1), rendered - target, rendered.new_zeros(()))


def _count(masks: Tensor, images: Tensor) -> Tensor:
    return (masks.sum() * images.shape[-1]).clamp(min=1)
