"""Random changes of Gaussians in training images, which reduce overfitting to small image sets: dropout and noise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from splatkit_ns.parts.payload import PayloadT
from splatkit_ns.ranges import BelowOne, Fraction, NonNegative
from splatkit_ns.renderer.base import RenderOptions, SplatRenderer

MAX_OPACITY = 0.9999


@dataclass
class DropoutRenderer(SplatRenderer[PayloadT]):
    """A renderer that can leave Gaussians out of training images (DropGaussian, https://arxiv.org/abs/2504.00773), and
    change the opacities of the others at random (Chen et al., 2025, https://arxiv.org/abs/2508.12720).

    Only renders with `RenderOptions.is_training` are changed; evaluation and viewer see all Gaussians as they are. A
    subclass with a `pre_step` of its own has to call that of `super`.
    """

    dropout: Annotated[float, BelowOne] = field(default=0.0, kw_only=True)
    """Share of Gaussians that is left out of each training image, at the end of training; it grows from 0 in
    proportion to the step. The opacities of the others are raised to make up for it, as far as they stay below 1."""
    dropout_full_from: Annotated[float, Fraction] = field(default=1.0, kw_only=True)
    """Share of the steps after which `dropout` has been reached and stays constant."""

    opacity_noise: Annotated[float, NonNegative] = field(default=0.0, kw_only=True)
    """Standard deviation of the random factor, 1 on average, that each Gaussian's opacity has in a training image; the
    product stays between 0 and 1."""

    def pre_step(self, step: int, max_steps: int) -> None:
        self._share = self.dropout * min(1.0, step / max(1.0, self.dropout_full_from * max_steps))
        if self._share > 0.0 and hasattr(self, "_share_on_device"):
            self._share_on_device.fill_(self._share)

    def remaining(self, opacities: Tensor, options: RenderOptions) -> Tensor:
        """Return the opacities (N,) to render with: in training with noise, and 0 for some Gaussians and more for the
        others."""
        if not options.is_training:
            return opacities
        if self.opacity_noise > 0.0:
            opacities = (opacities * (1.0 + self.opacity_noise * torch.randn_like(opacities))).clamp(0.0, MAX_OPACITY)
        if getattr(self, "_share", 0.0) <= 0.0:
            return opacities
        if not hasattr(self, "_share_on_device"):
            # a tensor, because the kernels of a CUDA graph would keep a number
            self._share_on_device = torch.full((), self._share, device=opacities.device)
        share = self._share_on_device
        kept = torch.rand_like(opacities) >= share
        return torch.where(kept, opacities / (1.0 - share), 0.0).clamp(max=MAX_OPACITY)
