"""`splatkit-2dgs` through nerfstudio's commands, on a CPU: trains, resumes, evaluates, exports, shows normals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.scripts import train
from nerfstudio.scripts.eval import ComputePSNR
from nerfstudio.scripts.exporter import ExportGaussianSplat
from nerfstudio.scripts.render import RenderInterpolated
from nerfstudio.utils.eval_utils import eval_setup

from splatkit_ns import methods
from splatkit_ns.densification import SplatMCMCDensification
from splatkit_ns.splat import SplatModel
from splatkit_ns.splat.discs import LOG_THICKNESS
from tests.plugin.helpers import make_pipeline, make_trainer, run_config

STEPS = 120
IMAGES = {"normals", "normals_camera", "normals_of_surface", "distortion", "surface_depth"}


def short(data: Path, output: Path, steps: int = STEPS, **model: Any) -> Any:
    """The method with its schedules brought down to some dozens of steps."""
    config = run_config(data, output, steps=steps, method=methods.splatkit_2dgs)
    options = config.pipeline.model
    options.sh_degree_interval = 40
    options.loss_fn.distortion_start_iter, options.loss_fn.normal_consistency_start_iter = 30, 60
    density = options.densification
    density.refine_start_iter, density.refine_every, density.reset_every = 20, 20, 1000
    density.max_gaussians, density.refine_stop_iter = 400, steps
    for name, value in model.items():
        setattr(options, name, value)
    return config


@pytest.fixture(scope="module")
def trained_2dgs(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config.yml of a run of `STEPS` steps, saved half way, too."""
    config = short(tiny_scene, tmp_path_factory.mktemp("trained_2dgs"))
    config.steps_per_save = STEPS // 2
    config.save_only_latest_checkpoint = False
    train.main(config)
    return config.get_base_dir() / "config.yml"


def evaluate(config: Path, output: Path) -> dict[str, float]:
    ComputePSNR(load_config=config, output_path=output).main()
    return json.loads(output.read_text())["results"]


def test_training_raises_psnr(tiny_scene: Path, trained_2dgs: Path, tmp_path: Path) -> None:
    before = make_pipeline(tiny_scene, method=methods.splatkit_2dgs).eval().get_average_eval_image_metrics()
    after = evaluate(trained_2dgs, tmp_path / "eval.json")
    assert after["psnr"] > before["psnr"] + 3


def test_a_resumed_run_ends_with_the_same_bits(tiny_scene: Path, trained_2dgs: Path, tmp_path: Path) -> None:
    models = trained_2dgs.parent / "nerfstudio_models"
    assert len(list(models.glob("*.ckpt"))) == 2
    config = short(tiny_scene, tmp_path)
    config.load_checkpoint = min(models.glob("*.ckpt"))
    trainer = make_trainer(config)
    trainer.train()
    last = torch.load(max(models.glob("*.ckpt")), weights_only=True)["pipeline"]
    for name, param in trainer.pipeline.model.gauss_params.items():
        assert torch.equal(param, last[f"_model.gauss_params.{name}"]), name
    terms = trainer.pipeline.model.context.loss_terms
    regularisers = {"opacity_reg", "scale_reg"}
    assert {"l1", "dssim", "mse", "distortion", "normal_consistency"} | regularisers == set(terms)


@torch.no_grad()
def test_the_exported_ply_holds_thin_discs_that_render_the_same(trained_2dgs: Path, tmp_path: Path) -> None:
    ExportGaussianSplat(load_config=trained_2dgs, output_dir=tmp_path).main()
    exported = SplatModel.load_ply(tmp_path / "splat.ply")
    assert bool((exported.scales[:, 2] == np.float32(LOG_THICKNESS)).all())
    assert float(exported.scales[:, :2].min()) > LOG_THICKNESS + 2
    _, pipeline, _, _ = eval_setup(trained_2dgs)
    model: Any = pipeline.model
    camera, _ = pipeline.datamanager.fixed_indices_eval_dataloader[0]
    outputs = model.get_outputs_for_camera(camera)
    model.training_state.params.update({name: torch.nn.Parameter(value) for name, value in exported.tensors().items()})
    again = model.get_outputs_for_camera(camera)
    assert float((again["rgb"] - outputs["rgb"]).abs().max()) < 1e-3
    assert float(outputs["rgb"].std()) > 0.05, "there is something to see"


