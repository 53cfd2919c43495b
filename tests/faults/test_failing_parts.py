"""Errors in parts of a user's own cost no steps that were trained before them."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from splatkit_ns.errors import HookFailedError, ModuleError
from splatkit_ns.plugin.options import starting
from splatkit_ns.plugin.run.ending.signals import StoppedBySignal
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.splat import read_checkpoint
from tests.faults.children import Child
from tests.faults.runs import CHEAP, At, CheapLoss, make_config, make_trainer, run_command, send, train


def saved_steps(config: Any) -> list[int]:
    """Steps (0-based) of the checkpoints in a run's folder, which can all be read."""
    paths = checkpoint_files.checkpoint_paths(config.get_checkpoint_dir())
    return [read_checkpoint(path)["step"] for path in paths]


class FailsAfterTraining(At):
    """Has a bug in what it does when all is done."""

    def post_train(self) -> None:
        raise ZeroDivisionError("a plot")


class FailsBeforeSaving(At):
    """Has a bug in what it does before a checkpoint."""

    def pre_save_checkpoint(self) -> None:
        raise ZeroDivisionError("a plot")


class FailsBeforeStep(At):
    """Has a bug that shows at one step."""

    def pre_step(self, step: int) -> None:
        if step == self.when:
            raise ZeroDivisionError("a plot")


@pytest.mark.parametrize(
    ("module", "saved"), [(FailsAfterTraining, 35), (FailsBeforeSaving, 35), (FailsBeforeStep, 19)]
)
def test_what_was_trained_before_an_error_is_saved(
    scene: Path, tmp_path: Path, messages: Any, module: type[At], saved: int
) -> None:
    config = make_config(scene, tmp_path, steps_per_save=0, **CHEAP)
    part = module(saved + 2, lambda: None)
    with pytest.raises(HookFailedError, match="a plot"):
        train(config, part)
    assert part.cleaned_up == 1
    assert saved_steps(config) == [saved]
    assert f"--load-dir {config.get_checkpoint_dir()}" in messages.text


def test_half_a_step_is_not_saved(scene: Path, tmp_path: Path) -> None:
    def fail() -> None:
        raise ZeroDivisionError("after the optimizers, among the modules")

    config = make_config(scene, tmp_path, steps_per_save=6, **CHEAP)
    with pytest.raises(HookFailedError):
        train(config, At(20, fail))
    assert saved_steps(config) == [12, 18]


class ExitsInPreStep(At):
    """Ends the process from within a step."""

    def pre_step(self, step: int) -> None:
        if step == self.when:
            raise SystemExit(7)


class ExitsInLoss(CheapLoss):
    """Ends the process where the step cannot go on without a result."""

    def compute_loss(self, step: int, **images: Any) -> Any:
        if step == 21:
            raise SystemExit(7)
        return super().compute_loss(images["rendered_frames"], images["target_frames"])


def leave() -> None:
    raise SystemExit(7)


@pytest.mark.parametrize(
    ("module", "loss_fn", "saved"),
    [(At(21, leave), CheapLoss(), 20), (ExitsInPreStep(21, lambda: None), CheapLoss(), 20), (None, ExitsInLoss(), 19)],
    ids=["post_step", "pre_step", "compute_loss"],
)
def test_a_system_exit_of_a_part_saves_first_and_keeps_its_status(
    scene: Path, tmp_path: Path, messages: Any, module: At | None, loss_fn: CheapLoss, saved: int
) -> None:
    config = make_config(scene, tmp_path, steps_per_save=0, **{**CHEAP, "model_loss_fn": loss_fn})
    parts = [part for part in (module, At(0, lambda: None)) if part is not None]
    with pytest.raises(SystemExit) as caught:
        train(config, *parts)
    assert caught.value.code == 7
    assert saved_steps(config) == [saved]
    assert [part.cleaned_up for part in parts] == [1] * len(parts)
    assert len(parts[-1].steps) == saved + 1, "the modules after it complete the step"
    assert "Training ends by SystemExit. The last checkpoint is" in messages.text


class KeepsASet(At):
    """Wants saved what a checkpoint cannot hold."""

    def state_dict(self) -> dict[str, Any]:
        return {"seen": {1, 2}}


def test_a_state_that_cannot_be_saved_is_refused_before_training(scene: Path, tmp_path: Path) -> None:
    part = KeepsASet(0, lambda: None)
    with pytest.raises(ModuleError, match=r"KeepsASet\.state_dict\(\)\['seen'\] is a builtins\.set; .*Convert it"):
        train(make_config(scene, tmp_path, **CHEAP), part)
    assert part.steps == []
    assert part.cleaned_up == 1


def interrupted_run(config: Any) -> None:
    """What ``ns-train`` does, interrupted while the pipeline is made."""
    kind = config.pipeline._target
    config.pipeline._target = lambda *arguments, **options: (send(signal.SIGINT)(), kind(*arguments, **options))
    run_command(config)


def test_ctrl_c_before_training_ends_with_its_status(scene: Path, tmp_path: Path) -> None:
    """nerfstudio would print a traceback, and end with status 0."""
    child = Child(interrupted_run, tmp_path / "log", config=make_config(scene, tmp_path, **CHEAP))
    assert child.wait() == 130
    assert "Traceback" not in child.text()
    assert "stopped before training began" in child.text()


def test_ctrl_c_in_set_up_from_python(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    config = make_config(scene, tmp_path, **CHEAP)
    monkeypatch.setattr(checkpoint_files, "newest_readable", interrupt)
    config.load_dir = tmp_path
    with pytest.raises(StoppedBySignal):
        make_trainer(config)


def test_ctrl_c_while_kernels_are_loaded(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing and compiling those of the CPU takes seconds."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("splatkit_ns.plugin.trainer.load_kernels", interrupt)
    with pytest.raises(StoppedBySignal):
        make_config(scene, tmp_path, **CHEAP).setup(local_rank=0, world_size=1)


def test_ctrl_c_while_gsplat_is_compiled(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes minutes, before a run has anything to save."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(starting, "check_device", interrupt)
    config = make_config(scene, tmp_path / "out", **CHEAP)
    with pytest.raises(StoppedBySignal) as caught:
        config.save_config()
    assert caught.value.code == 130
    assert not config.get_base_dir().exists()
