"""The built-in modules on a short run: which files, what is in them, and what a mistake says."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from splatkit_ns.errors import ModuleError, OptionsError, SplatkitError
from splatkit_ns.modules import (
    SplatCheckpointer,
    SplatEvaluator,
    SplatExporter,
    SplatProgressTracker,
    SplatTensorboard,
    SplatTimer,
)
from splatkit_ns.modules.evaluator import mean_metrics
from splatkit_ns.parts.context import StepContext
from splatkit_ns.parts.dispatch import ModuleDispatcher
from splatkit_ns.parts.evaluation import HeldOutFigures
from splatkit_ns.renderer import Splat3DGSRenderer
from splatkit_ns.splat import SplatModel, SplatTrainingState
from tests.trainer.helpers import train


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["ckpts/step_000002.ckpt", "ckpts/step_000004.ckpt", "splats/step_000002.ply", "splats/step_000004.ply"]),
        ({"save_ckpt": False}, ["splats/step_000002.ply", "splats/step_000004.ply"]),
        ({"save_splat": False}, ["ckpts/step_000002.ckpt", "ckpts/step_000004.ckpt"]),
        ({"export_steps": range(1, 5, 3)}, [f"{k}/step_00000{n}.{s}" for k, s in (("ckpts", "ckpt"), ("splats", "ply"))
                                            for n in (1, 4)]),
    ],
)  # fmt: skip
def test_exported_files(tiny_scene: Path, tmp_path: Path, settings: dict[str, Any], expected: list[str]) -> None:
    exporter = SplatExporter(output_dir=str(tmp_path / "export"), **{"export_steps": [2, 4], **settings})
    result = train(tiny_scene, tmp_path / "runs", 4, modules=[exporter])
    assert files(tmp_path / "export") == expected
    for name in expected:
        path = tmp_path / "export" / name
        if path.suffix == ".ply":
            model = SplatModel.load_ply(path)
        else:
            model = SplatTrainingState.from_ckpt(path).to_splat_model()
        if "000004" in name:
            final = result.training_state.to_splat_model().tensors()
            assert all(torch.equal(value, final[key]) for key, value in model.tensors().items())


def test_other_ranks_export_nothing(tmp_path: Path) -> None:
    exporter = SplatExporter(tmp_path / "export", [1])
    state = SplatTrainingState.from_points(torch.rand(4, 3))
    exporter.on_setup(logging.getLogger(), max_steps=1, world_rank=1)
    exporter.post_step(logging.getLogger(), 1, state, world_rank=1, renderer=Splat3DGSRenderer())
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("splat_format", ["ply", "compressed.ply", "spz", "sog", "glb"])
def test_exports_say_how_they_were_trained(tmp_path: Path, splat_format: str) -> None:
    exporter = SplatExporter(tmp_path, [1], save_ckpt=False, splat_format=splat_format)
    exporter.on_setup(logging.getLogger(), max_steps=1, world_rank=0)
    renderer = Splat3DGSRenderer(rasterize_mode="antialiased")
    state = SplatTrainingState.from_points(torch.rand(9, 3))
    exporter.post_step(logging.getLogger(), 1, state, world_rank=0, renderer=renderer)
    model = SplatModel.load(tmp_path / "splats" / f"step_000001.{splat_format}")
    assert (len(model), model.render_mode) == (9, "mip")


def test_a_sky_that_is_left_out_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for sky_degree, words in ((None, ""), (2, "SplatExporter writes the Gaussians without the sky")):
        renderer = Splat3DGSRenderer(sky_degree=sky_degree)
        SplatExporter(tmp_path, [7]).on_setup(logging.getLogger("export"), 10, world_rank=0, renderer=renderer)
        assert (words in caplog.text) if words else not caplog.text


def test_export_steps_beyond_the_end_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    SplatExporter(tmp_path, [7, 30, 40]).on_setup(logging.getLogger("export"), max_steps=10, world_rank=0)
    assert "SplatExporter.export_steps: 30, 40 will not be reached, the run ends at step 10" in caplog.text


def test_steps_may_be_an_array(tiny_scene: Path, tmp_path: Path) -> None:
    steps: Any = np.arange(1, 5, 2)
    modules = [
        SplatExporter(tmp_path / "export", steps, save_ckpt=False),
        SplatEvaluator(tmp_path / "eval", steps, save_images=False),
        SplatExporter(tmp_path / "never", np.array([], int)),  # type: ignore[arg-type]
    ]
    train(tiny_scene, tmp_path / "runs", 4, modules=modules)
    assert [path.name for path in sorted((tmp_path / "export/splats").iterdir())] == [
        "step_000001.ply", "step_000003.ply",
    ]  # fmt: skip
    assert len(list((tmp_path / "eval/stats").glob("*.json"))) == 2
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (SplatExporter("OUT", [1], splat_format="obj"), "splat_format is 'obj', expected one of: ply"),
        (SplatExporter("OUT", [0, 1]), "SplatExporter.export_steps holds 0, expected whole numbers of at least 1"),
        (SplatExporter("OUT", [1.5]), r"export_steps holds 1\.5"),  # type: ignore[list-item]
        (SplatExporter("OUT", 4), r"export_steps is 4, expected a list of whole numbers"),  # type: ignore[arg-type]
        (SplatEvaluator("OUT", [-1]), "eval_steps holds -1"),
        (SplatEvaluator("OUT", iter([1])), "eval_steps is <list_iterator .*, expected a list"),  # type: ignore[arg-type]
        (SplatCheckpointer("OUT", every=-1), "SplatCheckpointer.every is -1, expected a number of at least 0"),
        (SplatProgressTracker(-1), "update_every is -1"),
        (SplatTensorboard("OUT", scalars_every=-1), "scalars_every is -1"),
        (SplatTimer(-1), "every is -1"),
    ],
)
def test_settings_out_of_range(tiny_scene: Path, tmp_path: Path, module: Any, message: str) -> None:
    if hasattr(module, "output_dir"):
        module.output_dir = tmp_path / "out"
    with pytest.raises(OptionsError, match=message):
        train(tiny_scene, tmp_path / "runs", 1, modules=[module])


@pytest.mark.parametrize("kind", [SplatExporter, SplatEvaluator, SplatCheckpointer, SplatTensorboard])
def test_an_output_folder_that_cannot_be_written(tiny_scene: Path, tmp_path: Path, kind: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    settings = {"export_steps": [1]} if kind is SplatExporter else {"eval_steps": [1]} if kind is SplatEvaluator else {}
    module = kind(tmp_path / "file" / "out", **settings)
    with pytest.raises(SplatkitError, match=rf"{kind.__name__}: the output folder .*out cannot be written: Not a dir"):
        train(tiny_scene, tmp_path / "runs", 1, modules=[module])


@pytest.mark.parametrize("kind", [SplatExporter, SplatEvaluator, SplatCheckpointer, SplatTensorboard])
def test_an_output_folder_that_is_no_path(kind: Any) -> None:
    settings = {"export_steps": [1]} if kind is SplatExporter else {"eval_steps": [1]} if kind is SplatEvaluator else {}
    context = StepContext(logging.getLogger("set-up"), max_steps=1, data_provider=Mock())
    dispatcher = ModuleDispatcher([kind(5, **settings)], context)
    with pytest.raises(ModuleError, match=rf"{kind.__name__}\.output_dir is 5 of type int, expected the path of a fo"):
        dispatcher.setup()


def test_evaluation_gives_ns_evals_numbers(tiny_scene: Path, tmp_path: Path) -> None:
    evaluator = SplatEvaluator(output_dir=tmp_path / "eval", eval_steps=[2, 4])
    result = train(tiny_scene, tmp_path / "runs", 4, modules=[evaluator])
    assert files(tmp_path / "eval") == [
        "images/step_000002/0000_frame_00000.png",
        "images/step_000004/0000_frame_00000.png",
        "stats/step_000002.csv",
        "stats/step_000002.json",
        "stats/step_000004.csv",
        "stats/step_000004.json",
    ]
    stats = json.loads((tmp_path / "eval/stats/step_000004.json").read_text())
    assert stats["mean"]["psnr"] == result.metrics["eval/psnr"]
    assert set(stats["mean"]) == {"psnr", "ssim", "cc_psnr", "cc_ssim"}

    from nerfstudio.utils.eval_utils import eval_setup

    _, pipeline, _, step = eval_setup(result.output_dir / "config.yml")
    assert step == 3
    theirs = pipeline.get_average_eval_image_metrics(get_std=True)
    for name in ("psnr", "ssim"):
        assert stats["mean"][name] == float(theirs[name])
    assert not any(name.endswith("_std") for name in theirs), (
        "a single image has no standard deviation, and JSON no NaN"
    )

    protocol = stats["protocol"]
    assert protocol["split"]["eval_mode"] == "interval"
    assert protocol["split"]["eval_interval"] == 8
    assert (protocol["num_train_images"], protocol["num_eval_images"]) == (7, 1)
    assert protocol["eval_images"] == ["frame_00000.png"]
    assert protocol["masks"] == "none"
    assert {"torch", "gsplat", "nerfstudio"} <= set(protocol["versions"])
    with open(tmp_path / "eval/stats/step_000004.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["name"] for row in rows] == ["frame_00000.png", "mean"]
    assert float(rows[1]["psnr"]) == stats["mean"]["psnr"]
    picture = np.asarray(Image.open(tmp_path / "eval/images/step_000004/0000_frame_00000.png"))
    photograph = np.asarray(Image.open(tiny_scene / "images/frame_00000.png"))
    assert picture.shape == (24, 64, 3)
    assert np.abs(picture[:, :32].astype(int) - photograph).max() <= 1


def test_means_have_the_last_digit_of_ns_evals() -> None:
    """Which has standard deviations, too, and so adds in another order than a mean alone does."""
    values = torch.rand(200, 7, generator=torch.Generator().manual_seed(0)) * 20 + 10
    theirs = [float(torch.std_mean(row)[1]) for row in values]
    ours = [mean_metrics([{"psnr": value} for value in row])["psnr"] for row in values.tolist()]
    assert ours == theirs
    assert ours != [float(row.mean()) for row in values]


def test_evaluation_does_not_change_training(tiny_scene: Path, tmp_path: Path) -> None:
    plain = train(tiny_scene, tmp_path / "a", 5)
    evaluated = train(tiny_scene, tmp_path / "b", 5, modules=[SplatEvaluator(tmp_path / "eval", [1, 2, 3])])
    for name, param in plain.training_state.params.items():
        assert torch.equal(param, evaluated.training_state.params[name])


def test_checkpointer_keeps_the_newest(tiny_scene: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "step_000000.ckpt").write_text("somebody else's")
    train(tiny_scene, tmp_path / "runs", 7, modules=[SplatCheckpointer(folder, every=2, keep=2)])
    assert files(folder) == ["step_000000.ckpt", "step_000006.ckpt", "step_000007.ckpt"]
    resumed = train(
        tiny_scene, tmp_path / "runs", 9, ckpt_path=folder / "step_000007.ckpt",
        modules=[SplatCheckpointer(folder, every=2, keep=2)],
    )  # fmt: skip
    assert resumed.step == 9
    assert files(folder) == ["step_000000.ckpt", "step_000008.ckpt", "step_000009.ckpt"]


def test_tensorboard(tiny_scene: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(tiny_scene, tmp_path / "runs", 4, modules=[SplatTensorboard(tmp_path / "tb", 2, 4)])
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "train/loss/l1", "train/psnr", "gaussians", "learning_rate/means", "memory/peak_MiB"} <= set(
        tags["scalars"]
    )
    assert tags["images"] == ["train/target_and_render"]
    losses = events.Scalars("train/loss")
    assert [event.step for event in losses] == [2, 4]
    assert losses[-1].value == pytest.approx(result.metrics["loss"])
    assert events.Scalars("train/psnr")[-1].value == pytest.approx(result.metrics["psnr"], rel=1e-5)


def test_progress_is_quiet_without_a_terminal(
    tiny_scene: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(tiny_scene, tmp_path, 3, modules=[SplatProgressTracker(1)])
    captured = capfd.readouterr()
    assert "it/s" not in captured.out + captured.err


def test_progress_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from rich.console import Console

    from splatkit_ns.modules import progress

    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=160)
    monkeypatch.setattr(progress, "_console", lambda logger: console)
    tracker = SplatProgressTracker(update_every=2)
    tracker.on_setup(logging.getLogger(), world_rank=0)
    state = SplatTrainingState.from_points(torch.rand(5, 3))
    target = torch.full((1, 4, 4, 3), 0.5)
    for step in range(1, 6):
        held_out = HeldOutFigures(3, 21.5, 0.75, 2, 2, "a.png", 20.0) if step > 3 else None
        provider = SimpleNamespace(held_out=held_out)
        tracker.post_step(step, 5, torch.tensor(0.25), target + 0.1, target, None, state, provider)
    tracker.on_cleanup()
    shown = output.getvalue()
    assert "5/5" in shown
    assert "loss 0.2500" in shown
    assert "PSNR 20.00 dB" in shown
    assert "5 Gaussians" in shown
    assert "held out 21.50 dB, 0.750 (step 3)" in shown


def test_timer_accounts_for_the_whole_step(tiny_scene: Path, tmp_path: Path) -> None:
    result = train(tiny_scene, tmp_path, 6, modules=[SplatTimer(every=3)])
    timer = result.modules[-1]
    assert isinstance(timer, SplatTimer)
    assert set(timer.report) == {
        "other", "data", "modules", "render", "loss", "backward", "optimizers", "densify",
    }  # fmt: skip
    for phase in ("data", "render", "loss", "backward", "optimizers"):
        assert timer.report[phase] > 0, phase


def test_idle_modules_are_not_called(tiny_scene: Path, tmp_path: Path) -> None:
    class Never(SplatExporter):
        def post_step(self) -> None:
            raise AssertionError("an idle module was called")

    train(tiny_scene, tmp_path, 1, modules=[Never(tmp_path / "export")])
    assert not (tmp_path / "export").exists()
