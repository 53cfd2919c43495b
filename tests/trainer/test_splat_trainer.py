"""`SplatTrainer` as the documents promise it: parts, checkpoints, results, and one clear error for each mistake."""

from __future__ import annotations

import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from splatkit_ns.data_provider import NerfstudioDataProvider
from splatkit_ns.densification import SplatDefaultDensification, SplatDensification
from splatkit_ns.errors import ModuleError, OptionsError, SplatkitError
from splatkit_ns.hooks import LogHook
from splatkit_ns.loss_fn import Splat3DGSLossFn, SplatLossFn
from splatkit_ns.modules import SplatBaseModule, SplatExporter, SplatRenderPayload
from splatkit_ns.renderer import Splat3DGSRenderer
from splatkit_ns.splat import SplatModel, SplatTrainingState
from splatkit_ns.trainer import SplatTrainer, SplatTrainerConfig
from tests.trainer.helpers import make_trainer, train


class Recorder(SplatBaseModule[SplatRenderPayload]):
    """Notes which hooks ran at which step."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.state: dict[str, int] = {"seen": 0}

    def on_setup(self, step: int) -> None:
        self.calls.append(("on_setup", step))

    def pre_step(self, step: int) -> None:
        self.calls.append(("pre_step", step))

    def post_step(self, step: int) -> None:
        self.calls.append(("post_step", step))
        self.state["seen"] += 1

    def on_cleanup(self, step: int) -> None:
        self.calls.append(("on_cleanup", step))

    def state_dict(self) -> dict[str, Any]:
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = dict(state)


class LockedRecorder(Recorder):
    """Has a lock, which cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def assert_same_gaussians(a: SplatTrainingState, b: SplatTrainingState) -> None:
    for name, param in a.params.items():
        assert torch.equal(param, b.params[name]), name


