"""nerfstudio's own trainer and pipeline train our model, with densification and modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig

from splatkit_ns.densification import SplatDefaultDensification
from splatkit_ns.methods import gaussian_optimizers
from splatkit_ns.modules import SplatBaseModule
from splatkit_ns.plugin.datamanager import SplatkitDatamanagerConfig
from splatkit_ns.plugin.model import SplatkitModelConfig
from splatkit_ns.plugin.optimizers import run_optimizers
from splatkit_ns.renderer import Splat3DGSRenderer
from tests.plugin.helpers import forget_writers

STEPS = 50


class Recorder(SplatBaseModule[Any]):
    """Notes the hooks of each step, the losses and the numbers of Gaussians."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.losses: list[float] = []
        self.counts: list[int] = []

    def on_setup(self, max_steps: int, scene_scale: float) -> None:
        assert max_steps == STEPS
        assert scene_scale == pytest.approx(1.1, abs=0.2)
        self.calls.append("on_setup")

    def pre_batch(self, step: int) -> None:
        self.calls.append(f"pre_batch {step}")

    def pre_step(self) -> None:
        self.calls.append("pre_step")

    def pre_compute_loss(self, target_frames: torch.Tensor, rendered_frames: torch.Tensor) -> None:
        assert target_frames.shape == rendered_frames.shape
        self.calls.append("pre_compute_loss")

    def post_compute_loss(self, loss: torch.Tensor) -> None:
        self.losses.append(float(loss.detach()))

    def post_step(self, rend_out: Any, training_state: Any) -> None:
        assert rend_out.means2d.grad is not None
        self.counts.append(len(training_state))
        self.calls.append("post_step")

    def on_cleanup(self) -> None:
        self.calls.append("on_cleanup")


def foreign_trainer(data: Any, scene: Path, output: Path) -> Trainer:
    """nerfstudio's own trainer and pipeline, set up with our model."""
    model = SplatkitModelConfig(
        renderer=Splat3DGSRenderer(dropout=0.1),
        densification=SplatDefaultDensification(
            refine_start_iter=5, refine_every=10, reset_every=0, grow_grad2d=1e-6, max_gaussians=90
        ),
        background_color="black",
        lpips=False,
    )
    parser = NerfstudioDataParserConfig(load_3D_points=True, eval_mode="interval", eval_interval=4, data=scene)
    config = TrainerConfig(
        method_name="splatkit",
        experiment_name="foreign",
        output_dir=output,
        timestamp="run",
        max_num_iterations=STEPS,
        vis="tensorboard",
        machine=MachineConfig(device_type="cpu"),
        mixed_precision=False,
        steps_per_eval_image=20,
        steps_per_eval_batch=0,
        steps_per_eval_all_images=0,
        pipeline=VanillaPipelineConfig(datamanager=data(dataparser=parser, cache_images="gpu"), model=model),
        optimizers=run_optimizers(gaussian_optimizers(), list(gaussian_optimizers()), STEPS, {}),
    )
    config.viewer.quit_on_train_completion = True
    torch.manual_seed(0)
    trainer = Trainer(config)
    trainer.setup()
    assert type(trainer.pipeline) is VanillaPipeline
    return trainer


@pytest.mark.parametrize("data", [FullImageDatamanagerConfig, SplatkitDatamanagerConfig])
def test_nerfstudios_trainer_and_pipeline_train_the_model(data: Any, tiny_scene: Path, tmp_path: Path) -> None:
    trainer = foreign_trainer(data, tiny_scene, tmp_path)
    recorder = Recorder()
    trainer.pipeline.model.use_modules([recorder])
    trainer.train()
    forget_writers()
    step = ["pre_batch {}", "pre_step", "pre_compute_loss", "post_step"]
    expected = [call.format(number) for number in range(1, STEPS + 1) for call in step]
    assert recorder.calls == ["on_setup", *expected, "on_cleanup"]
    assert sum(recorder.losses[-8:]) < 0.85 * sum(recorder.losses[:8])
    assert recorder.counts[0] == 48
    assert max(recorder.counts) > 60
    assert (tmp_path / "foreign/splatkit/run/nerfstudio_models/step-000000049.ckpt").is_file()


def test_a_module_stops_nerfstudios_trainer(tiny_scene: Path, tmp_path: Path) -> None:
    class Stops(Recorder):
        def on_evaluate(self, step: int, stop: Any) -> None:
            if step == 3:
                stop("enough")

    trainer = foreign_trainer(SplatkitDatamanagerConfig, tiny_scene, tmp_path)
    module = Stops()
    trainer.pipeline.model.use_modules([module])  # type: ignore[reportAttributeAccessIssue]
    trainer.train()
    forget_writers()
    assert len(module.losses) == 3
    assert module.calls[-2:] == ["post_step", "on_cleanup"]