def test_a_run_starts_from_the_exported_ply(tiny_scene: Path, trained_2dgs: Path, tmp_path: Path) -> None:
    ExportGaussianSplat(load_config=trained_2dgs, output_dir=tmp_path).main()
    trainer = make_trainer(short(tiny_scene, tmp_path / "run", steps=1, init_ply=tmp_path / "splat.ply"))
    start = trainer.pipeline.eval().get_average_eval_image_metrics()["psnr"]
    trainer.train()
    assert start == pytest.approx(evaluate(trained_2dgs, tmp_path / "eval.json")["psnr"], abs=0.2)
    assert bool((trainer.pipeline.model.scales[:, 2] == LOG_THICKNESS).all())


def test_outputs_to_look_at(trained_2dgs: Path) -> None:
    _, pipeline, _, _ = eval_setup(trained_2dgs)
    camera, _ = pipeline.datamanager.fixed_indices_eval_dataloader[0]
    model: Any = pipeline.model
    outputs = model.get_outputs_for_camera(camera)
    assert set(outputs) == {"rgb", "depth", "accumulation", "background"} | IMAGES
    for name in IMAGES:
        channels = 1 if name in ("distortion", "surface_depth") else 3
        assert outputs[name].shape == (24, 32, channels)
        assert not outputs[name].requires_grad
    towards_viewer = outputs["normals_camera"][..., 2][outputs["accumulation"][..., 0] > 0.9]
    assert float(towards_viewer.min()) > 0.4, "normals face the camera"
    nothing = model.get_outputs_for_camera(
        camera, OrientedBox.from_params((50.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    )
    assert set(nothing) == set(outputs), "a viewer that shows normals goes on showing them"
    assert float(nothing["accumulation"].max()) == float(nothing["normals"].max()) == 0


@pytest.mark.usefixtures("some_ffmpeg")
def test_ns_render_shows_normals(trained_2dgs: Path, tmp_path: Path) -> None:
    RenderInterpolated(
        load_config=trained_2dgs,
        output_path=tmp_path / "path.mp4",
        interpolation_steps=2,
        output_format="images",
        image_format="png",
        rendered_output_names=["rgb", "depth", *sorted(IMAGES)],
    ).main()
    from PIL import Image

    pixels = np.asarray(Image.open(min((tmp_path / "path").glob("*.png"))))
    assert pixels.shape == (24, 7 * 32, 3)
    assert all(float(pixels[:, i * 32 : (i + 1) * 32].std()) > 5 for i in range(7))


def test_mcmc_trains_discs(tiny_scene: Path, tmp_path: Path) -> None:
    strategy = SplatMCMCDensification(max_gaussians=80, refine_start_iter=5, refine_every=10)
    trainer = make_trainer(short(tiny_scene, tmp_path, steps=40, densification=strategy, init_opacity=0.5))
    before = trainer.pipeline.eval().get_average_eval_image_metrics()["psnr"]
    trainer.train()
    model = trainer.pipeline.eval().model
    assert 48 < model.num_points <= 80
    assert bool((model.scales[:, 2] == LOG_THICKNESS).all())
    assert trainer.pipeline.get_average_eval_image_metrics()["psnr"] > before + 0.5


@pytest.mark.gpu
def test_training_on_a_gpu_raises_psnr(tiny_scene: Path, tmp_path: Path) -> None:
    config = short(tiny_scene, tmp_path)
    config.machine.device_type = "cuda"
    trainer = make_trainer(config)
    before = trainer.pipeline.eval().get_average_eval_image_metrics()["psnr"]
    trainer.train()
    assert trainer.pipeline.eval().get_average_eval_image_metrics()["psnr"] > before + 3
    assert bool((trainer.pipeline.model.scales[:, 2] == LOG_THICKNESS).all())
