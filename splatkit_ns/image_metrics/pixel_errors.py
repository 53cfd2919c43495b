"""Mean errors over the pixels that a mask keeps."""

from __future__ import annotations

import torch
from torch import Tensor


def l1(rendered: Tensor, target: Tensor, masks: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """Compute the mean absolute difference over the pixels that the mask keeps.

    Args:
        rendered: (C, H, W, 3).
        target: (C, H, W, 3).
        masks: (C, H, W) bool, or None for all pixels.
        weights: (C, H, W), the weight of each pixel in the mean, at least 0; None for 1.

    Returns:
        A scalar; 0 if the mask keeps nothing.
    """
    if masks is None and weights is None:
        return torch.nn.functional.l1_loss(rendered, target)
    return _weighted_mean(_masked_difference(rendered, target, masks).abs(), masks, weights)


def mse(rendered: Tensor, target: Tensor, masks: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """Compute the mean squared difference over the pixels that the mask keeps; see `l1`."""
    if masks is None and weights is None:
        return torch.nn.functional.mse_loss(rendered, target)
    return _weighted_mean(_masked_difference(rendered, target, masks).square(), masks, weights)


def _masked_difference(rendered: Tensor, target: Tensor, masks: Tensor | None) -> Tensor:
    if masks is None:
        return rendered - target
    # pixels outside the mask may have any value, even NaN, and 0 * NaN would be NaN
    return torch.where(masks.unsqueeze(-1), rendered - target, rendered.new_zeros(()))


def _weighted_mean(errors: Tensor, masks: Tensor | None, weights: Tensor | None) -> Tensor:
    if weights is None:
        assert masks is not None
        return errors.sum() / (masks.sum() * errors.shape[-1]).clamp(min=1)
    counted = weights if masks is None else weights * masks
    # where all weights are 0 the errors are, too; the smallest divisor only keeps 0 / 0 out
    return (errors * counted[..., None]).sum() / (counted.sum() * errors.shape[-1]).clamp(min=1e-12)
