"""`SplatkitTrainer` on the tiny scene: it learns, logs little, saves what loads safely, and cleans up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from splatkit_ns.errors import HookFailedError
from splatkit_ns.methods import splatkit_2dgs, splatkit_3dgs_mcmc
from splatkit_ns.modules import SplatBaseModule
from splatkit_ns.plugin.trainer import SplatkitTrainer
from splatkit_ns.splat.schema import KEYS
from tests.plugin.helpers import forget_writers, make_trainer, run_config


class Recorder(SplatBaseModule):
    """Notes the hooks, the losses, and at which steps metrics were computed."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.losses: list[float] = []
        self.steps: list[int] = []

    def on_setup(self, step: int) -> None:
        self.calls.append("on_setup")
        self.first = step

    def pre_step(self, step: int) -> None:
        self.steps.append(step)

    def post_compute_loss(self, loss: torch.Tensor) -> None:
        self.losses.append(float(loss.detach()))

    def post_step(self, rend_out: Any) -> None:
        assert rend_out.means2d.grad is not None
        self.calls.append("post_step")

    def on_cleanup(self) -> None:
        self.calls.append("on_cleanup")


@pytest.fixture(scope="module")
def run(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SplatkitTrainer, Recorder, list[int]]:
    """A run of 60 steps, what its hooks saw, and at which steps (0-based) metrics were computed."""
    config = run_config(tiny_scene, tmp_path_factory.mktemp("run"), steps=60)
    config.pipeline.model.background_color = "black"  # as the scene's own is
    trainer = make_trainer(config)
    recorder, computed = Recorder(), list[int]()
    trainer.pipeline.model.use_modules([recorder])
    compute = trainer.pipeline.model.get_metrics_dict

    def spy(*args: Any) -> Any:
        computed.append(trainer.step)
        return compute(*args)

    trainer.pipeline.model.get_metrics_dict = spy  # type: ignore[method-assign]
    trainer.train()
    return trainer, recorder, computed


def test_the_loss_falls(run: tuple[SplatkitTrainer, Recorder, list[int]]) -> None:
    losses = run[1].losses
    assert len(losses) == 60
    assert sum(losses[-6:]) < 0.6 * sum(losses[:6])


def test_steps_count_from_one_to_the_last_between_set_up_and_clean_up(
    run: tuple[SplatkitTrainer, Recorder, list[int]],
) -> None:
    recorder = run[1]
    assert recorder.steps == list(range(1, 61))
    assert recorder.first == 0
    assert recorder.calls == ["on_setup", *["post_step"] * 60, "on_cleanup"]


def test_metrics_are_computed_at_the_logged_steps_only(run: tuple[SplatkitTrainer, Recorder, list[int]]) -> None:
    assert run[2] == [10, 20, 30, 40, 50]


def test_the_checkpoint_loads_safely_and_holds_the_last_step(
    run: tuple[SplatkitTrainer, Recorder, list[int]],
) -> None:
    trainer = run[0]
    (path,) = trainer.checkpoint_dir.glob("*.ckpt")
    assert path.name == "step-000000059.ckpt"
    loaded = torch.load(path, weights_only=True)
    assert loaded["step"] == 59
    assert set(KEYS) <= set(loaded["optimizers"])
    for name in KEYS:
        stored = loaded["pipeline"][f"_model.gauss_params.{name}"]
        assert torch.equal(stored, trainer.pipeline.model.gauss_params[name])


def test_the_learning_rate_of_positions_is_scaled_by_the_scene_and_decays(
    run: tuple[SplatkitTrainer, Recorder, list[int]],
) -> None:
    trainer = run[0]
    rate = trainer.optimizers.optimizers["means"].param_groups[0]["lr"]
    scale = trainer.pipeline.model.context.scene_scale
    assert scale == pytest.approx(1.1, abs=0.2), "cameras lie in a ball of radius 1 or so"
    assert rate == pytest.approx(1.6e-4 * scale * 0.01, rel=1e-6), "after as many steps as the schedule has"


