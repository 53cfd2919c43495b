"""Densification as the document on it shows: the same signatures, the same order of masks and operations."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from splatkit_ns.densification.base import SplatDensification
from splatkit_ns.errors import HookFailedError
from splatkit_ns.modules.base import SplatBaseModule
from splatkit_ns.modules.frame import SplatRenderPayload
from splatkit_ns.splat import RowChange
from splatkit_ns.splat.training_state import SplatTrainingState
from tests.trainer.helpers import train

NUM = 48
THRESHOLD = 0.005
HALF = {"init_opacity": 0.51}
"""The document compares logits with 0.005; theirs are 0.04 at first, so that some cross it soon."""


class ByGradients(SplatDensification[SplatRenderPayload]):
    """The minimal strategy: within a window, clone by gradients, then remove by (raw) opacity."""

    def __init__(
        self,
        grow_grad2d: float = 0.0002,
        prune_opa: float = THRESHOLD,
        refine_start_iter: int = 500,
        refine_stop_iter: int = 15000,
        refine_every: int = 100,
    ) -> None:
        self.grow_grad2d = grow_grad2d
        self.prune_opa = prune_opa
        self.refine_start_iter = refine_start_iter
        self.refine_stop_iter = refine_stop_iter
        self.refine_every = refine_every

    def densify(
        self,
        step: int,
        max_steps: int,
        rendered_frames: Tensor,
        target_frames: Tensor,
        training_state: SplatTrainingState,
        rend_out: SplatRenderPayload,
        masks: Tensor | None = None,
        world_rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not self.refine_start_iter <= step <= self.refine_stop_iter or step % self.refine_every != 0:
            return
        if not hasattr(rend_out, "means2d"):
            return
        means2d = rend_out.means2d
        if means2d is None or means2d.grad is None:
            return
        high = means2d.grad.norm(dim=-1) > self.grow_grad2d
        if high.any():
            training_state.duplicate(high)
        faint = training_state.params["opacities"].squeeze(-1) < self.prune_opa
        if faint.any():
            training_state.remove(faint)


class LeaderDecides(SplatDensification[SplatRenderPayload]):
    """One rank makes both masks, then applies them."""

    def densify(
        self, step, max_steps, rendered_frames, target_frames, training_state, rend_out, masks=None,
        world_rank=0, world_size=1,
    ) -> None:  # fmt: skip
        if world_rank == 0 and step == 1:
            rows = torch.arange(len(training_state))
            clones, prunes = rows < 5, (rows >= 3) & (rows < 10)
            if clones.any():
                training_state.duplicate(clones)
            if prunes.any():
                training_state.remove(prunes)


class SeveralCriteria(SplatDensification[SplatRenderPayload]):
    """All masks first; then split, duplicate and remove, one after the other."""

    def __init__(self, grad_threshold: float = 0.0, var_threshold: float = 0.1, radius_threshold: float = 0.0) -> None:
        self.grad_threshold = grad_threshold
        self.var_threshold = var_threshold
        self.radius_threshold = radius_threshold

    def densify(
        self, step, max_steps, rendered_frames, target_frames, training_state, rend_out, masks=None, **kwargs
    ) -> None:
        high = rend_out.means2d.grad.norm(dim=-1) > self.grad_threshold
        if hasattr(rend_out, "depth_variance"):
            uncertain = rend_out.depth_variance > self.var_threshold
        else:
            uncertain = torch.zeros_like(high)
        large = rend_out.radii > self.radius_threshold
        assert uncertain.shape == large.shape
        splits = high & large
        clones = high & ~large
        prunes = (training_state.params["opacities"] < 0.005).squeeze()
        if splits.any():
            training_state.split(splits)
        if clones.any():
            training_state.duplicate(clones)
        if prunes.any():
            training_state.remove(prunes)


class Checked(SeveralCriteria):
    """Chooses thresholds that split and clone a quarter each, and looks at what came of the masks."""

    def densify(self, step, training_state, rend_out, **others) -> None:
        if step != 2:
            return
        norms, radii = rend_out.means2d.grad.norm(dim=-1)[0], rend_out.radii[0]
        self.grad_threshold, self.radius_threshold = float(norms.median()), float(radii.float().median())
        high, large = norms > self.grad_threshold, radii > self.radius_threshold
        faint = training_state.params["opacities"].detach() < THRESHOLD
        before = training_state.means.detach().clone()
        self.sizes = [int((high & large).sum()), int((high & ~large).sum()), int((faint & ~(high & large)).sum())]
        self.new_and_faint = int((faint & high).sum())
        super().densify(step=step, training_state=training_state, rend_out=rend_out, **others)
        kept = (~(high & large) & ~faint).nonzero()[:, 0]
        copies = (high & ~large).nonzero()[:, 0]
        halves = (high & large).nonzero()[:, 0].repeat(2)
        assert len(training_state) == len(kept) + len(halves) + len(copies)
        means = training_state.means.detach()
        assert torch.equal(means[: len(kept)], before[kept]), "the others stay"
        assert torch.equal(means[len(kept) + len(halves) :], before[copies]), "also copies of those that go"
        is_faint = training_state.params["opacities"].detach() < THRESHOLD
        assert not is_faint[: len(kept)].any()
        assert int(is_faint.sum()) == int(faint[halves].sum() + faint[copies].sum())


class Watches(SplatBaseModule[SplatRenderPayload]):
    """Keeps every change of rows, with the least raw opacity after it."""

    def on_setup(self) -> None:
        self.changes: list[tuple[int, RowChange, float]] = []

    def on_gaussians_changed(self, step: int, row_change: RowChange, training_state: SplatTrainingState) -> None:
        self.changes.append((step, row_change, float(training_state.params["opacities"].detach().min())))


def run(scene: Path, output_dir: Path, steps: int, densification: Any, **config: Any) -> tuple[Any, Any, Watches]:
    """Train; the training state, the densification as it was used, and the changes of rows."""

    class Finds(SplatBaseModule[SplatRenderPayload]):
        def on_cleanup(self, densification: Any) -> None:
            self.densification = densification

    result = train(scene, output_dir, steps, densification=densification, modules=[Watches(), Finds()], config=config)
    watches, finds = result.modules[-2:]
    assert isinstance(watches, Watches)
    assert isinstance(finds, Finds)
    return result.training_state, finds.densification, watches


def test_gradients_clone_and_raw_opacities_prune_within_the_window(tiny_scene: Path, tmp_path: Path) -> None:
    strategy = ByGradients(grow_grad2d=1e-6, refine_start_iter=3, refine_stop_iter=5, refine_every=2)
    state, _, watches = run(tiny_scene, tmp_path, 8, strategy, **HALF)
    (step, cloned, _), (_, pruned, least) = watches.changes
    assert step == 4, "the only step within the window that is a multiple of two"
    assert cloned.source[:NUM].tolist() == list(range(NUM))
    assert 0 < cloned.num_new <= NUM
    assert pruned.num_new == 0
    assert pruned.num_after < pruned.num_before
    assert least >= THRESHOLD
    assert len(state) == NUM + cloned.num_new - (pruned.num_before - pruned.num_after)


def test_raw_opacities_of_a_new_scene_are_all_below_the_threshold(tiny_scene: Path, tmp_path: Path) -> None:
    strategy = ByGradients(grow_grad2d=1e9, refine_start_iter=1, refine_every=1)
    with pytest.raises(HookFailedError, match=rf"^ByGradients\.densify failed .*all {NUM} Gaus.*holds logits"):
        run(tiny_scene, tmp_path, 2, strategy)


def test_a_mask_of_the_leaders_means_what_it_was_made_for(tiny_scene: Path, tmp_path: Path) -> None:
    _, _, watches = run(tiny_scene, tmp_path, 2, LeaderDecides())
    (_, cloned, _), (_, pruned, _) = watches.changes
    assert cloned.parents.tolist() == [*range(NUM), 0, 1, 2, 3, 4]
    left = cloned.inherit(torch.arange(NUM))[pruned.source].tolist()
    assert left == [0, 1, 2, *range(10, NUM), 0, 1, 2, 3, 4], "3 to 9 go, the copies of 3 and 4 stay"


def test_several_criteria(tiny_scene: Path, tmp_path: Path) -> None:
    _, strategy, watches = run(tiny_scene, tmp_path, 3, Checked(), **HALF)
    assert len(watches.changes) == 3
    assert min(strategy.sizes) > 0, "each of the three operations had something to do"
    assert strategy.new_and_faint > 0, "some would have been removed, had they not been split"


def test_a_threshold_for_opacities_that_meets_logits_is_told_once(
    tiny_scene: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Prunes(SplatDensification[SplatRenderPayload]):
        def densify(self, training_state: SplatTrainingState, step: int) -> None:
            mask = training_state.params["opacities"] < THRESHOLD
            mask[: 20 // step] = False
            training_state.remove(mask)

    with caplog.at_level(logging.WARNING, "splatkit_ns"):
        state, _, _ = run(tiny_scene, tmp_path, 3, Prunes())
    assert len(state) == 6
    told = [message for message in caplog.messages if message.startswith("remove: ")]
    assert len(told) == 1
    assert f"28 of {NUM} Gaussians" in told[0]


def test_points_added_during_a_run_are_trained_and_have_no_parent(tiny_scene: Path, tmp_path: Path) -> None:
    positions = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0]])

    class Adds(SplatDensification[SplatRenderPayload]):
        def densify(self, training_state: SplatTrainingState, step: int) -> None:
            if step == 1:
                prunes = torch.arange(len(training_state)) < 8
                training_state.add(positions, torch.tensor([[1.0, 0, 0], [0, 1, 0]]), scales=torch.full((2,), 0.2))
                training_state.remove(prunes)

    state, _, watches = run(tiny_scene, tmp_path, 4, Adds())
    (_, added, _), (_, pruned, _) = watches.changes
    assert added.parents[NUM:].tolist() == [-1, -1]
    assert pruned.source.tolist() == list(range(8, NUM + 2))
    assert len(state) == NUM - 8 + 2
    moved = (state.means.detach()[-2:] - positions).norm(dim=-1)
    assert bool((moved > 0).all())
    assert bool((moved < 0.05).all())
    assert float(state.sh0[-2, 0, 0]) > float(state.sh0[-2, 0, 1]), "red"
