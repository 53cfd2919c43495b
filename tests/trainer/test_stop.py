"""Modules and hooks end a run: saved, cleaned up, and with a result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splatkit_ns.hooks import Hook, HookModule
from splatkit_ns.modules import SplatBaseModule, SplatEvaluator
from tests.trainer.helpers import train
from tests.trainer.test_splat_trainer import Recorder, assert_same_gaussians


class StopsAt(Recorder):
    """Asks the run to stop at a step."""

    def __init__(self, when: int) -> None:
        super().__init__()
        self.when = when

    def post_step(self, step: int, stop: Callable[[str], None]) -> None:  # type: ignore[override]
        super().post_step(step)
        if step == self.when:
            stop("the loss is [flat]")

    def post_train(self, step: int) -> None:
        self.calls.append(("post_train", step))


def test_a_module_stops_the_run_as_if_its_step_were_the_last(
    tiny_scene: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = train(tiny_scene, tmp_path, 8, modules=[StopsAt(3), Recorder()])
    first, second = result.modules[-2:]
    assert isinstance(first, StopsAt)
    assert isinstance(second, Recorder)
    assert first.calls[-3:] == [("post_step", 3), ("post_train", 3), ("on_cleanup", 3)]
    assert second.calls[-2:] == [("post_step", 3), ("on_cleanup", 3)], "the modules after it complete the step"
    assert result.stop_reason == "the loss is [flat]"
    assert result.step == 3
    assert result.checkpoint_path.name == "step-000000002.ckpt"
    assert "Training stops after step 3: the loss is [flat]" in capfd.readouterr().out
    rest = train(tiny_scene, tmp_path, 8, modules=[Recorder(), Recorder()], ckpt_path=result.checkpoint_path)
    assert (rest.step, rest.stop_reason) == (8, None)
    whole = train(tiny_scene, tmp_path, 8, modules=[Recorder(), Recorder()])
    assert_same_gaussians(rest.training_state, whole.training_state)


def test_a_reason_may_be_any_object(tiny_scene: Path, tmp_path: Path) -> None:
    class Stops(SplatBaseModule):
        def post_step(self, step: int, stop: Callable[[Any], None]) -> None:
            if step == 2:
                stop(True)

    result = train(tiny_scene, tmp_path, 8, modules=[Stops()])
    assert (result.step, result.stop_reason) == (2, "True")


def test_a_hook_stops_the_run_after_an_evaluation(tiny_scene: Path, tmp_path: Path) -> None:
    class StopsWhenGood(Hook):
        def after_val(self, trainer: Any) -> None:
            assert trainer.metric_dict["psnr"] > 0
            trainer.stop("good enough")

    evaluator = SplatEvaluator(tmp_path / "eval", [2, 4], save_images=False, save_stats=False)
    result = train(tiny_scene, tmp_path, 6, modules=[evaluator, HookModule([StopsWhenGood()])])
    assert (result.step, result.stop_reason) == (2, "good enough")
    assert result.checkpoint_path.is_file()


def test_a_run_that_is_stopped_while_it_is_set_up_trains_nothing(tiny_scene: Path, tmp_path: Path) -> None:
    class StopsAtOnce(SplatBaseModule):
        def on_setup(self, stop: Callable[[str], None]) -> None:
            stop("nothing to do")

    result = train(tiny_scene, tmp_path, 3, modules=[StopsAtOnce(), Recorder()])
    assert (result.step, result.stop_reason) == (0, "nothing to do")
    assert not result.checkpoint_path.exists()
    recorder = result.modules[-1]
    assert isinstance(recorder, Recorder)
    assert recorder.calls == [("on_setup", 0), ("on_cleanup", 0)]


def test_a_reason_is_required(tiny_scene: Path, tmp_path: Path) -> None:
    class Careless(SplatBaseModule):
        def post_step(self, stop: Any) -> None:
            stop()

    with pytest.raises(TypeError, match=r"Careless\.post_step failed at step 1: TypeError: .*'reason'"):
        train(tiny_scene, tmp_path, 2, modules=[Careless()])
