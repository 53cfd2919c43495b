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

CELLS = 32
"""Number of cells along the shorter side of a photograph."""
COVERED = 0.9
"""The least mean alpha of a cell in which the scene counts as known."""


@dataclass
class SplatTransientMask(SplatBaseModule[SplatRenderPayload]):
    """Leaves out the parts of each training photograph that contradict the scene, as the others show it.

    After each step the difference of render and photograph is averaged, with its sign, over the cells of a grid: fine
    detail, which is learnt late, cancels out, and what has another colour does not. The median over the photograph is
    taken away from it, which is what another exposure looks like. A cell is an outlier if the rest is many times as
    large as it is for most cells of all photographs, if Gaussians cover it (otherwise it may be a place that is not
    reconstructed yet), and if most of its neighbours are outliers, too. Outliers and their neighbours are masked the
    next time that the photograph is drawn, so that they have no part in the loss and in densification. The idea is that
    of RobustNeRF (Sabour et al., 2023, https://arxiv.org/abs/2302.00833), residuals that are smoothed over
    neighbourhoods decide; but a photograph without outliers keeps all its pixels.
    """

    ratio: Annotated[float, NonNegative] = 8.0
    """A cell is an outlier if its difference is this many times the median of all cells of all photographs; 0 is
    off."""
    least: Annotated[float, Positive] = 0.06
    """The least difference of an outlier, of colours in [0, 1]."""
    start_at: Annotated[float, Fraction] = 0.05
    """Share of the steps after which outliers are masked; before it the whole scene is still one."""
    max_share: Annotated[float, Fraction] = 0.4
    """The largest share of a photograph's cells that are masked; if more are outliers, something else is wrong, and
    none is."""

    @property
    def is_idle(self) -> bool:
        return self.ratio == 0

    def on_setup(self, logger: logging.Logger, num_train_images: int) -> None:
        self._outliers: dict[int, Tensor] = getattr(self, "_outliers", {})
        self._levels: Tensor = getattr(self, "_levels", torch.full((num_train_images,), math.nan))
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
        kept = kept.to(target_frames.device)
        return FrameEdit(masks=kept if masks is None else kept & masks)

    @torch.no_grad()
    def post_step(
        self,
        image_index: int | None,
        target_frames: Tensor,
        rendered_frames: Tensor,
        rend_out: SplatRenderPayload,
    ) -> None:
        """Find the outliers of this photograph; not if only a part of it was rendered."""
        if image_index is None or self._shape != tuple(rendered_frames.shape[1:3]):
            return
        self._levels = self._levels.to(rendered_frames.device)
        error, covered = self.errors(rendered_frames[0], target_frames[0], rend_out.alphas[0])
        self._levels[image_index] = error.median()
        self._outliers[image_index] = self.outliers(error, covered, self._levels.nanmedian())

    def training_mask(self, image_index: int, height: int, width: int) -> Tensor | None:
        """The pixels of a photograph that are used, (1, H, W) bool; None if it has not been seen yet."""
        outliers = self._outliers.get(image_index)
        if outliers is None:
            return None
        whole = F.interpolate(outliers[None, None].float(), size=(height, width), mode="nearest-exact")
        return whole[0] == 0

    def errors(self, rendered: Tensor, target: Tensor, alphas: Tensor) -> tuple[Tensor, Tensor]:
        """The difference of each cell, and whether the scene is known there.

        Args:
            rendered: (H, W, 3).
            target: (H, W, 3) in [0, 1].
            alphas: (H, W, 1).

        Returns:
            (rows, columns), and (rows, columns) bool.
        """
        height, width = target.shape[:2]
        size = min(height, width) / CELLS
        grid = (max(1, round(height / size)), max(1, round(width / size)))
        images = torch.cat([rendered - target, alphas], dim=-1).movedim(-1, 0)[None]
        means = F.adaptive_avg_pool2d(images, grid)[0]
        difference = means[:3] - means[:3].flatten(1).median(1).values[:, None, None]
        return difference.abs().mean(0), means[3] > COVERED

    def outliers(self, error: Tensor, covered: Tensor, level: Tensor) -> Tensor:
        """Find the cells to be masked.

        Args:
            error: the differences of the cells, (rows, columns).
            covered: (rows, columns) bool; others are no outliers.
            level: the difference that is to be expected, a scalar.

        Returns:
            (rows, columns) bool: the outliers and their neighbours.
        """
        limit = (self.ratio * level).clamp(min=self.least)
        found = ((error > limit) & covered).float()[None, None]
        most = (F.avg_pool2d(found, 3, 1, 1) > 0.5) & (found > 0)
        grown = most.float()
        weak = ((error > limit / 2) & covered)[None, None]
        for _ in range(2):  # the rim, where the cells show both
            grown = ((F.max_pool2d(grown, 3, 1, 1) > 0) & weak).float()
        grown = F.max_pool2d(grown, 3, 1, 1)[0, 0] > 0
        return grown & (grown.float().mean() <= self.max_share)

    def state_dict(self) -> dict[str, Any]:
        outliers = {str(index): cells for index, cells in getattr(self, "_outliers", {}).items()}
        return {"outliers": outliers, "levels": getattr(self, "_levels", None)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._outliers = {int(index): cells for index, cells in state["outliers"].items()}
        if state["levels"] is not None:
            self._levels = state["levels"]
