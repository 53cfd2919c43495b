"""LogHook, the hook that the documents show, and what a hook sees of the trainer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from splatkit_ns.hooks import HOOK_REGISTRY, Hook, LogHook, Writer
from splatkit_ns.hooks.registry import Registry
from splatkit_ns.loss_fn import SplatLossFn
from splatkit_ns.modules import SplatRenderPayload
from splatkit_ns.splat import read_checkpoint
from tests.hooks.runs import make_trainer, run


class MemoryWriter(Writer):
    """Keeps what it gets."""

    made: list[MemoryWriter] = []  # noqa: RUF012 - shared on purpose: the config makes the instances

    def __init__(self, log_dir: Path) -> None:
        self.log_dir = log_dir
        self.scalars: list[tuple[str, float, int]] = []
        self.images: list[tuple[str, tuple[int, ...], int]] = []
        self.configs: list[dict[str, Any]] = []
        self.closed = 0
        MemoryWriter.made.append(self)

    def write_scalar(self, name: str, scalar: float | Tensor, step: int) -> None:
        self.scalars.append((name, float(scalar), step))

    def write_image(self, name: str, image: Tensor, step: int) -> None:
        self.images.append((name, tuple(image.shape), step))

    def write_config(self, name: str, config_dict: Any, step: int) -> None:
        self.configs.append(dict(config_dict))

    def close(self) -> None:
        self.closed += 1

    def curve(self, name: str) -> dict[int, float]:
        return {step: value for known, value, step in self.scalars if known == name}


class FullDiskWriter(MemoryWriter):
    """Cannot write its last lines."""

    def close(self) -> None:
        raise OSError(28, "No space left on device", "metrics.txt")


HERE = "tests.hooks.test_log_hook"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry[Hook]:
    """The registry of hooks; what a test registers is forgotten after it."""
    monkeypatch.setattr(HOOK_REGISTRY, "_classes", dict(HOOK_REGISTRY._classes))  # type: ignore[attr-defined]
    return HOOK_REGISTRY


def test_a_hook_like_the_documents_runs_under_the_registry(
    tiny_scene: Path, tmp_path: Path, registry: Registry[Hook]
) -> None:
    """What the hook document promises a hook: parameter groups by name, a point cloud with a length, losses, logger."""
    losses: list[float] = []

    @registry.register()
    class DocumentedHook(Hook):
        def __init__(self):  # type: ignore[no-untyped-def]
            self.ema = 0.0
            self.info = {}

        def after_train_iter(self, trainner) -> None:  # type: ignore[no-untyped-def]
            rates = {group["name"]: group["lr"] for group in trainner.optimizer.param_groups}
            values = {
                "num_pt": len(trainner.model.point_cloud),
                "pos_lr": rates["point_cloud.position"],
                **trainner.loss_dict,
            }
            losses.append(values["loss"].item())
            self.ema = 0.4 * values["loss"].item() + 0.6 * self.ema
            self.info["loss"] = f"{self.ema:.7f}"
            if trainner.logger:
                for name, value in values.items():
                    trainner.logger.write_scalar(name, value, trainner.global_step)

    trainer = make_trainer(tiny_scene, tmp_path, "DocumentedHook", steps=4, writers=(f"{HERE}:MemoryWriter",))
    run(trainer)
    (hook,) = trainer.run_hooks.modules[0].hooks
    assert isinstance(hook, DocumentedHook)
    writer = MemoryWriter.made[-1]
    assert [writer.curve("loss")[step] for step in (1, 2, 3, 4)] == pytest.approx(losses)
    assert writer.curve("num_pt") == dict.fromkeys((1, 2, 3, 4), len(trainer.pipeline.model.training_state))
    assert writer.curve("pos_lr")[1] > writer.curve("pos_lr")[4] > 0  # the schedule shows
    expected = 0.0
    for loss in losses:
        expected = 0.4 * loss + 0.6 * expected
    assert hook.info == {"loss": f"{expected:.7f}"}


def test_log_hook_follows_the_loss_and_validates(tiny_scene: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    images: list[dict[str, Any]] = []

    class Peek(Hook):
        def after_train_iter(self, trainer: Any) -> None:
            losses.append(trainer.loss_dict["loss"].item())
            terms = [value for name, value in trainer.loss_dict.items() if name != "loss"]
            assert torch.stack(terms).sum().item() == pytest.approx(losses[-1], rel=1e-5)

        def after_val_iter(self, trainer: Any) -> None:
            images.append(dict(trainer.metric_dict))

    log = LogHook(every=2)
    trainer = make_trainer(
        tiny_scene, tmp_path, log, Peek(), steps=5, steps_per_eval_all_images=4, writers=(f"{HERE}:MemoryWriter",)
    )
    run(trainer)
    writer = MemoryWriter.made[-1]
    assert sorted(writer.curve("loss")) == [2, 4, 5]  # every second step and the last
    assert writer.curve("loss")[5] == pytest.approx(losses[-1])
    expected = 0.0
    for loss in losses:
        expected = 0.4 * loss + 0.6 * expected
    assert log.ema_loss_for_log == pytest.approx(expected, rel=1e-5)
    assert log.bar_info == {"loss": f"{log.ema_loss_for_log:.7f}"}

    assert len(images) == 2
    for image in images:
        difference = (image["images"] - image["gt_images"]).abs().mean().item()
        assert image["L1_loss"] == pytest.approx(difference, rel=1e-5)
    assert images[0]["rgb_file_name"] != images[1]["rgb_file_name"]
    for name in ("L1_loss", "psnr", "ssims"):
        mean = (images[0][name] + images[1][name]) / 2
        assert writer.curve(f"val/{name}") == {5: pytest.approx(mean)}
    assert writer.curve("val/lpips") == {}  # turned off in this run


def test_a_check_of_one_image_is_told_from_an_evaluation_of_all(tiny_scene: Path, tmp_path: Path) -> None:
    trainer = make_trainer(
        tiny_scene, tmp_path, "LogHook", steps=5, steps_per_eval_image=2, steps_per_eval_all_images=4,
        writers=(f"{HERE}:MemoryWriter",),
    )  # fmt: skip
    trainer.config.pipeline.datamanager.dataparser.eval_interval = 8  # type: ignore[attr-defined]
    run(trainer)
    writer = MemoryWriter.made[-1]
    assert trainer.pipeline.datamanager.eval_dataset.image_filenames[1:] == []  # one image is all there is
    assert sorted(writer.curve("val_image/psnr")) == [3, 5]
    assert sorted(writer.curve("val/psnr")) == [5]


def test_writers_get_what_nerfstudio_logs_and_are_closed(tiny_scene: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_scene, tmp_path, steps=4, steps_per_eval_image=3, writers=(f"{HERE}:MemoryWriter",))
    trainer.config.logging.steps_per_log = 2
    run(trainer)
    writer = MemoryWriter.made[-1]
    assert writer.log_dir == trainer.base_dir
    assert writer.configs[0]["max_num_iterations"] == 4
    assert sorted(writer.curve("Train Loss")) == [3]  # nerfstudio's step 2
    assert sorted(writer.curve("Eval Images Metrics/psnr")) == [4]
    assert writer.images == [("Eval Images/img", (24, 64, 3), 4)]
    assert writer.closed == 1
    before = len(writer.scalars)
    run(make_trainer(tiny_scene, tmp_path / "other", steps=3, writers=()))
    assert len(writer.scalars) == before


def test_a_run_ends_well_if_the_end_of_its_log_does_not_fit_on_the_disk(
    tiny_scene: Path, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    writers = (f"{HERE}:FullDiskWriter", f"{HERE}:MemoryWriter")
    trainer = run(make_trainer(tiny_scene, tmp_path, steps=3, writers=writers))
    assert (trainer.checkpoint_dir / "step-000000002.ckpt").is_file()
    assert "The end of the log cannot be written: No space left on device (metrics.txt)." in messages.messages
    assert MemoryWriter.made[-1].closed == 1, "the other one is closed, too"


def test_the_moving_average_survives_a_checkpoint(tiny_scene: Path, tmp_path: Path) -> None:
    log = LogHook()
    first = run(make_trainer(tiny_scene, tmp_path / "first", log, steps=3))
    resumed = LogHook()
    second = make_trainer(tiny_scene, tmp_path / "second", resumed, steps=3, load_dir=first.checkpoint_dir)
    second.setup()
    assert resumed.ema_loss_for_log == pytest.approx(log.ema_loss_for_log, rel=1e-6)


class NotFiniteOnce(SplatLossFn[SplatRenderPayload]):
    """L1, but NaN in step 2."""

    def compute_loss(self, rendered_frames: Tensor, target_frames: Tensor, step: int) -> Tensor:
        return (rendered_frames - target_frames).abs().mean() * (math.nan if step == 2 else 1)


def test_a_step_that_was_left_out_does_not_spoil_the_moving_average(tiny_scene: Path, tmp_path: Path) -> None:
    log = LogHook()
    trainer = make_trainer(tiny_scene, tmp_path, log, steps=3, on_nan="skip")
    trainer.config.pipeline.model.loss_fn = NotFiniteOnce()
    losses: list[float] = []
    log.after_train_iter = _noting(losses, log.after_train_iter)
    run(trainer)
    assert math.isnan(losses[1])
    assert log.ema_loss_for_log == pytest.approx(0.6 * 0.4 * losses[0] + 0.4 * losses[2], rel=1e-5)


def _noting(losses: list[float], after_train_iter: Any) -> Any:
    def note(trainer: Any) -> None:
        losses.append(float(trainer.loss_dict["loss"]))
        after_train_iter(trainer)

    return note


def test_checkpoint_hook_keeps_files_that_resume(tiny_scene: Path, tmp_path: Path) -> None:
    from splatkit_ns.hooks import CheckPointHook

    saved: list[int] = []

    class Count(Hook):
        def before_save_checkpoint(self, trainer: Any) -> None:
            saved.append(trainer.global_step)

    trainer = run(make_trainer(tiny_scene, tmp_path / "first", CheckPointHook(every=2), Count(), steps=5))
    files = sorted((trainer.base_dir / "ckpts").iterdir())
    assert [path.name for path in files] == ["step_000002.ckpt", "step_000004.ckpt", "step_000005.ckpt"]
    assert saved == [2, 4, 5, 5]
    assert read_checkpoint(files[1])["step"] == 3
    resumed = make_trainer(tiny_scene, tmp_path / "second", load_checkpoint=files[1], steps=5)
    resumed.setup()
    assert resumed.pipeline.model.context.step == 4


def test_what_a_hook_sees_of_the_trainer(tiny_scene: Path, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    class Look(Hook):
        def before_run(self, trainer: Any) -> None:
            seen["early"] = (trainer.cfg.max_steps, trainer.global_step, trainer.exp_dir, trainer.device)

        def after_train_iter(self, trainer: Any) -> None:
            cloud = trainer.model.point_cloud
            seen["shapes"] = {name: tuple(getattr(cloud, name).shape) for name in ("position", "scaling", "opacity")}
            seen["names"] = {group["name"] for group in trainer.optimizer.param_groups}
            for group in trainer.optimizer.param_groups:
                if group["name"] == "point_cloud.opacity":
                    group["lr"] = 0.125
            seen["steps_per_save"] = trainer.cfg.steps_per_save
            with pytest.raises(AttributeError, match="no 'colour'; it has: position"):
                _ = cloud.colour

    trainer = run(make_trainer(tiny_scene, tmp_path, Look(), steps=1))
    assert seen["early"] == (1, 0, trainer.base_dir, "cpu")
    assert seen["shapes"] == {"position": (48, 3), "scaling": (48, 3), "opacity": (48,)}
    assert seen["names"] == {
        f"point_cloud.{name}" for name in ("position", "scaling", "rotation", "opacity", "features", "features_rest")
    }
    assert seen["steps_per_save"] == 1000
    assert trainer.optimizers.optimizers["opacities"].param_groups[0]["lr"] == 0.125
