"""Held-out images during a run: figures of `ns-eval`, the worst image, and a sheet for each evaluation."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from splatkit_ns.cli._measuring import HeldOutViews
from splatkit_ns.errors import SplatkitError
from splatkit_ns.modules.progress import _held_out
from splatkit_ns.parts.evaluation import HeldOutFigures
from splatkit_ns.plugin.run.parts import run_data
from splatkit_ns.plugin.trainer import SplatkitTrainer
from tests.plugin.helpers import make_trainer, run_config
from tests.tiny_scene import write_tiny_scene


def trained(data: Path, folder: Path, **settings: Any) -> SplatkitTrainer:
    trainer = untrained(data, folder, **settings)
    trainer.train()
    return trainer


def untrained(data: Path, folder: Path, **settings: Any) -> SplatkitTrainer:
    config = run_config(data, folder, steps=12)
    config.vis, config.viewer.quit_on_train_completion, config.steps_per_eval_all_images = "none", True, 5
    for name, value in settings.items():
        assert hasattr(config, name)
        setattr(config, name, value)
    return make_trainer(config)


def test_a_run_measures_its_held_out_images(
    tiny_scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], messages: pytest.LogCaptureFixture
) -> None:
    trainer = trained(tiny_scene, tmp_path)
    names = [path.name for path in sorted((trainer.base_dir / "held_out").iterdir())]
    assert names == ["step_000006.jpg", "step_000011.jpg", "step_000012.jpg"]
    assert Image.open(trainer.base_dir / "held_out" / names[-1]).width > 96
    data: Any = trainer.pipeline.model.context.data_provider
    expected = list(data.evaluate())
    psnrs = torch.tensor([image.metrics["psnr"] for image in expected])
    figures = data.held_out
    assert (figures.step, figures.num_measured, figures.num_images, figures.cc_psnr) == (12, 2, 2, None)
    assert figures.psnr == pytest.approx(float(psnrs.mean()), abs=1e-4)
    assert figures.ssim == pytest.approx(sum(image.metrics["ssim"] for image in expected) / 2, abs=1e-5)
    assert (figures.worst_name, figures.worst_psnr) == (expected[int(psnrs.argmin())].name, float(psnrs.min()))
    assert [text.split(":")[0] for text in messages.messages if "held out" in text] == ["Step 6", "Step 11", "Step 12"]
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"Held-out Images held out {figures.psnr:.2f} dB, SSIM {figures.ssim:.4f} (mean of 2 images;" in printed
    assert "Contact Sheet " in printed
    assert trainer._held_out.sheet == trainer.base_dir / "held_out" / "step_000012.jpg"
    assert _held_out(data) == f"held out {figures.psnr:.2f} dB, {figures.ssim:.3f} (step 12)"


def test_with_an_image_model_the_line_also_tells_psnr_after_a_correction_of_colours(
    tiny_scene: Path, tmp_path: Path
) -> None:
    config = run_config(tiny_scene, tmp_path, steps=6)
    config.pipeline.model.image_model.kind = "affine"
    trainer = make_trainer(config)
    trainer.train()
    data: Any = trainer.pipeline.model.context.data_provider
    expected = [image.metrics["cc_psnr"] for image in data.evaluate()]
    assert data.held_out.cc_psnr == pytest.approx(sum(expected) / 2, abs=1e-4)
    assert f" dB, {data.held_out.cc_psnr:.2f} dB with corrected colours, SSIM" in str(data.held_out)


def test_training_is_the_same_with_and_without(tiny_scene: Path, tmp_path: Path) -> None:
    first = trained(tiny_scene, tmp_path / "a")
    second = trained(tiny_scene, tmp_path / "b", held_out=False)
    assert not (second.base_dir / "held_out").exists()
    for name, value in first.pipeline.model.gauss_params.items():
        assert torch.equal(value, second.pipeline.model.gauss_params[name]), name


def test_images_that_are_trained_on_are_not_called_held_out(tiny_scene: Path, tmp_path: Path) -> None:
    config = run_config(tiny_scene, tmp_path, steps=3)
    parser: Any = config.pipeline.datamanager.dataparser
    parser.eval_mode = "all"
    trainer = make_trainer(config)
    trainer.train()
    assert not (trainer.base_dir / "held_out").exists()
    assert trainer.pipeline.model.context.data_provider.held_out is None  # type: ignore[union-attr]


def test_many_images_are_measured_in_part(tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_data, "MOST_HELD_OUT", 1)
    data: Any = trained(tiny_scene, tmp_path).pipeline.model.context.data_provider
    assert (data.held_out.num_measured, data.held_out.num_images) == (1, 2)
    assert "(mean of 1 of 2 images; worst" in str(data.held_out)


def test_the_viewer_cannot_render_while_images_are_measured(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both set the model to evaluation and then back to training; the viewer's thread waits for this lock."""
    trainer = untrained(tiny_scene, tmp_path)
    held: list[bool] = []

    def is_free() -> bool:
        free = trainer.train_lock.acquire(blocking=False)
        if free:
            trainer.train_lock.release()
        return free

    def measure(step: int) -> None:
        with ThreadPoolExecutor(1) as viewer:
            held.append(not viewer.submit(is_free).result())
        with trainer.train_lock:  # of the training's own thread, which would wait for itself for ever
            pass

    monkeypatch.setattr(trainer._held_out, "measure", measure)
    loss_fn: Any = trainer.pipeline.model.loss_fn
    monkeypatch.setattr(type(loss_fn), "post_train", lambda self: measure(0))
    trainer.pipeline.model.use_modules(trainer.modules)  # finds the hook
    trainer.train()
    assert held == [True] * 4, "after steps 6 and 11, in post_train, and at the end"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("out of memory")])