def test_steps_count_from_one_and_the_result_says_where_everything_is(tiny_scene: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    result = train(tiny_scene, tmp_path, 3, modules=[recorder])
    ran = result.modules[-1]
    assert isinstance(ran, Recorder)
    steps = [(hook, step) for step in (1, 2, 3) for hook in ("pre_step", "post_step")]
    assert ran.calls == [("on_setup", 0), *steps, ("on_cleanup", 3)]
    assert recorder.calls == [], "the caller's own instance is not touched"
    assert result.step == 3
    assert result.output_dir.is_relative_to(tmp_path)
    assert (result.output_dir / "config.yml").is_file()
    assert result.checkpoint_path.is_file()
    assert [type(module) for module in result.modules[:3]] == [
        Splat3DGSRenderer,
        Splat3DGSLossFn,
        SplatDefaultDensification,
    ]
    terms = [value for name, value in result.metrics.items() if name.startswith("loss/")]
    assert result.metrics["loss"] == pytest.approx(sum(terms))
    assert result.metrics["num_gaussians"] == len(result.training_state)


def test_two_runs_in_one_process_are_equal_and_keep_apart(tiny_scene: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_scene, tmp_path, 4)
    first, second = trainer.run(), trainer.run()
    assert first.output_dir != second.output_dir
    assert first.metrics == second.metrics
    assert_same_gaussians(first.training_state, second.training_state)


def test_resuming_from_an_exported_checkpoint_goes_on_as_if_never_stopped(tiny_scene: Path, tmp_path: Path) -> None:
    whole = train(tiny_scene, tmp_path, 8, modules=[SplatExporter(tmp_path / "export", [3]), Recorder()])
    rest = train(tiny_scene, tmp_path, 8, modules=[Recorder()], ckpt_path=tmp_path / "export/ckpts/step_000003.ckpt")
    recorder = rest.modules[-1]
    assert isinstance(recorder, Recorder)
    assert [step for hook, step in recorder.calls if hook == "post_step"] == [4, 5, 6, 7, 8]
    assert recorder.state == {"seen": 8}, "the checkpoint of step 3 is of the whole step, also of later modules"
    assert_same_gaussians(whole.training_state, rest.training_state)


def test_resuming_a_finished_run_trains_nothing(tiny_scene: Path, tmp_path: Path) -> None:
    first = train(tiny_scene, tmp_path, 2)
    again = train(tiny_scene, tmp_path, 2, ckpt_path=first.checkpoint_path)
    assert again.step == 2
    assert set(again.metrics) == {"num_gaussians"}
    assert_same_gaussians(first.training_state, again.training_state)


def test_the_results_training_state_saves_the_full_checkpoint(tiny_scene: Path, tmp_path: Path) -> None:
    result = train(tiny_scene, tmp_path, 2)
    result.training_state.save_ckpt(tmp_path / "later.ckpt")
    longer = train(tiny_scene, tmp_path, 4, ckpt_path=str(tmp_path / "later.ckpt"))
    assert longer.step == 4
    loaded = torch.load(tmp_path / "later.ckpt", weights_only=True)
    assert loaded["step"] == 1, "nerfstudio counts from 0"
    assert loaded["schedulers"]
    assert "sampler" in loaded["splatkit"]


def test_an_exported_model_trains_on_by_itself(tiny_scene: Path, tmp_path: Path) -> None:
    result = train(tiny_scene, tmp_path, 2, modules=[SplatExporter(str(tmp_path / "export"), export_steps=[2])])
    model = SplatModel.load_ply(tmp_path / "export/splats/step_000002.ply")
    state = model.to_training_state(learning_rates={"means": 1e-3}, device="cpu")
    assert_same_gaussians(result.training_state, state)
    assert state.optimizers["means"].param_groups[0]["lr"] == 1e-3
    with pytest.raises(ValueError, match=r"^learning_rates is \{Ellipsis\}, expected a dict of rates by name"):
        model.to_training_state(learning_rates={...})  # type: ignore[arg-type]  # as a document writes it


@pytest.mark.parametrize("stated", [{}, {"quats": 0.02}])
def test_stated_learning_rates_count_if_the_checkpoint_tells_none(
    tiny_scene: Path, tmp_path: Path, stated: dict[str, float]
) -> None:
    """Those of a checkpoint that was saved outside of a run."""
    result = train(tiny_scene, tmp_path, 2)
    rates = {"quats": 0.004, "scales": 0.007}
    result.training_state.to_splat_model().to_training_state(rates).save_ckpt(tmp_path / "alone.ckpt", step=1)
    resumed = train(tiny_scene, tmp_path, 3, ckpt_path=tmp_path / "alone.ckpt", config={"learning_rates": stated})
    found = {name: one.param_groups[0]["lr"] for name, one in resumed.training_state.optimizers.items()}
    assert {name: found[name] for name in rates} == {**rates, **stated}


def test_settings_reach_the_run(tiny_scene: Path, tmp_path: Path) -> None:
    class Scale(SplatBaseModule[SplatRenderPayload]):
        def on_setup(self, scene_scale: float, training_state: SplatTrainingState) -> None:
            self.scale = scene_scale
            self.means_rate = training_state.optimizers["means"].param_groups[0]["lr"]
            self.opacity = float(training_state.opacities.mean())

    def run(**config: Any) -> Scale:
        module = train(tiny_scene, tmp_path, 1, modules=[Scale()], config=config).modules[-1]
        assert isinstance(module, Scale)
        return module

    plain, changed = run(), run(global_scale=2.0, init_opacity=0.4, learning_rates={"means": 1e-3})
    assert changed.scale == pytest.approx(2 * plain.scale)
    assert changed.means_rate == pytest.approx(1e-3 * changed.scale)
    assert changed.opacity == pytest.approx(0.4, abs=1e-4)
    assert plain.opacity == pytest.approx(0.1, abs=1e-4)


def test_a_part_that_cannot_be_copied_whole_or_pickled_is_copied_all_the_same(tiny_scene: Path, tmp_path: Path) -> None:
    """The run behaves as with any other part: the caller's own instance is not touched."""

    class Locked(SplatLossFn[SplatRenderPayload]):
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.calls = 0

        def compute_loss(self, rendered_frames: torch.Tensor, target_frames: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return (rendered_frames - target_frames).square().mean()

    loss_fn = Locked()
    result = train(tiny_scene, tmp_path, 2, loss_fn=loss_fn, modules=[LockedRecorder()])
    ran, recorder = result.modules[1], result.modules[-1]
    assert isinstance(ran, Locked)
    assert isinstance(recorder, LockedRecorder)
    assert (ran.calls, loss_fn.calls) == (2, 0)
    assert ran.lock is loss_fn.lock
    assert recorder.state == {"seen": 2}
    assert not (result.output_dir / "config.yml").exists()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"renderer": Splat3DGSRenderer}, "renderer is the class Splat3DGSRenderer itself"),
        ({"loss_fn": Splat3DGSRenderer()}, "loss_fn is .* expected an instance of SplatLossFn"),
        ({"densification": 3}, "densification is 3 of type int, expected an instance of SplatDensification"),
        ({"modules": [Recorder]}, r"modules\[0\] is the class Recorder itself"),
        ({"modules": ["exporter"]}, r"modules\[0\] is 'exporter' of type str"),
        ({"modules": [LogHook()]}, r"modules holds hooks .* write HookModule\(\[LogHook\(…\)\]\)"),
        (
            {"modules": [Splat3DGSLossFn()]},
            r"modules\[0\] is a SplatLossFn, Splat3DGSLossFn, whose compute_loss\(\) is not called .* as loss_fn",
        ),
        ({"modules": Recorder()}, "expected a list of module instances"),
        ({"densification": SplatDensification()}, r"no densify\(\) of its own"),
    ],
)
def test_wrong_parts(tiny_scene: Path, tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ModuleError, match=message):
        make_trainer(tiny_scene, tmp_path, **parts)


