"""A loss or gradient that is NaN: what, when and where is named; training stops or leaves that step out."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from splatkit_ns.errors import SplatkitError
from splatkit_ns.modules import SplatCheckpointer
from splatkit_ns.parts.context import StepContext
from splatkit_ns.plugin import trainer as trainer_module
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.plugin.step import finite
from splatkit_ns.plugin.step.finite import FiniteWatch, NotFiniteError
from splatkit_ns.splat import SplatTrainingState, read_checkpoint
from tests.faults.runs import CHEAP, At, CheapLoss, make_config, make_trainer, train
from tests.splat.helpers import make_tensors


class _Poison(torch.autograd.Function):
    """Leaves values as they are, and makes one gradient NaN."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        grad = grad.clone()
        grad.view(-1)[3] = math.nan
        return grad


@dataclasses.dataclass
class FaultyLoss(CheapLoss):
    """A loss that is NaN, or whose gradient of the scales is, at some steps (1-based)."""

    loss_at: tuple[int, ...] = ()
    gradient_at: tuple[int, ...] = ()

    def compute_loss(
        self, step: int, rendered_frames: Any, target_frames: Any, training_state: SplatTrainingState
    ) -> dict[str, torch.Tensor]:
        terms = super().compute_loss(rendered_frames, target_frames)
        scales = training_state.params["scales"]
        terms["regulariser"] = 0 * (_Poison.apply(scales) if step in self.gradient_at else scales).sum()
        if step in self.loss_at:
            terms["regulariser"] = terms["regulariser"] * math.nan
        return terms


def faulty(scene: Path, output: Path, on_nan: str = "stop", **faults: Any) -> Any:
    options = {**CHEAP, "model_loss_fn": FaultyLoss(**faults)}
    return make_config(scene, output, steps_per_save=6, on_nan=on_nan, **options)


def test_a_loss_that_is_nan_stops_training(scene: Path, tmp_path: Path) -> None:
    config, steps = faulty(scene, tmp_path, loss_at=(9,)), At(0, lambda: None)
    with pytest.raises(SplatkitError) as caught:
        train(config, steps)
    text = str(caught.value)
    assert "Not finite at step 9 on image frame_000" in text
    assert "the loss = nan" in text
    assert "Terms of the loss: regulariser = nan" in text
    assert "step-000000006.ckpt" in text
    assert "--on-nan skip" in text
    assert steps.steps == list(range(1, 9))
    assert steps.cleaned_up == 1
    paths = checkpoint_files.checkpoint_paths(config.get_checkpoint_dir())
    assert [path.name for path in paths] == ["step-000000006.ckpt"]


def test_a_gradient_that_is_nan_names_its_group(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFiniteError, match=r"step 4 on image frame_\d+\.png: the gradient of scales = nan\."):
        train(faulty(scene, tmp_path, gradient_at=(4,)))


def test_such_steps_can_be_skipped(scene: Path, tmp_path: Path, messages: pytest.LogCaptureFixture) -> None:
    """The parameters stay what they were, everything stays finite, and the schedule goes on."""
    trainer = make_trainer(faulty(scene, tmp_path, "skip", loss_at=(9,), gradient_at=(9, 17, 18)))
    params = trainer.pipeline.model.gauss_params
    seen: dict[int, torch.Tensor] = {}
    steps = At(0, lambda: None)

    class Records(At):
        def post_step(self, step: int) -> None:
            seen[step] = params["sh0"].detach().clone()

    trainer.pipeline.model.use_modules([steps, Records(0, lambda: None)])
    trainer.train()
    assert steps.steps == list(range(1, 37))
    assert torch.equal(seen[8], seen[9])
    assert torch.equal(seen[16], seen[18])
    assert not torch.equal(seen[18], seen[19])
    last = read_checkpoint(checkpoint_files.path_of(trainer.checkpoint_dir, 35))
    assert all(value.isfinite().all() for value in last["pipeline"].values())
    assert last["schedulers"]["means"]["last_epoch"] == 36
    assert last["optimizers"]["means"]["state"][0]["step"] == 33
    skipped = [record.getMessage() for record in messages.records if "This step is skipped" in record.getMessage()]
    assert len(skipped) == 3
    assert "the loss = nan" in skipped[0]
    assert "step 17" in skipped[1]


def test_densification_counts_no_skipped_step(scene: Path, tmp_path: Path) -> None:
    options = {**CHEAP, "densification": "default", "model_loss_fn": FaultyLoss(loss_at=(9,))}
    trainer = train(make_config(scene, tmp_path, on_nan="skip", max_num_iterations=9, **options))
    statistics = trainer.pipeline.model.densification.state_dict()
    assert statistics["grad2d"].isfinite().all()
    assert statistics["count"].max() == 3, "of the steps 6 to 9, since the refinement at step 5, all but one"


