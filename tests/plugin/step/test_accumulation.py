"""`gradient_accumulation_steps`: a group that steps every n-th step, while Gaussians come and go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from splatkit_ns.methods import gaussian_optimizers
from splatkit_ns.modules import SplatBaseModule
from splatkit_ns.splat import RowChange, SplatTrainingState
from tests.faults.runs import MAX_STEPS, make_config, train

EVERY = 8


class Watch(SplatBaseModule[Any]):
    """Checks the gradient of shN at every change of rows, and notes after which steps shN's values are others."""

    def __init__(self) -> None:
        self.changed_at: list[int] = []
        self.carried = 0
        self.grad: Tensor | None = None
        self.values: Tensor | None = None

    def on_optimize(self, step: int, training_state: SplatTrainingState) -> None:
        param = training_state.params["shN"]
        self.grad = param.grad
        if self.values is not None and not torch.equal(self.values, param):
            self.changed_at.append(step)

    def on_gaussians_changed(self, step: int, training_state: SplatTrainingState, row_change: RowChange) -> None:
        grad = training_state.params["shN"].grad
        if step % EVERY == 0 or self.grad is None:  # it has just stepped, or is not in use yet
            assert grad is None
            return
        assert grad is not None
        assert torch.equal(grad, row_change.apply(self.grad))
        assert training_state.params["means"].grad is None
        self.grad = grad
        self.carried += int(grad.count_nonzero())

    def post_step(self, training_state: SplatTrainingState) -> None:
        self.values = training_state.params["shN"].detach().clone()


@pytest.mark.parametrize("densification", ["default", "mcmc"])
def test_shn_every_eighth_step(
    tiny_scene: Path, tmp_path: Path, densification: str, recwarn: pytest.WarningsRecorder
) -> None:
    watch = Watch()
    options = {"gradient_accumulation_steps": {"shN": EVERY}, "optimizers": gaussian_optimizers(lr_share=0.1)}
    config = make_config(tiny_scene, tmp_path, densification, **options)
    parser: Any = config.pipeline.datamanager.dataparser
    parser.eval_mode, parser.eval_interval = "interval", 4
    trainer = train(config, watch)
    state = trainer.pipeline.model.training_state
    steps = {name: float(optimizer.state[state.params[name]]["step"]) for name, optimizer in state.optimizers.items()}
    assert steps == {name: MAX_STEPS // EVERY if name == "shN" else MAX_STEPS for name in steps}
    assert watch.changed_at == [8, 16, 24, 32]
    assert watch.carried > 0
    assert not [str(warning.message) for warning in recwarn if "lr_scheduler" in str(warning.message)]