def test_a_class_in_place_of_the_data_provider(tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match="data_provider is the class NerfstudioDataProvider itself"):
        SplatTrainer(SplatTrainerConfig(max_steps=1, output_dir=tmp_path), NerfstudioDataProvider)  # type: ignore[arg-type]


def test_a_checkpoint_that_does_not_exist(tiny_scene: Path, tmp_path: Path) -> None:
    with pytest.raises(SplatkitError, match=r"ckpt_path: there is no file .*nothing\.ckpt"):
        make_trainer(tiny_scene, tmp_path, ckpt_path=tmp_path / "nothing.ckpt")


def test_an_output_folder_that_cannot_be_written(tiny_scene: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SplatkitError, match=r"output_dir: the output folder .*file/runs cannot be written"):
        make_trainer(tiny_scene, tmp_path / "file" / "runs")


def test_a_program_without_a_file_cannot_start_several_processes(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = types.ModuleType("__main__")
    main.__file__ = "<stdin>"  # as Python has it for a program that is piped to it
    monkeypatch.setitem(sys.modules, "__main__", main)
    config = SplatTrainerConfig(max_steps=2, num_devices=2, device="cpu", output_dir=tmp_path / "runs")
    with pytest.raises(SplatkitError, match="there is no file <stdin>"):
        SplatTrainer(config, NerfstudioDataProvider(tiny_scene)).run()
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())


def test_all_settings_out_of_range_are_named_at_once(tiny_scene: Path, tmp_path: Path) -> None:
    config = {"sh_degree": 4, "init_opacity": 1.0, "learning_rates": {"mean": 1e-3}, "device": "gpu", "global_scale": 0}
    with pytest.raises(OptionsError) as caught:
        make_trainer(tiny_scene, tmp_path, max_steps=0, config=config)
    assert len(caught.value.problems) == 6
    for name in ("max_steps", "sh_degree", "init_opacity", "'mean'", "device", "global_scale"):
        assert name in str(caught.value)


def test_a_missing_data_folder(tmp_path: Path) -> None:
    with pytest.raises(SplatkitError, match="does not exist"):
        train(tmp_path / "nowhere", tmp_path)


def test_a_viewer_that_is_drawing_when_training_ends_costs_no_result(tiny_scene: Path, tmp_path: Path) -> None:
    """nerfstudio's render thread sets the model to evaluation while it draws, also when training has just ended."""

    class Drawing(SplatBaseModule[SplatRenderPayload]):
        def on_setup(self, data_provider: Any) -> None:
            self.model = data_provider._model

        def on_cleanup(self) -> None:
            self.model.eval()

    result = train(tiny_scene, tmp_path, 2, modules=[Drawing()])
    assert result.metrics["psnr"] > 0
