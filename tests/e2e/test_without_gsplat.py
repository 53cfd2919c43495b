"""All methods on a GPU where gsplat's compiled code cannot be had: touching it raises."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from splatkit_ns import methods
from splatkit_ns.plugin.data.cameras import pinhole_view
from splatkit_ns.renderer import RenderOptions
from tests.plugin.helpers import forget_writers, make_trainer, run_config

METHODS = ("3dgs", "3dgs_fast", "3dgs_big", "3dgs_adc", "3dgs_mcmc", "2dgs")


class Untouchable(ModuleType):
    """Stands for the module that compiles gsplat's code when it is imported."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"gsplat's compiled code was touched: {name}")


@pytest.mark.gpu
@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_and_renders(
    name: str, tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", Untouchable("gsplat.cuda._backend"))
    config: Any = run_config(tiny_scene, tmp_path, steps=60, method=getattr(methods, f"splatkit_{name}"))
    config.machine.device_type = "cuda"
    config.steps_per_eval_image = 25
    densification = config.pipeline.model.densification
    densification.refine_start_iter = densification.refine_every = 20
    config.check()
    trainer = make_trainer(config)
    trainer.train()
    forget_writers()
    model = trainer.pipeline.model
    assert all(bool(torch.isfinite(value).all()) for value in model.gauss_params.values())
    camera, _ = trainer.pipeline.datamanager.fixed_indices_eval_dataloader[0]
    view = pinhole_view(camera.to("cuda"))
    for mode in ("RGB", "RGB+D", "RGB+ED"):
        payload = model.renderer.render(model.training_state, view, RenderOptions(render_mode=mode))
        assert float(payload.renders.std()) > 0.02, "there is something to see"


@pytest.mark.gpu
def test_poses_are_corrected_without_it(tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", Untouchable("gsplat.cuda._backend"))
    for method in (methods.splatkit_3dgs_fast, methods.splatkit_2dgs):
        config: Any = run_config(tiny_scene, tmp_path / str(method.config.method_name), steps=20, method=method)
        config.machine.device_type = "cuda"
        config.pipeline.model.camera_optimizer.mode = "SO3xR3"
        trainer = make_trainer(config)
        trainer.train()
        forget_writers()
        (adjustment,) = trainer.pipeline.model.camera_optimizer.parameters()
        assert float(adjustment.detach().abs().max()) > 0