def test_training_goes_on_if_it_fails(
    tiny_scene: Path,
    tmp_path: Path,
    messages: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    disk = isinstance(error, OSError)
    target = "splatkit_ns.plugin.run.parts.held_out.atomic_write" if disk else "splatkit_ns.plugin.model.view_outputs"
    monkeypatch.setattr(target, fails)
    trainer = trained(tiny_scene, tmp_path)
    assert (trainer.base_dir / "nerfstudio_models" / "step-000000011.ckpt").exists()
    warnings = [record.getMessage() for record in messages.records if record.levelno == logging.WARNING]
    if disk:
        assert warnings[0].startswith("The contact sheet of step 6 could not be written: ")
        assert trainer.pipeline.model.context.data_provider.held_out is not None  # type: ignore[union-attr]
    else:
        assert warnings == ["The held-out images cannot be measured (RuntimeError: out of memory): no more tries."]


def test_one_image_needs_no_worst() -> None:
    figures = HeldOutFigures(7, 21.5, None, 1, 1, "a.png", 21.5)
    assert str(figures) == "held out 21.50 dB (a.png)"


def hide(data: Path, *numbers: int) -> Path:
    """Mask pictures of a tiny scene wholly."""
    for number in numbers:
        Image.new("L", (32, 24), 0).save(data / "masks" / f"frame_{number:05d}.png")
    return data


def test_a_picture_that_is_masked_wholly_is_left_out_of_all_means(
    tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    """Its PSNR would be infinite, and so the mean."""
    data = hide(write_tiny_scene(tmp_path / "data", masks=True), 0)
    trainer = trained(data, tmp_path, steps_per_eval_image=3)
    figures: Any = trainer.pipeline.model.context.data_provider.held_out  # type: ignore[union-attr]
    assert (figures.num_measured, figures.num_images, figures.worst_name) == (1, 1, "frame_00004.png")
    run: Any = trainer.pipeline.model.context.data_provider
    (image,) = run.evaluate()
    assert (image.name, image.metrics["psnr"]) == ("frame_00004.png", pytest.approx(figures.psnr))
    assert run.evaluation_protocol()["left_out"] == ["frame_00000.png"]
    means = trainer.pipeline.get_average_eval_image_metrics(step=12)  # those of ns-eval
    assert means["psnr"] == pytest.approx(figures.psnr)
    drawn = [trainer.pipeline.get_eval_image_metrics_and_images(step)[0]["psnr"] for step in range(4)]
    assert drawn == [pytest.approx(figures.psnr)] * 4
    assert len(HeldOutViews(trainer.pipeline, None)) == 1
    told = [text for text in messages.messages if "left out" in text]
    assert told == [
        "1 of 2 held-out photographs are left out of the evaluation, because their masks leave no pixel: "
        "frame_00000.png."
    ]


def test_a_run_none_of_whose_held_out_pictures_can_be_measured_ends_well(
    tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    data = hide(write_tiny_scene(tmp_path / "data", masks=True), 0, 4)
    trainer = trained(data, tmp_path)
    assert trainer.pipeline.model.context.data_provider.held_out is None  # type: ignore[union-attr]
    assert trainer.pipeline.get_average_eval_image_metrics(step=12) == {}
    with pytest.raises(SplatkitError, match="masks of all held-out photographs leave no pixel"):
        HeldOutViews(trainer.pipeline, None)
    assert sum("left out" in text for text in messages.messages) == 1
