"""The photometric loss of 3D Gaussian Splatting (https://arxiv.org/abs/2308.04079, section 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from splatkit_ns.loss_fn.base import SplatLossFn
from splatkit_ns.loss_fn.ssim import ssim
from splatkit_ns.modules.frame import SplatRenderPayload
from splatkit_ns.splat import SplatTrainingState


@dataclass
class Splat3DGSLossFn(SplatLossFn[SplatRenderPayload]):
    """(1 - lambda) L1 + lambda (1 - SSIM), with optional regularisers of opacity and scale."""

    ssim_lambda: float = 0.2
    """Weight of 1 - SSIM; L1 gets the rest."""
    opacity_reg: float = 0.0
    """Weight of the mean opacity. 3DGS-MCMC uses 0.01, so that Gaussians which are not needed fade away."""
    scale_reg: float = 0.0
    """Weight of the mean standard deviation, in world units. 3DGS-MCMC uses 0.01."""

    def compute_loss(
        self,
        rendered_frames: Tensor,
        target_frames: Tensor,
        training_state: SplatTrainingState,
        masks: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """L1, D-SSIM and the regularisers, each weighted; pixels outside the mask count in none of them.

        Args:
            rendered_frames: (1, H, W, 3).
            target_frames: (1, H, W, 3) in [0, 1].
            training_state: the Gaussians, for the regularisers.
            masks: (1, H, W) bool, True = use this pixel.
        """
        terms = {"l1": (1 - self.ssim_lambda) * l1(rendered_frames, target_frames, masks)}
        if self.ssim_lambda > 0:
            similarity = ssim(rendered_frames.permute(0, 3, 1, 2), target_frames.permute(0, 3, 1, 2), mask=masks)
            terms["dssim"] = self.ssim_lambda * (1 - similarity)
        if self.opacity_reg > 0:
            terms["opacity_reg"] = self.opacity_reg * training_state.opacities.mean()
        if self.scale_reg > 0:
            terms["scale_reg"] = self.scale_reg * training_state.scales.mean()
        return terms


def l1(rendered: Tensor, target: Tensor, masks: Tensor | None = None) -> Tensor:
    """Mean absolute difference over the pixels that the mask keeps.

    Args:
        rendered: (C, H, W, 3).
        target: (C, H, W, 3).
        masks: (C, H, W) bool, or None for all pixels.

    Returns:
        A scalar; 0 when the mask keeps nothing.
    """
    if masks is None:
        return torch.nn.functional.l1_loss(rendered, target)
    # pixels outside the mask may hold anything, also NaN, and 0 * NaN would be NaN
    difference = torch.where(masks.unsqueeze(-1), rendered - target, rendered.new_zeros(()))
    return difference.abs().sum() / (masks.sum() * rendered.shape[-1]).clamp(min=1)
