"""The photometric loss of 3D Gaussian Splatting (https://arxiv.org/abs/2308.04079, section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from splatkit_ns.loss_fn.supervised import SupervisedLossFn
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.splat import SplatTrainingState


@dataclass
class Splat3DGSLossFn(SupervisedLossFn[SplatRenderPayload]):
    """(1 - lambda) L1 + lambda (1 - SSIM), with optional regularisers of opacity and scale, depth and normals.

    Gaussians have no normals of their own here: the normals of the depth image are compared with the data's.
    """

    capturable: ClassVar[bool] = True

    def compute_loss(
        self,
        rendered_frames: Tensor,
        target_frames: Tensor,
        training_state: SplatTrainingState,
        masks: Tensor | None = None,
        pixel_weights: Tensor | None = None,
        **step: Any,
    ) -> dict[str, Tensor]:
        """Compute the terms of `SupervisedLossFn.color_terms`, `sky_terms` and `geometry_terms`."""
        terms = self.color_terms(rendered_frames, target_frames, training_state, masks, pixel_weights)
        terms |= self.sky_terms(rendered_frames, target_frames, masks, step)
        return terms | self.geometry_terms(masks, step)
