"""Density control within a budget, which can look at several training views at once.

The parts come from FastGS (https://arxiv.org/abs/2511.04283: who grows and who goes, by the errors of several views),
Taming 3DGS (https://arxiv.org/abs/2406.15643: a budget, growth drawn by score) and Improved-GS
(https://arxiv.org/abs/2508.12313: the budget's course, the long-axis split). FastGS counts the pixels of a Gaussian;
here its blend weights are summed up, which one backward pass gives on every backend. Counts and weights have no common
scale, so what FastGS compares with a number is compared with a quantile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from splatkit_ns.densification.base import scene_limit
from splatkit_ns.densification.default import SplatDefaultDensification, highest
from splatkit_ns.errors import ModuleError
from splatkit_ns.parts.training_views import TrainingView, TrainingViewSource
from splatkit_ns.ranges import BelowOne, Fraction, NonNegative, Positive
from splatkit_ns.splat import SplatTrainingState


@dataclass
class SplatBudgetDensification(SplatDefaultDensification):
    """Halves Gaussians that want to move on the screen, up to a number that rises with the steps.

    Each part can be switched off; what is left then is `SplatDefaultDensification`, whose settings mean the same. Where
    room is short, those with the highest sums of gradients grow, not, as there, those with the highest means. With
    scores of views it can ask who makes the wrong pixels of several training images; that needs 3D Gaussians and a
    renderer that has ``blend_weight_sums``.

    Raises:
        ModuleError: at set-up, if scores of views are wanted, and renderer or data cannot give them.
    """

    absgrad: bool = True
    """Sum up absolute gradients (AbsGS, https://arxiv.org/abs/2404.10484)."""
    grow_grad2d: Annotated[float, NonNegative] = 0.0003
    """Gaussians whose mean (absolute) positional gradient on the screen exceeds this may grow."""
    view_scores: bool = False
    """Draw who grows in proportion to their part in the wrong pixels of training views. False: those with the highest
    gradients, summed up over all steps since the last refinement, grow first."""
    num_views: Annotated[int, Positive] = 10
    """Training views, drawn anew at each refinement, that scores are means of."""
    error_threshold: Annotated[float, Fraction] = 0.1
    """Pixels are wrong whose error exceeds this, on a scale from the least to the largest error of their image."""
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
    prune_faint: Annotated[float, BelowOne] = 0.0
    """Of Gaussians with an opacity below this (such as 0.02), some of those that make most of the wrong pixels of
    training views are removed; 0 = none. Not while opacities recover from a reset."""
    prune_quantile: Annotated[float, Fraction] = 0.5
    """Share of the faint that make fewer wrong pixels than those removed; half of the others go, drawn in proportion
    to 1 / (1 - the share that makes fewer)."""
    clamp_opacity: Annotated[float, BelowOne] = 0.0
    """Lower opacities to at most this at each refinement, as FastGS does with 0.8; 0 = never."""

    def on_setup(
        self, logger: Any, renderer: Any, training_state: SplatTrainingState, data_provider: Any = None
    ) -> None:
        super().on_setup(logger, renderer, training_state)
        if not hasattr(self, "number_at_start"):
            self.number_at_start = len(training_state)
        self.limit = scene_limit(
            self.max_gaussians, self.max_per_seed, self.pixels_per_gaussian, self.number_at_start, data_provider
        )
        if self._looks_at_views:
            self._check_sources(renderer, data_provider)
        self._renderer, self._views = renderer, data_provider

    @property
    def _looks_at_views(self) -> bool:
        return self.view_scores or self.prune_faint > 0

    def _check_sources(self, renderer: Any, data_provider: Any) -> None:
        advice = f"With view_scores False and prune_faint 0 {self.module_name} does without scores of views."
        if not hasattr(renderer, "blend_weight_sums"):
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
        if not hasattr(self, "number_at_start"):
            return {}
        return {"number_at_start": self.number_at_start, "statistics": super().state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state["statistics"])
        self.number_at_start = int(state["number_at_start"])

    def allowed_number(self, step: int) -> int:
        """How many Gaussians there may be after a refinement at this step."""
        if not self.budget:
            return self.limit
        length = max(1, self.refine_stop_iter - self.refine_start_iter)
        progress = min(1.0, max(0, step - self.refine_start_iter) / length)
        return math.floor(self.number_at_start + (self.limit - self.number_at_start) * math.sqrt(progress))

    @torch.no_grad()
    def _refine(self, step: int, training_state: SplatTrainingState, scene_scale: float) -> None:
        grads = self._mean_gradients()
        clones, splits = self._candidates(step, grads, training_state, scene_scale)
        sums = self.statistics["grad2d"]  # of two that need it as much, the one that more cameras saw grows first
        growth, blame = self._scores(training_state) if self._looks_at_views else (sums, sums)
        leaves = training_state.opacities < self.prune_opa
        if self._sizes_prune(step):
            leaves |= self.statistics["radii"] > self.prune_scale2d
        if self.prune_faint > 0 and not self._recovers(step):
            leaves |= self._blamed(training_state.opacities, blame)
        leaves = self._unless_all(leaves, step)
        room = self.allowed_number(step) - int((~leaves).sum())
        candidates = (clones | splits) & ~leaves
        grows = drawn(candidates, growth, room) if self.view_scores else highest(candidates, sums, room)
        splits, grows = splits[~leaves], grows[~leaves]
        training_state.remove(leaves, is_current=True)
        if self.long_axis_split:
            training_state.split_long_axis(grows, is_current=True)
        else:
            self._clone_and_split(training_state, grows & ~splits, grows & splits)
        self._prune(step, training_state, scene_scale)
        if self.clamp_opacity > 0:
            training_state.limit_opacities(self.clamp_opacity)
        for value in self.statistics.values():
            value.zero_()

    def _recovers(self, step: int) -> bool:
        """Whether opacities were reset a short while ago."""
        return self._was_reset(step) and step % self.reset_every < max(1, self.reset_every // 6)

    def _scores(self, training_state: SplatTrainingState) -> tuple[Tensor, Tensor]:
        # from the CPU's generator, whose state checkpoints have: a resumed run draws the same
        drawn_views = torch.randperm(self._views.num_train_images)[: self.num_views].tolist()
        views = [self._views.training_view(index) for index in drawn_views]
        return view_scores(self._renderer, training_state, views, self.error_threshold)

    def _blamed(self, opacities: Tensor, blame: Tensor) -> Tensor:
        """Half of the faint Gaussians that make most of the wrong pixels, the more likely the more they make: (N,)."""
        faint = opacities < self.prune_faint
        ordered = blame[faint].sort().values
        shares = torch.searchsorted(ordered, blame) / max(1, len(ordered))  # of the faint that are blamed for less
        candidates = faint & (shares >= self.prune_quantile) & (blame > 0)
        return drawn(candidates, 1 / (1 + 1e-6 - shares.clamp(max=1)), math.ceil(int(candidates.sum()) / 2))


def view_scores(
    renderer: Any, training_state: SplatTrainingState, views: Sequence[TrainingView], error_threshold: float
) -> tuple[Tensor, Tensor]:
    """Each Gaussian's part in the wrong pixels of some views.

    Args:
        renderer: has ``blend_weight_sums``.
        training_state: N Gaussians.
        views: one camera each.
        error_threshold: see `wrong_pixels`.

    Returns:
        The sum of its blend weights over wrong pixels, averaged over views: (N,); and summed over views, each weighed
        with its mean absolute error: (N,).
    """
    growth = torch.zeros(len(training_state), device=training_state.device)
    blame = torch.zeros_like(growth)
    for view in views:
        wrong, error = wrong_pixels(view, error_threshold)
        sums = renderer.blend_weight_sums(training_state, view.view, wrong)
        growth += sums / len(views)
        blame += sums * error
    return growth, blame


def wrong_pixels(view: TrainingView, threshold: float) -> tuple[Tensor, Tensor]:
    """The pixels of a view that differ much from the photograph, and how much the view differs.

    Args:
        view: of one camera.
        threshold: on the scale from the view's least (0) to its largest error (1), which are means over channels.

    Returns:
        (H, W), 1 where an error exceeds the threshold and 0 elsewhere, also where the mask leaves a pixel out; and the
        mean error over the pixels that are not left out.
    """
    errors = (view.rendered_frames[0] - view.target_frames[0]).abs().mean(-1)
    valid = torch.ones_like(errors, dtype=torch.bool) if view.masks is None else view.masks[0]
    least = errors.masked_fill(~valid, math.inf).min()
    largest = errors.masked_fill(~valid, -math.inf).max()
    wrong = valid & (errors - least > threshold * (largest - least))
    return wrong.to(errors), (errors * valid).sum() / valid.sum().clamp(min=1)


def drawn(mask: Tensor, weights: Tensor, limit: int) -> Tensor:
    """Rows of a mask drawn without replacement in proportion to their weights, at most ``limit`` of them.

    Rows without weight are never drawn. Any number of rows, unlike ``torch.multinomial``.

    Args:
        mask: (N,) bool.
        weights: (N,), at least 0.
        limit: how many rows may be drawn.

    Returns:
        (N,) bool.
    """
    # the first arrivals of independent exponential clocks are such a draw (Efraimidis and Spirakis 2006)
    return highest(mask & (weights > 0), weights / torch.empty_like(weights).exponential_(), limit)