def test_skipping_is_given_up_after_a_while(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite, "MAX_SKIPPED_IN_A_ROW", 5)
    with pytest.raises(SplatkitError, match=r"5 steps in a row had to be skipped\. Not finite at step 14"):
        train(faulty(scene, tmp_path, "skip", loss_at=tuple(range(10, 40))))


def watched(step: int, watch: FiniteWatch, loss: float, state: SplatTrainingState, bad: str = "") -> None:
    context = StepContext(logger=finite.logger, max_steps=10, step=step, image_name=f"{step}.png")
    context.loss = torch.tensor(loss)
    for name, param in state.params.items():
        param.grad = torch.full_like(param, math.inf if name == bad else 1e38)
    watch.record(context, watch.row(watch.largest_gradients(state.optimizers), context.loss, context.loss))


def test_between_looks_nothing_is_read_back() -> None:
    """As on a GPU: the values stay on the device, and the first bad step is named at the next look."""
    state = SplatTrainingState.from_tensors(make_tensors(5))
    watch = FiniteWatch(list(state.optimizers), "cpu", every_step=False)
    for step in range(1, 8):
        watched(step, watch, math.nan if step == 6 else 1.0, state, bad="quats" if step == 5 else "")
    with pytest.raises(NotFiniteError, match=r"^Not finite at step 5 on image 5.png: the gradient of quats = inf\.$"):
        watch.check()
    watch.check()
    for step in range(8, 8 + finite.STEPS_PER_CHECK - 1):
        watched(step, watch, 1.0, state)
    with pytest.raises(NotFiniteError, match="step 107"):
        watched(107, watch, math.inf, state)


def test_a_group_without_gradient_counts_as_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the zero is there from the start, not made at every step."""
    state = SplatTrainingState.from_tensors(make_tensors(5))
    watch = FiniteWatch(list(state.optimizers), "cpu", every_step=True)
    context = StepContext(logger=finite.logger, max_steps=10, step=1)
    context.loss = torch.tensor(math.inf)
    monkeypatch.setattr(torch, "zeros", None)
    with pytest.raises(NotFiniteError, match=r"^Not finite at step 1 on image : the loss = inf\.$"):
        watch.record(context, watch.row(watch.largest_gradients(state.optimizers), context.loss, context.loss))


def look_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs look at their values as rarely as on a GPU."""
    late = lambda names, device, every_step, skips, ranks: FiniteWatch(names, device, False, skips)  # noqa: E731
    monkeypatch.setattr(trainer_module, "FiniteWatch", late)


def test_a_spoilt_state_is_not_saved(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the look comes late; before anything is saved there is one."""
    look_late(monkeypatch)
    trainer = make_trainer(faulty(scene, tmp_path, gradient_at=(9,)))
    with pytest.raises(SplatkitError, match=r"Not finite at step 9 .*gradient of scales"):
        trainer.train()
    assert trainer.step == 12
    assert [checkpoint_files.step_of(path) for path in checkpoint_files.checkpoint_paths(trainer.checkpoint_dir)] == [6]


def test_a_spoilt_state_is_saved_by_no_module_either(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module's own checkpoints are looked at first, too, so the last good one is not deleted for a bad one."""
    look_late(monkeypatch)
    trainer = make_trainer(faulty(scene, tmp_path, gradient_at=(9,)))
    keeper = SplatCheckpointer(tmp_path / "kept", every=4, keep=1)
    trainer.pipeline.model.use_modules([keeper])
    with pytest.raises(SplatkitError, match=r"Not finite at step 9 .*gradient of scales"):
        trainer.train()
    assert trainer.step == 11
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["step_000008.ckpt"]
    saved = read_checkpoint(tmp_path / "kept/step_000008.ckpt")
    assert all(value.isfinite().all() for value in saved["pipeline"].values())


class Spoils(At):
    """Writes NaN into the positions after one step."""

    def __init__(self, when: int) -> None:
        super().__init__(when, lambda: None)

    def post_step(self, step: int, training_state: SplatTrainingState) -> None:
        if step == self.when:
            training_state.params["means"].data[2:4] = math.nan


def test_spoilt_parameters_are_not_saved_though_gradients_are_fine(scene: Path, tmp_path: Path) -> None:
    config = make_config(scene, tmp_path, steps_per_save=6, **CHEAP)
    with pytest.raises(NotFiniteError, match=r"Not finite after step 36: 6 of the values of means.*000000030.ckpt"):
        train(config, Spoils(36))
    kept = checkpoint_files.checkpoint_paths(config.get_checkpoint_dir())
    assert [checkpoint_files.step_of(path) for path in kept] == [24, 30]
    assert all(value.isfinite().all() for path in kept for value in read_checkpoint(path)["pipeline"].values())


def test_an_error_of_a_step_with_spoilt_parameters_says_so(scene: Path, tmp_path: Path) -> None:
    config = make_config(scene, tmp_path, steps_per_save=6)  # the real renderer refuses them
    with pytest.raises(NotFiniteError, match=r"Not finite after step 8: 6 of the values of means.*modules"):
        train(config, Spoils(8))
