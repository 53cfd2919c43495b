"""The thirteen points come when their names say."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from splatkit_ns.errors import HookFailedError, HookTypeError, SplatkitError
from splatkit_ns.hooks import Hook, HookModule, JsonLinesWriter, LogHook
from splatkit_ns.loss_fn import Splat3DGSLossFn
from splatkit_ns.modules import SplatCheckpointer
from tests.hooks.runs import POINTS, Recorder, make_trainer, run


def test_a_run_with_evaluation_and_checkpoints(tiny_scene: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    run(make_trainer(tiny_scene, tmp_path, recorder, steps_per_eval_all_images=2, steps_per_save=2))
    assert recorder.calls == [
        ("before_run", 0),
        ("before_train", 0),
        ("before_train_iter", 1),
        ("after_train_iter", 1),
        ("before_train_iter", 2),
        ("after_train_iter", 2),
        ("before_train_iter", 3),
        ("after_train_iter", 3),
        ("before_val", 3),
        ("before_val_iter", 3),
        ("after_val_iter", 3),
        ("before_val_iter", 3),  # two of the eight images are for evaluation
        ("after_val_iter", 3),
        ("after_val", 3),
        ("before_save_checkpoint", 3),
        ("after_train", 3),  # the last step's checkpoint is there already
        ("after_run", 3),
    ]


def test_a_check_of_one_image_is_an_evaluation_too(tiny_scene: Path, tmp_path: Path) -> None:
    sizes: list[int] = []

    class Sizes(Recorder):
        def before_val(self, trainer: Any) -> None:
            super().before_val(trainer)
            sizes.append(trainer.val_dataset_size)

    recorder = Sizes()
    run(make_trainer(tiny_scene, tmp_path, recorder, steps_per_eval_image=2))
    assert [name for name in recorder.names() if "val" in name] == [
        "before_val",
        "before_val_iter",
        "after_val_iter",
        "after_val",
    ]
    assert sizes == [1]


def test_resuming_tells_of_the_checkpoint_before_training(tiny_scene: Path, tmp_path: Path) -> None:
    first = run(make_trainer(tiny_scene, tmp_path / "first", steps=2))
    recorder = Recorder()
    run(make_trainer(tiny_scene, tmp_path / "second", recorder, steps=3, load_dir=first.checkpoint_dir))
    assert recorder.calls[:4] == [
        ("before_run", 0),
        ("after_load_checkpoint", 2),
        ("before_train", 2),
        ("before_train_iter", 3),
    ]


class FailingLoss(Splat3DGSLossFn):
    def compute_loss(self, **kwargs: Any) -> Any:
        raise ZeroDivisionError("the loss has a bug")


def test_an_exception_in_training_is_seen_and_raised(tiny_scene: Path, tmp_path: Path) -> None:
    errors: list[BaseException] = []

    class Errors(Recorder):
        def exception(self, trainer: Any) -> None:
            super().exception(trainer)
            errors.append(trainer.error)

    recorder = Errors()
    trainer = make_trainer(tiny_scene, tmp_path, recorder)
    trainer.config.pipeline.model.loss_fn = FailingLoss()
    with pytest.raises(HookFailedError, match="the loss has a bug") as caught:
        run(trainer)
    assert recorder.names() == ["before_run", "before_train", "before_train_iter", "exception", "after_run"]
    assert errors == [caught.value]


def test_an_exception_while_data_is_loaded_is_seen_too(tmp_path: Path) -> None:
    recorder = Recorder()
    trainer = make_trainer(tmp_path / "no such folder", tmp_path, recorder)
    with pytest.raises(SplatkitError):
        trainer.setup()
    assert recorder.names() == ["before_run", "exception", "after_run"]


def test_a_failing_exception_hook_does_not_hide_the_exception(tiny_scene: Path, tmp_path: Path) -> None:
    class Bad(Hook):
        def exception(self, trainer: Any) -> None:
            raise ValueError("of the hook itself")

    recorder = Recorder()
    trainer = make_trainer(tiny_scene, tmp_path, Bad(), recorder)
    trainer.config.pipeline.model.loss_fn = FailingLoss()
    with pytest.raises(HookFailedError, match="the loss has a bug"):
        run(trainer)
    assert recorder.names()[-2:] == ["exception", "after_run"]


def test_a_type_error_names_the_hook_and_keeps_its_traceback(tiny_scene: Path, tmp_path: Path) -> None:
    class Careless(Hook):
        def after_train_iter(self, trainer: Any) -> None:
            self.add_up(trainer.global_step)

        def add_up(self, step: int) -> None:
            _ = "step " + step  # type: ignore[operator]

    with pytest.raises(TypeError, match=r"Careless\.after_train_iter failed at step 1: TypeError: can only conc") as e:
        run(make_trainer(tiny_scene, tmp_path, Careless()))
    assert isinstance(e.value, HookTypeError)
    cause = e.value.__cause__
    assert type(cause) is TypeError
    assert cause.__traceback__ is not None
    frames = [entry.name for entry in pytest.ExceptionInfo.from_exception(cause).traceback]
    assert frames[-2:] == ["after_train_iter", "add_up"]


def test_methods_of_ones_own_are_reached_by_name(tiny_scene: Path, tmp_path: Path) -> None:
    heard: list[Any] = []

    class Speaker(Hook):
        def before_train(self, trainer: Any) -> None:
            trainer.call_hook("on_greeting", text="hello")
            trainer.call_hook("nobody_has_this")

    class Listener(Hook):
        def on_greeting(self, trainer: Any, text: str) -> None:
            heard.append((trainer.global_step, text))

    run(make_trainer(tiny_scene, tmp_path, Speaker(), Listener(), Recorder(), steps=1))
    assert heard == [(0, "hello")]


def test_all_points_are_tested_here() -> None:
    assert len(POINTS) == 13
    assert all(callable(getattr(Hook, point)) for point in POINTS)


def test_after_run_comes_once_also_where_a_modules_set_up_fails(tiny_scene: Path, tmp_path: Path) -> None:
    class Unready(Splat3DGSLossFn):
        def on_setup(self, **kwargs: Any) -> None:
            raise OSError("no room")

    recorder = Recorder()
    trainer = make_trainer(tiny_scene, tmp_path, recorder)
    trainer.config.pipeline.model.loss_fn = Unready()
    with pytest.raises(HookFailedError, match="no room"):
        run(trainer)
    assert recorder.names() == ["before_run", "exception", "after_run"]


def test_a_failing_after_run_is_raised_when_nothing_else_went_wrong(tiny_scene: Path, tmp_path: Path) -> None:
    class Bad(Hook):
        def after_run(self, trainer: Any) -> None:
            raise ValueError("cannot say goodbye")

    recorder = Recorder()
    with pytest.raises(HookFailedError, match=r"^Bad\.after_run failed at step 1: ValueError: cannot say goodbye$"):
        run(make_trainer(tiny_scene, tmp_path, Bad(), recorder, steps=1))
    assert recorder.names()[-1] == "after_run"


def test_hooks_given_to_a_splat_trainer(tiny_scene: Path, tmp_path: Path) -> None:
    from splatkit_ns.data_provider import NerfstudioDataProvider
    from splatkit_ns.modules import SplatEvaluator
    from splatkit_ns.trainer import SplatTrainer, SplatTrainerConfig

    result = SplatTrainer(
        config=SplatTrainerConfig(max_steps=2, output_dir=tmp_path, device="cpu", lpips=False, hooks=("LogHook",)),
        data_provider=NerfstudioDataProvider(tiny_scene, eval_interval=4),
        modules=[HookModule([Recorder()]), SplatEvaluator(output_dir=tmp_path, eval_steps=[2])],
    ).run()
    mine, log = (module for module in result.modules if isinstance(module, HookModule))
    assert isinstance(mine.hooks[0], Recorder)
    images = ["before_val_iter", "after_val_iter"]
    assert mine.hooks[0].names() == [
        "before_run",
        "before_train",
        *["before_train_iter", "after_train_iter"] * 2,
        "before_val",  # the evaluator comes after it
        *images * 2,
        "after_val",
        "after_train",
        "before_save_checkpoint",
        "after_run",
    ]
    assert isinstance(log.hooks[0], LogHook)
    means = log.hooks[0].val_means
    assert means["psnr"] == pytest.approx(result.metrics["eval/psnr"], rel=1e-5)


def test_checkpoints_of_modules_are_announced_too(tiny_scene: Path, tmp_path: Path) -> None:
    """A hook can bring its state up to date before any checkpoint, whoever writes it."""
    recorder = Recorder()
    trainer = make_trainer(tiny_scene, tmp_path, recorder)
    trainer.modules.append(SplatCheckpointer(tmp_path / "kept", every=2))
    run(trainer)
    assert [call for call in recorder.calls if call[0] == "before_save_checkpoint"] == [
        ("before_save_checkpoint", step) for step in (2, 3, 3)
    ]


def test_a_misspelt_point_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless(Hook):
        def after_train_itr(self, trainer: Any) -> None: ...
        def my_own(self, trainer: Any) -> None: ...

    logger = Mock()
    monkeypatch.setattr("splatkit_ns.hooks.adapter.logger", logger)
    HookModule([Careless(), LogHook()]).begin(None)
    assert [call.args[0] % call.args[1:] for call in logger.warning.call_args_list] == [
        "Careless.after_train_itr is called by trainer.call_hook alone. Did you mean after_train_iter?"
    ]


def test_a_hook_that_cannot_take_its_state_is_named() -> None:
    class Forgetful(Hook):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.best = state["b"]

    with pytest.raises(HookFailedError, match=r"^Forgetful\.load_state_dict failed: KeyError: 'b', at ") as caught:
        HookModule([Forgetful()]).load_state_dict({"Forgetful": {"best": 1.0}})
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_writer_that_fails_is_named_rather_than_the_hook(tiny_scene: Path, tmp_path: Path) -> None:
    with pytest.raises(
        HookFailedError, match=r"^Unplugged\.write_scalar failed at step 1: OSError: no space"
    ) as caught:
        run(make_trainer(tiny_scene, tmp_path, LogHook(every=1), writers=(f"{__name__}:Unplugged",)))
    assert isinstance(caught.value.__cause__, OSError)


def test_a_writer_without_space_costs_nerfstudios_log_but_not_the_run(tiny_scene: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_scene, tmp_path, writers=(f"{__name__}:Unplugged",))
    trainer.config.logging.steps_per_log = 1
    assert run(trainer).step == 2


class Unplugged(JsonLinesWriter):
    """Has no room for numbers."""

    def write_scalar(self, name: str, scalar: Any, step: int) -> None:
        raise OSError("no space")
