"""A module that leaves out what stands in one photograph only, such as passers-by."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.frame_edit import FrameEdit
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.ranges import Fraction, NonNegative, Positive

CONTRAST_SHARE = 0.25
"""The share of a cell's contrast that counts as an error to be expected, because fine detail is learnt late."""


@dataclass
class SplatTransientMask(SplatBaseModule[SplatRenderPayload]):
    """Leaves out the parts of each training photograph that the scene, as the others show it, cannot explain.

    After each step the residual of its photograph is averaged over the cells of a grid. A cell is an outlier if its
    mean is many times as large as is to be expected: the median of the cells of this photograph, and a share of the
    cell's contrast. Outliers and their neighbours are masked the next time that the photograph is drawn, so that they
    have no part in the loss and in densification. The idea is that of RobustNeRF (Sabour et al., 2023,
    https://arxiv.org/abs/2302.00833): residuals decide, smoothed over neighbourhoods; but a photograph without outliers
    keeps all its pixels. With an image model the residual is that of what it makes of the render.
    """

    ratio: Annotated[float, NonNegative] = 3.0
    """A cell is an outlier if its residual is this many times as large as expected; 0 is off."""
    start_at: Annotated[float, Fraction] = 0.1
    """Share of the steps after which outliers are masked; before it the whole scene is still one."""
    cells: Annotated[int, Positive] = 32
    """Number of cells along the shorter side of a photograph."""
    max_share: Annotated[float, Fraction] = 0.5
    """The largest share of a photograph's cells that are outliers; those with the largest residuals are."""

    @property
    def is_idle(self) -> bool:
        return self.ratio == 0

    def on_setup(self, logger: logging.Logger) -> None:
        self._outliers: dict[int, Tensor] = getattr(self, "_outliers", {})
        self._shape: tuple[int, int] | None = None

    def pre_step(
        self, step: int, max_steps: int, image_index: int | None, target_frames: Tensor | None, masks: Tensor | None
    ) -> FrameEdit | None:
        """Mask the outliers of the last time that this photograph was drawn."""
        self._shape = None
        if target_frames is None or image_index is None:
            return None
        height, width = target_frames.shape[1:3]
        self._shape = (height, width)
        if step <= self.start_at * max_steps:
            return None
        kept = self.training_mask(image_index, height, width)
        if kept is None:  # a mask in every step, because kernels are chosen by whether there is one
            kept = torch.ones(1, height, width, dtype=torch.bool, device=target_frames.device)
        return FrameEdit(masks=kept if masks is None else kept & masks)

    @torch.no_grad()
    def post_step(self, image_index: int | None, target_frames: Tensor, rendered_frames: Tensor) -> None:
        """Find the outliers of this photograph; not if only a part of it was rendered."""
        if image_index is None or self._shape != tuple(rendered_frames.shape[1:3]):
            return
        self._outliers[image_index] = self.outliers(rendered_frames[0], target_frames[0])

    def training_mask(self, image_index: int, height: int, width: int) -> Tensor | None:
        outliers = self._outliers.get(image_index)
        if outliers is None:
            return None
        whole = F.interpolate(outliers[None, None].float(), size=(height, width), mode="nearest-exact")
        return whole[0] == 0

    def outliers(self, rendered: Tensor, target: Tensor) -> Tensor:
        """Find the cells to be masked.

        Args:
            rendered: (H, W, 3).
            target: (H, W, 3) in [0, 1].

        Returns:
            (rows, columns) bool: the outliers and their neighbours.
        """
        height, width = target.shape[:2]
        size = min(height, width) / self.cells
        grid = (max(1, math.ceil(height / size)), max(1, math.ceil(width / size)))
        residual = F.adaptive_avg_pool2d((rendered - target).abs().mean(-1)[None, None], grid)[0, 0]
        image = target.movedim(-1, 0)[None]
        mean, square = F.adaptive_avg_pool2d(image, grid), F.adaptive_avg_pool2d(image.square(), grid)
        contrast = (square - mean.square()).clamp(min=0).sqrt().mean(1)[0]
        surplus = residual / (residual.median() + CONTRAST_SHARE * contrast).clamp(min=1e-6)
        limit = surplus.flatten().kthvalue(max(1, math.ceil((1 - self.max_share) * surplus.numel()))).values
        found = (surplus > self.ratio) & (surplus > limit)
        return F.max_pool2d(found[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0

    def state_dict(self) -> dict[str, Any]:
        return {"outliers": {str(index): cells for index, cells in getattr(self, "_outliers", {}).items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._outliers = {int(index): cells for index, cells in state["outliers"].items()}
