"""Adaptive density control of 3D Gaussian Splatting (https://arxiv.org/abs/2308.04079, section 5.2).

The rules and their settings are those of gsplat's ``DefaultStrategy``, and a test holds the two side by side. The code
is our own because gsplat's reads back from the GPU every step, resets opacities at step 0 (1.4.0) or never (1.5.3), and
has no cap.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
from torch import Tensor

from splatkit_ns.densification.base import SplatDensification, limit_initial_number, warn_if_idle
from splatkit_ns.densification.screen_gradients import add_to_gaussians, gradient_norms, request_absgrad
from splatkit_ns.parts.fitting import gradients_every, gradients_stop, refine_start
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.parts.steps import is_due
from splatkit_ns.ranges import NonNegative, Positive, from_to
from splatkit_ns.ranks import Ranks
from splatkit_ns.splat import RowChange, SplatTrainingState

STATISTICS = ("grad2d", "count", "radii")

logger = logging.getLogger("splatkit_ns")


@dataclass
class SplatDefaultDensification(SplatDensification[SplatRenderPayload]):
    """A strategy that clones small and splits large Gaussians with large gradients on the screen, and removes
    transparent and huge ones.
    """

    prune_opa: Annotated[float, from_to(0, 0.5, lower_open=True, upper_open=True)] = 0.005
    """Gaussians with an opacity below this are removed."""
    grow_grad2d: Annotated[float, NonNegative] = 0.0002
    """Gaussians whose mean positional gradient on the screen (in units of half the image) exceeds this grow."""
    grow_scale3d: Annotated[float, NonNegative] = 0.01
    """A growing Gaussian up to this size (relative to the scene) is cloned, a larger one split."""
    grow_scale2d: Annotated[float, NonNegative] = 0.05
    """Gaussians with a radius above this fraction of the image are split, until refine_scale2d_stop_iter."""
    prune_scale3d: Annotated[float, NonNegative] = 0.1
    """Gaussians larger than this (relative to the scene) are removed, once opacities have been reset."""
    prune_scale2d: Annotated[float, NonNegative] = 0.15
    """Gaussians with a radius above this fraction of the image are removed, until refine_scale2d_stop_iter."""
    refine_scale2d_stop_iter: Annotated[int, NonNegative] = 0
    """Last step at which sizes on the screen matter; 0 = never."""
    refine_start_iter: Annotated[int, NonNegative] = refine_start(500)
    """Refinement starts after this step."""
    refine_stop_iter: Annotated[int, NonNegative] = gradients_stop(15_000)
    """Refinement and opacity resets end before this step."""
    reset_every: Annotated[int, NonNegative] = 3000
    """Opacities are reset to at most twice prune_opa every this many steps, unless training ends within a sixth of
    that; 0 = never."""
    refine_every: Annotated[int, Positive] = gradients_every(100)
    """Steps between refinements."""
    pause_refine_after_reset: Annotated[int, NonNegative] = 0
    """No refinement for this many steps after an opacity reset; the number of images is a good value."""
    absgrad: bool = False
    """Sum up absolute gradients (AbsGS, https://arxiv.org/abs/2404.10484); use a grow_grad2d of about 0.0008."""
    revised_opacity: bool = False
    """Lower the opacity of split Gaussians so that the two halves cover like the whole (arXiv:2404.06109)."""
    max_gaussians: Annotated[int, Positive] = 5_000_000
    """Largest number of Gaussians; if room is short, those with the highest gradients grow first."""

    statistics = cast("dict[str, Tensor]", {})  # by name, (N,) each; empty before the set-up
    cap_before = cast("int | None", None)  # the max_gaussians of the run that is resumed
    _has_warned = False

    @property
    def needs_screen_gradients(self) -> bool:
        return True

    def on_setup(self, logger: Any, renderer: Any, training_state: SplatTrainingState) -> None:
        if self.absgrad:
            request_absgrad(renderer, self.module_name)
        warn_if_idle(self, logger)
        limit_initial_number(training_state, self.max_gaussians, logger, self.cap_before)
        if not self._statistics_fit(len(training_state)):
            if self.statistics:
                logger.warning("%s: the statistics do not fit the Gaussians; counting starts anew.", self.module_name)
            self.statistics = {
                name: torch.zeros(len(training_state), device=training_state.device) for name in STATISTICS
            }

    def _statistics_fit(self, num: int) -> bool:
        values = [self.statistics.get(name) for name in STATISTICS]
        return all(isinstance(value, Tensor) and tuple(value.shape) == (num,) for value in values)

    def state_dict(self) -> dict[str, Any]:
        return {**self.statistics, "max_gaussians": self.max_gaussians} if self.statistics else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.statistics = {name: value for name, value in state.items() if name != "max_gaussians"}
        self.cap_before = state.get("max_gaussians")

    def on_gaussians_changed(self, row_change: RowChange) -> None:
        self.statistics = {name: row_change.apply(value) for name, value in self.statistics.items()}

    @torch.no_grad()
    def measure(self, rend_out: SplatRenderPayload) -> None:
        rend_out.gradient_norms = gradient_norms(rend_out, self.absgrad)

    def densify(
        self,
        step: int,
        training_state: SplatTrainingState,
        rend_out: SplatRenderPayload,
        scene_scale: float,
        max_steps: int | None = None,
        images_per_step: int = 1,
        **others: Any,
    ) -> None:
        """Count gradients; refine and reset opacities at the steps for it."""
        if step >= self.refine_stop_iter:
            return
        self.count_image(rend_out, step)
        if self._refines_at(step, images_per_step):
            self.gather_from_ranks(Ranks.current())
            self._refine(step, training_state, scene_scale)
        if self._resets_at(step, max_steps, images_per_step):
            training_state.limit_opacities(2 * self.prune_opa)

    @torch.no_grad()
    def gather_from_ranks(self, ranks: Ranks) -> None:
        if ranks.size == 1 or not self.statistics:
            return
        for name in ("grad2d", "count"):
            ranks.add(self.statistics[name])
        ranks.maximum(self.statistics["radii"])

    def forget_gathered(self, ranks: Ranks) -> None:
        if not ranks.is_first and self.statistics:
            for name in ("grad2d", "count"):
                self.statistics[name].zero_()

    def _refines_at(self, step: int, images_per_step: int = 1) -> bool:
        return (
            step > self.refine_start_iter
            and is_due(step, self.refine_every, images_per_step)
            and (self.reset_every == 0 or step % self.reset_every >= self.pause_refine_after_reset)
        )

    def _resets_at(self, step: int, max_steps: int | None, images_per_step: int = 1) -> bool:
        """Whether opacities are reset at this step; they are not if the run ends before they have recovered."""
        if self.reset_every == 0 or not is_due(step, self.reset_every, images_per_step):
            return False
        return max_steps is None or max_steps - step >= max(1, self.reset_every // 6)

    def _was_reset(self, step: int) -> bool:
        return 0 < self.reset_every < step

    @torch.no_grad()
    def count_image(self, rend_out: SplatRenderPayload, step: int) -> None:
        """Add an image's gradients to the running statistics, without a read-back from the device."""
        norms = gradient_norms(rend_out, self.absgrad) if step < self.refine_stop_iter else None
        if norms is None:
            return
        radii, ids = rend_out.radii, rend_out.gaussian_ids
        visible = radii > 0
        grad2d, count, largest = (self.statistics[name] for name in STATISTICS)
        add_to_gaussians(grad2d, norms, ids)
        add_to_gaussians(count, visible, ids)
        if self.refine_scale2d_stop_iter > 0:
            sizes = radii / max(rend_out.width, rend_out.height)
            if ids is None:
                torch.maximum(largest, sizes.amax(0), out=largest)
            else:
                largest.scatter_reduce_(0, ids, sizes.reshape(-1), "amax")

    @torch.no_grad()
    def _refine(self, step: int, training_state: SplatTrainingState, scene_scale: float) -> None:
        # A Gaussian that is too large on the screen would be split now and both halves removed: remove it at once.
        if self._prunes_large_on_screen(step):
            removed = self._removal_mask(self.statistics["radii"] > self.prune_scale2d, step)
            training_state.remove(removed, is_current=True)
        self._grow(step, training_state, scene_scale)
        self._prune(step, training_state, scene_scale)
        for value in self.statistics.values():
            value.zero_()

    def _prunes_large_on_screen(self, step: int) -> bool:
        """Whether Gaussians that are too large on the screen are removed at this step."""
        return self._was_reset(step) and step < self.refine_scale2d_stop_iter

    def _prune(self, step: int, training_state: SplatTrainingState, scene_scale: float) -> None:
        prune = training_state.opacities < self.prune_opa
        if self._was_reset(step):
            prune |= training_state.scales.amax(-1) > self.prune_scale3d * scene_scale
        training_state.remove(self._removal_mask(prune, step), is_current=True)

    def _removal_mask(self, removed: Tensor, step: int) -> Tensor:
        """Return the removal mask, (N,) bool; all False, with one warning, if it would remove every Gaussian."""
        if len(removed) == 0 or not bool(removed.all()):
            return removed
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s: at step %d all %d Gaussians are below prune_opa (%g) or too large; none is removed, because "
                "none would be left. Likely causes: training images that are background or outside their "
                "masks everywhere (look at images and masks), a loss that holds opacities down too strongly (lower "
                "opacity_reg), learning rates that are too high.",
                self.module_name,
                step,
                len(removed),
                self.prune_opa,
            )
        return torch.zeros_like(removed)

    def _grow(self, step: int, training_state: SplatTrainingState, scene_scale: float) -> None:
        grads = self._mean_gradients()
        clones, splits = self._candidates(step, grads, training_state, scene_scale)
        room = self.max_gaussians - len(training_state)
        allowed = highest(splits | clones, grads, room)
        clones, splits = clones & allowed, splits & allowed
        if int(clones.sum() + splits.sum()) > room:
            clones &= ~splits  # a Gaussian that does both, as in gsplat, adds two rows
        self._clone_and_split(training_state, clones, splits)

    def _mean_gradients(self) -> Tensor:
        """Return each Gaussian's mean gradient on the screen since the last refinement, (N,)."""
        return self.statistics["grad2d"] / self.statistics["count"].clamp(min=1)

    def _candidates(
        self, step: int, grads: Tensor, training_state: SplatTrainingState, scene_scale: float
    ) -> tuple[Tensor, Tensor]:
        """Return the Gaussians to clone and those to split if there is room, two masks (N,) bool."""
        grows = grads > self.grow_grad2d
        large = training_state.scales.amax(-1) > self.grow_scale3d * scene_scale
        splits = grows & large
        if step < self.refine_scale2d_stop_iter:
            splits |= self.statistics["radii"] > self.grow_scale2d
        return grows & ~large, splits

    def _clone_and_split(self, training_state: SplatTrainingState, clones: Tensor, splits: Tensor) -> None:
        training_state.duplicate(clones, is_current=True)
        num_clones = len(training_state) - len(splits)
        splits = torch.nn.functional.pad(splits, (0, num_clones))
        training_state.split(splits, self.revised_opacity, is_current=True)


def highest(mask: Tensor, score: Tensor, limit: int) -> Tensor:
    """Select the rows of a mask with the highest scores, at most ``limit`` of them.

    Args:
        mask: (N,) bool.
        score: (N,).
        limit: the largest number of rows to select.

    Returns:
        (N,) bool.
    """
    if limit <= 0:
        return torch.zeros_like(mask)
    if int(mask.sum()) <= limit:
        return mask
    rows = score.masked_fill(~mask, -math.inf).topk(limit).indices
    return torch.zeros_like(mask).index_fill(0, rows, True)
