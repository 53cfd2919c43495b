"""Density control within a budget, which can use several training views at once.

The parts come from FastGS (https://arxiv.org/abs/2511.04283: growth and removal by the errors of several views),
Taming 3DGS (https://arxiv.org/abs/2406.15643: a budget, growth drawn by score) and Improved-GS
(https://arxiv.org/abs/2508.12313: the budget's course, the long-axis split). FastGS counts the pixels of a Gaussian;
here its blend weights are summed up, which one backward pass gives on every backend. Counts and weights have no common
scale, so quantities that FastGS compares with a number are compared with a quantile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
from torch import Tensor

from splatkit_ns.densification.default import SplatDefaultDensification, highest
from splatkit_ns.densification.mcmc import add_position_noise, noise_kernel
from splatkit_ns.densification.scene_limit import scene_limit
from splatkit_ns.errors import ModuleError
from splatkit_ns.parts.nesting import part_with
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.parts.training_views import TrainingView, TrainingViewSource, training_views
from splatkit_ns.ranges import BelowOne, Fraction, NonNegative, Positive
from splatkit_ns.ranks import Ranks
from splatkit_ns.splat import SplatTrainingState
from splatkit_ns.triton_kernels import LazyKernel


@dataclass
class SplatBudgetDensification(SplatDefaultDensification):
    """A strategy that halves Gaussians with large gradients on the screen, up to a number that rises with the steps.

    Each part can be switched off; without all of them it is `SplatDefaultDensification`, and common settings mean the
    same. If room is short, Gaussians with the highest sums of gradients grow, not, as there, those with the highest
    means. With scores of views it finds the Gaussians that make the wrong pixels of several training images; that needs
    3D Gaussians and a renderer that has ``blend_weight_sums``.

    Raises:
        ModuleError: at set-up, if scores of views are switched on, but renderer or data do not support them.
    """

    absgrad: bool = True
    """Sum up absolute gradients (AbsGS, https://arxiv.org/abs/2404.10484)."""
    grow_grad2d: Annotated[float, NonNegative] = 0.0003
    """Gaussians whose mean (absolute) positional gradient on the screen exceeds this may grow."""
    view_scores: bool = False
    """Draw the Gaussians that grow in proportion to their part in the wrong pixels of training views. False: Gaussians
    with the highest gradients, summed up over all steps since the last refinement, grow first."""
    by_opacity: bool = False
    """Without view_scores: sums of gradients count times the opacity, so that opaque Gaussians grow first."""
    num_views: Annotated[int, Positive] = 10
    """Number of training views, drawn anew at each refinement, that scores are averaged over."""
    error_threshold: Annotated[float, Fraction] = 0.1
    """A pixel is wrong if its error exceeds this, on a scale from the least to the largest error of its image."""
    long_axis_split: bool = True
    """Halve growing Gaussians along their longest axis. False: clone the small and split the large ones."""
    budget: bool = True
    """Let the number of Gaussians rise to its limit with the square root of the steps. False: only the limit counts."""
    max_gaussians: Annotated[int, Positive] = 5_000_000
    """Number of Gaussians to grow to, at most."""
    max_per_seed: Annotated[float, NonNegative] = 13.0
    """Grow to at most this many Gaussians for each one that the run started with; see `scene_limit`. 0 = no such
    limit."""
    pixels_per_gaussian: Annotated[float, Positive] = 50.0
    """With max_per_seed: at most one Gaussian for this many pixels of all training images."""
    usual_seeds: Annotated[float, NonNegative] = 0.0
    """With max_per_seed: a run that starts with more Gaussians than this grows to fewer for each one, with eight times
    as many to half. 0 = to as many, however many there are."""
    prune_faint: Annotated[float, BelowOne] = 0.0
    """Remove some of the Gaussians with an opacity below this (such as 0.02), among those that make most of the wrong
    pixels of training views; 0 = none. Nothing is removed while opacities recover from a reset."""
    prune_quantile: Annotated[float, Fraction] = 0.5
    """Share of the faint Gaussians that is kept, namely those that make the fewest wrong pixels. Half of the others are
    removed, drawn in proportion to 1 / (1 - the share that makes fewer)."""
    clamp_opacity: Annotated[float, BelowOne] = 0.0
    """Lower opacities to at most this at each refinement, as FastGS does with 0.8; 0 = never."""
    noise_lr: Annotated[float, NonNegative] = 0.0
    """Strength of MCMC's noise on the positions, times their learning rate; 0 = none."""

    number_at_start = cast("int | None", None)  # of Gaussians when the run began; None before the set-up

    @property
    def gpu_kernels(self) -> tuple[LazyKernel[Any], ...]:
        return (noise_kernel,) if self.noise_lr > 0 else ()

    def on_setup(
        self, logger: Any, renderer: Any, training_state: SplatTrainingState, data_provider: Any = None
    ) -> None:
        super().on_setup(logger, renderer, training_state)
        if self.number_at_start is None:
            self.number_at_start = len(training_state)
        self.limit = scene_limit(self, self.number_at_start, data_provider)
        if self._uses_view_scores:
            self._check_sources(renderer, data_provider)
        self._renderer, self._views = part_with(renderer, "blend_weight_sums"), data_provider

    @property
    def _uses_view_scores(self) -> bool:
        return self.view_scores or self.prune_faint > 0

    def _check_sources(self, renderer: Any, data_provider: Any) -> None:
        advice = f"With view_scores False and prune_faint 0, {self.module_name} needs no scores of views."
        if part_with(renderer, "blend_weight_sums") is None:
            raise ModuleError(
                f"{self.module_name} needs a renderer with blend_weight_sums, such as Splat3DGSRenderer, found "
                f"{type(renderer).__name__}. {advice}"
            )
        if not isinstance(data_provider, TrainingViewSource):
            raise ModuleError(
                f"{self.module_name} needs a data provider with num_train_images and training_view(), found "
                f"{type(data_provider).__name__}. {advice}"
            )

    def state_dict(self) -> dict[str, Any]:
        if self.number_at_start is None:
            return {}
        return {"number_at_start": self.number_at_start, "statistics": super().state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state["statistics"])
        self.number_at_start = int(state["number_at_start"])

    def allowed_number(self, step: int) -> int:
        """Return the largest number of Gaussians after a refinement at this step."""
        if not self.budget:
            return self.limit
        length = max(1, self.refine_stop_iter - self.refine_start_iter)
        progress = min(1.0, max(0, step - self.refine_start_iter) / length)
        assert self.number_at_start is not None
        return math.floor(self.number_at_start + (self.limit - self.number_at_start) * math.sqrt(progress))

    def densify(
        self,
        step: int,
        training_state: SplatTrainingState,
        rend_out: SplatRenderPayload,
        scene_scale: float,
        **others: Any,
    ) -> None:
        """Count, refine and reset as `SplatDefaultDensification` does; with noise_lr, add noise at every step."""
        super().densify(step, training_state, rend_out, scene_scale, **others)
        if self.noise_lr > 0:
            rate = float(training_state.optimizers["means"].param_groups[0]["lr"])
            with torch.no_grad():
                add_position_noise(training_state, rate * self.noise_lr)

    @torch.no_grad()
    def _refine(self, step: int, training_state: SplatTrainingState, scene_scale: float) -> None:
        grads = self._mean_gradients()
        clones, splits = self._candidates(step, grads, training_state, scene_scale)
        sums = self.statistics["grad2d"]  # with equal means, the Gaussian that more cameras saw grows first
        if self.by_opacity:
            sums = sums * training_state.opacities
        growth, wrongness = self._scores(training_state) if self._uses_view_scores else (sums, sums)
        removed = training_state.opacities < self.prune_opa
        if self._prunes_large_on_screen(step):
            removed |= self.statistics["radii"] > self.prune_scale2d
        if self.prune_faint > 0 and not self._is_recovering(step):
            removed |= self._faint_and_wrong(training_state.opacities, wrongness)
        removed = self._removal_mask(removed, step)
        room = self.allowed_number(step) - int((~removed).sum())
        candidates = (clones | splits) & ~removed
        grows = drawn(candidates, growth, room) if self.view_scores else highest(candidates, sums, room)
        splits, grows = splits[~removed], grows[~removed]
        training_state.remove(removed, is_current=True)
        if self.long_axis_split:
            training_state.split_long_axis(grows, is_current=True)
        else:
            self._clone_and_split(training_state, grows & ~splits, grows & splits)
        self._prune(step, training_state, scene_scale)
        if self.clamp_opacity > 0:
            training_state.limit_opacities(self.clamp_opacity)
        for value in self.statistics.values():
            value.zero_()

    def _is_recovering(self, step: int) -> bool:
        """Whether opacities still recover from a recent reset."""
        return self._was_reset(step) and step % self.reset_every < max(1, self.reset_every // 6)

    def _scores(self, training_state: SplatTrainingState) -> tuple[Tensor, Tensor]:
        # drawn from the CPU's generator, whose state is in checkpoints: a resumed run draws the same views
        drawn_views = torch.randperm(self._views.num_train_images)[: self.num_views].tolist()
        views = list(training_views(self._views, drawn_views))
        scores = view_scores(self._renderer, training_state, views, self.error_threshold)
        for score in scores:
            Ranks.current().copy_first(score)  # GPUs sum up in any order, and the ranks draw by these numbers
        return scores

    def _faint_and_wrong(self, opacities: Tensor, wrongness: Tensor) -> Tensor:
        """Draw half of the faint Gaussians that make most of the wrong pixels, (N,); larger parts are more likely."""
        faint = opacities < self.prune_faint
        ordered = wrongness[faint].sort().values
        shares = torch.searchsorted(ordered, wrongness) / max(1, len(ordered))  # of the faint with less wrongness
        candidates = faint & (shares >= self.prune_quantile) & (wrongness > 0)
        return drawn(candidates, 1 / (1 + 1e-6 - shares.clamp(max=1)), math.ceil(int(candidates.sum()) / 2))


def view_scores(
    renderer: Any, training_state: SplatTrainingState, views: Sequence[TrainingView], error_threshold: float
) -> tuple[Tensor, Tensor]:
    """Compute each Gaussian's part in the wrong pixels of some views.

    Args:
        renderer: a renderer with ``blend_weight_sums``.
        training_state: the N Gaussians.
        views: the views, with one camera each.
        error_threshold: see `wrong_pixels`.

    Returns:
        The sum of its blend weights over wrong pixels, averaged over views: (N,); and summed over views, each weighed
        with its mean absolute error: (N,).
    """
    growth = torch.zeros(len(training_state), device=training_state.device)
    wrongness = torch.zeros_like(growth)
    for view in views:
        wrong, error = wrong_pixels(view, error_threshold)
        sums = renderer.blend_weight_sums(training_state, view.view, wrong)
        growth += sums / len(views)
        wrongness += sums * error
    return growth, wrongness


def wrong_pixels(view: TrainingView, threshold: float) -> tuple[Tensor, Tensor]:
    """Find the pixels of a view that differ much from the photograph, and the mean error of the view.

    Args:
        view: a view of one camera.
        threshold: on the scale from the view's least (0) to its largest error (1), which are means over channels.

    Returns:
        (H, W), 1 for pixels whose error exceeds the threshold, 0 for others and for those outside the mask; and the
        mean error over the pixels in the mask.
    """
    errors = (view.rendered_frames[0] - view.target_frames[0]).abs().mean(-1)
    valid = torch.ones_like(errors, dtype=torch.bool) if view.masks is None else view.masks[0]
    least = errors.masked_fill(~valid, math.inf).min()
    largest = errors.masked_fill(~valid, -math.inf).max()
    wrong = valid & (errors - least > threshold * (largest - least))
    return wrong.to(errors), (errors * valid).sum() / valid.sum().clamp(min=1)


def drawn(mask: Tensor, weights: Tensor, limit: int) -> Tensor:
    """Draw at most ``limit`` rows of a mask without replacement, in proportion to their weights.

    Rows without weight are never drawn. N may be any number, unlike in ``torch.multinomial``.

    Args:
        mask: (N,) bool.
        weights: (N,), at least 0.
        limit: the largest number of rows to draw.

    Returns:
        (N,) bool.
    """
    # the first arrivals of independent exponential clocks are such a draw (Efraimidis and Spirakis 2006)
    return highest(mask & (weights > 0), weights / torch.empty_like(weights).exponential_(), limit)