def test_the_dataparsers_transform_is_kept_beside_the_config(
    run: tuple[SplatkitTrainer, Recorder, list[int]],
) -> None:
    stored = json.loads((run[0].base_dir / "dataparser_transforms.json").read_text())
    assert set(stored) == {"transform", "scale"}


class FailsAtStep(SplatBaseModule):
    def __init__(self, step: int) -> None:
        self.step, self.cleaned = step, 0

    def post_step(self, step: int) -> None:
        if step == self.step:
            raise KeyError("weights")

    def on_cleanup(self) -> None:
        self.cleaned += 1


def test_a_failing_hook_ends_the_run_after_clean_up(tiny_scene: Path, tmp_path: Path) -> None:
    trainer = make_trainer(run_config(tiny_scene, tmp_path, steps=10))
    module = FailsAtStep(3)
    trainer.pipeline.model.use_modules([module])
    with pytest.raises(HookFailedError, match=r"FailsAtStep.post_step failed at step 3: KeyError: 'weights'"):
        trainer.train()
    assert module.cleaned == 1
    assert trainer.step == 2


def test_evaluation_during_training_calls_no_hook_of_training(tiny_scene: Path, tmp_path: Path) -> None:
    config = run_config(tiny_scene, tmp_path, steps=9)
    config.steps_per_eval_image = 2
    config.steps_per_eval_all_images = 4
    config.steps_per_eval_batch = 3
    trainer = make_trainer(config)
    recorder = Recorder()
    trainer.pipeline.model.use_modules([recorder])
    trainer.train()
    assert recorder.steps == list(range(1, 10))
    assert recorder.calls.count("post_step") == 9


def test_modules_are_copies_so_that_a_config_can_be_used_twice(tiny_scene: Path, tmp_path: Path) -> None:
    config = run_config(tiny_scene, tmp_path, steps=2)
    settings = config.pipeline.model
    trainer = make_trainer(config)
    trainer.train()
    assert trainer.pipeline.model.densification is not settings.densification
    assert settings.densification.statistics == {}  # type: ignore[attr-defined]
    assert trainer.pipeline.model.densification.statistics  # type: ignore[attr-defined]
    assert config.optimizers["means"]["scheduler"].max_steps is None


def test_a_run_of_one_step_ends_well(tiny_scene: Path, tmp_path: Path) -> None:
    trainer = make_trainer(run_config(tiny_scene, tmp_path, steps=1))
    trainer.train()
    assert (trainer.checkpoint_dir / "step-000000000.ckpt").is_file()


class Count(SplatBaseModule):
    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers

    def post_step(self, training_state: Any) -> None:
        self.numbers.append(len(training_state))


def test_gaussians_are_densified_within_their_cap(tiny_scene: Path, tmp_path: Path) -> None:
    for mcmc in (False, True):
        config = run_config(tiny_scene, tmp_path / str(mcmc), steps=25, mcmc=mcmc)
        densification: Any = config.pipeline.model.densification
        densification.refine_start_iter, densification.refine_every = 2, 4
        densification.max_gaussians = 60
        if not mcmc:
            densification.grow_grad2d = 1e-7
        trainer = make_trainer(config)
        counts: list[int] = []

        trainer.pipeline.model.use_modules([Count(counts)])
        trainer.train()
        assert counts[0] == 48
        assert max(counts) == 60
        assert all(
            group["params"][0] is trainer.pipeline.model.gauss_params[name]
            for name in KEYS
            for group in trainer.optimizers.optimizers[name].param_groups
        )


def test_gaussians_of_another_renderer_are_told(
    tiny_scene: Path, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    """They can be meant to; but init-ply would turn 3D Gaussians into the discs that 2DGS draws."""
    first = make_trainer(run_config(tiny_scene, tmp_path / "first", steps=2))
    first.train()
    for method, told in ((splatkit_3dgs_mcmc, False), (splatkit_2dgs, True)):
        messages.clear()
        forget_writers()
        config = run_config(tiny_scene, tmp_path / method.config.method_name, steps=3, method=method)
        config.load_dir = first.checkpoint_dir
        make_trainer(config)
        assert ("were trained with Splat3DGSRenderer, this run has Splat2DGSRenderer" in messages.text) == told
