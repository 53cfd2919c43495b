"""Any sequence of row operations while training: everything that has rows follows, and training goes on."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.densification import SplatDefaultDensification
from splatkit_ns.loss_fn import Splat3DGSLossFn
from splatkit_ns.modules import SplatBaseModule, SplatRenderPayload
from splatkit_ns.parts.context import StepContext
from splatkit_ns.parts.dispatch import ModuleDispatcher
from splatkit_ns.renderer import Splat3DGSRenderer
from splatkit_ns.splat import RowChange, SplatTrainingState
from splatkit_ns.splat.tracking import MARKER
from tests.splat.helpers import snapshot
from tests.tiny_scene import tiny_gaussians

NUM_AT_START = 12
NUM_AT_MOST = 40

Operations = list[tuple[str, int, float]]
operations = st.lists(
    st.tuples(
        st.sampled_from(["duplicate", "split", "remove", "add", "train", "several"]),
        st.integers(0, 2**31),
        st.floats(0.0, 1.0),
    ),
    min_size=1,
    max_size=8,
)


def rows_of(training_state: SplatTrainingState) -> dict[str, Tensor]:
    """Copies of parameters and optimizer state, without the marks that `track_row_changes` sets meanwhile."""
    return {name: value for name, value in snapshot(training_state).items() if not name.endswith(MARKER)}


class Follower(SplatBaseModule[SplatRenderPayload]):
    """A user's module that keeps a number for each Gaussian: which one it was at the start, or -1."""

    def on_setup(self, training_state: SplatTrainingState) -> None:
        self.ids = torch.arange(len(training_state))
        self.before = rows_of(training_state)

    def on_gaussians_changed(self, row_change: RowChange, training_state: SplatTrainingState) -> None:
        after = rows_of(training_state)
        kept = row_change.source >= 0
        for name, value in after.items():
            assert len(value) == row_change.num_after == len(training_state)
            assert torch.equal(value[kept], self.before[name][row_change.source[kept]]), name
            if "/" in name:
                assert not value[~kept].any(), "new rows start without momentum"
        self.ids = row_change.apply(self.ids, fill=-1)
        self.before = after


class Run:
    """A training loop without nerfstudio, on one random target."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        tensors = {name: value.detach()[:NUM_AT_START] for name, value in tiny_gaussians().params.items()}
        self.state = SplatTrainingState.from_tensors(tensors)
        self.renderer, self.loss_fn = Splat3DGSRenderer(), Splat3DGSLossFn(ssim_lambda=0.0)
        self.strategy, self.follower = SplatDefaultDensification(), Follower()
        self.context = StepContext(
            logger=logging.getLogger("test"), max_steps=100, training_state=self.state, renderer=self.renderer
        )
        self.dispatcher = ModuleDispatcher([self.renderer, self.strategy, self.follower], self.context)
        self.state.subscribe(lambda change: self.dispatcher.run("on_gaussians_changed", row_change=change))
        pose = torch.eye(4)[None]
        pose[0, 2, 3] = -3.0
        self.view = View(pose, torch.tensor([[[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]]), 16, 16)
        self.target = torch.rand(1, 16, 16, 3)
        self.train()  # the optimizers have a state from now on
        self.dispatcher.setup()

    def train(self) -> None:
        payload = self.renderer.render(self.state, self.view)
        payload.means2d.retain_grad()
        loss = sum(self.loss_fn.compute_loss(payload.renders, self.target, self.state).values())
        assert isinstance(loss, Tensor)
        assert bool(torch.isfinite(loss))
        for optimizer in self.state.optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for name, optimizer in self.state.optimizers.items():
            param = self.state.params[name]
            assert param.grad is None or param.grad.shape == param.shape
            optimizer.step()
        if self.strategy.statistics:
            self.strategy.densify(1, self.state, payload, 1.0)
            assert all(len(value) == len(self.state) for value in self.strategy.statistics.values())
        self.follower.before = rows_of(self.state)

    def mask(self, seed: int, share: float) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(len(self.state), generator=generator) < share

    def change(self, operation: str, seed: int, share: float) -> None:
        mask = self.mask(seed, share)
        if operation == "add":
            num = min(int(mask.sum()), NUM_AT_MOST - len(self.state))
            self.state.add(torch.rand(max(0, num), 3, generator=torch.Generator().manual_seed(seed)))
            return
        if operation == "remove":
            if bool(mask.all()):
                with pytest.raises(ValueError, match="none would be left"):
                    self.state.remove(mask, is_current=True)
                return
            self.state.remove(mask, is_current=True)
        elif len(self.state) + int(mask.sum()) <= NUM_AT_MOST:
            getattr(self.state, operation)(mask, is_current=True)

    def apply(self, steps: Operations) -> None:
        for operation, seed, share in steps:
            if operation == "train":
                self.train()
            elif operation == "several":
                with self.state.track_row_changes():
                    for part, name in enumerate(("duplicate", "remove", "add", "split")):
                        self.change(name, seed + part, share / 2)
            else:
                self.change(operation, seed, share)

    def check(self) -> None:
        num = len(self.state)
        ids: Any = self.follower.ids
        assert len(ids) == num
        assert all(len(value) == num for value in self.strategy.statistics.values())
        kept = ids[ids >= 0]
        assert len(kept.unique()) == len(kept), "no Gaussian is there twice"


@settings(max_examples=100, deadline=None)
@given(operations)
def test_everything_follows_and_training_goes_on(steps: Operations) -> None:
    run = Run()
    run.apply(steps)
    run.check()
    run.train()
    run.check()
