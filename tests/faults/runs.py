"""Small runs for tests of faults."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splatkit_ns.cameras import View
from splatkit_ns.densification import (
    SplatBudgetDensification,
    SplatDefaultDensification,
    SplatMCMCDensification,
)
from splatkit_ns.loss_fn import SplatLossFn
from splatkit_ns.methods import splatkit_3dgs_adc
from splatkit_ns.modules import SplatBaseModule, SplatResolutionSchedule
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.plugin.run.folder.run_folder import RunFolder
from splatkit_ns.renderer.base import RenderOptions, SplatRenderer
from splatkit_ns.splat import SplatTrainingState

from splatkit_ns.plugin.trainer import SplatkitTrainer, SplatkitTrainerConfig, writer  # isort: skip
from nerfstudio.scripts.train import launch  # isort: skip  # nerfstudio must be entered by its trainer

MAX_STEPS = 36
REFINE_EVERY = 5
RESET_EVERY = 12
DENSIFICATIONS: dict[str, Any] = {
    "default": SplatDefaultDensification(
        refine_start_iter=4,
        refine_every=REFINE_EVERY,
        refine_stop_iter=30,
        reset_every=RESET_EVERY,
        grow_grad2d=1e-5,
        max_gaussians=400,
    ),
    "mcmc": SplatMCMCDensification(
        refine_start_iter=4,
        refine_every=REFINE_EVERY,
        refine_stop_iter=30,
        max_gaussians=120,
        min_opacity=0.05,
        gradient_power=1.0,
    ),
    "budget": SplatBudgetDensification(
        refine_start_iter=4,
        refine_every=REFINE_EVERY,
        refine_stop_iter=30,
        reset_every=RESET_EVERY,
        grow_grad2d=1e-5,
        max_per_seed=0,
        max_gaussians=400,
        pause_refine_after_reset=6,  # halves of Gaussians that have not recovered would all be too faint to stay
        view_scores=True,
        num_views=3,
        prune_faint=0.3,
    ),
}
"""Refinement and opacity resets within a few dozen steps."""


def make_config(scene: Path, output: Path, densification: str = "default", **options: Any) -> SplatkitTrainerConfig:
    """A run on the CPU in `output`/run.

    Args:
        scene: a data set of `tiny_scene`.
        output: folder for the run's folder.
        densification: one of `DENSIFICATIONS`.
        options: fields of the trainer's config, by name; `model_…` and `data_…` are those of model and datamanager.
    """
    config = deepcopy(splatkit_3dgs_adc.config)
    assert isinstance(config, SplatkitTrainerConfig)
    config.output_dir, config.experiment_name, config.timestamp = output, "runs", "run"
    config.machine.device_type = "cpu"
    config.max_num_iterations, config.full_length = MAX_STEPS, MAX_STEPS
    config.steps_per_save = 1000
    config.vis = "tensorboard"  # the viewer would open a port; evaluation belongs to what is tested
    config.steps_per_eval_image = 7
    config.steps_per_eval_all_images = 1000
    config.logging.local_writer.enable = False
    config.viewer.quit_on_train_completion = True
    model, data = config.pipeline.model, config.pipeline.datamanager
    data.data = scene
    model.densification = deepcopy(DENSIFICATIONS[densification])
    model.sh_degree_interval = 6
    config.modules.resolution = SplatResolutionSchedule(max_downscale=2, halve_every=8)
    model.lpips = False
    for name, value in deepcopy(options).items():  # a test that changes the config changes no other test's
        if name.startswith("model_"):
            setattr(model, name.removeprefix("model_"), value)
        elif name.startswith("data_"):
            setattr(data, name.removeprefix("data_"), value)
        else:
            setattr(config, name, value)
    return config


def make_trainer(config: SplatkitTrainerConfig, *modules: SplatBaseModule[Any], seed: int = 42) -> SplatkitTrainer:
    """What `ns-train` does before training, and modules of the test's own."""
    writer.EVENT_WRITERS.clear()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    trainer = config.setup()
    assert isinstance(trainer, SplatkitTrainer)
    trainer.modules.extend(modules)
    trainer.setup()
    return trainer


def train(config: SplatkitTrainerConfig, *modules: SplatBaseModule[Any]) -> SplatkitTrainer:
    """Run to the end, in this process."""
    trainer = make_trainer(config, *modules)
    try:
        trainer.train()
    finally:
        RunFolder(config).release()
    return trainer


def run_command(config: SplatkitTrainerConfig, modules: Sequence[SplatBaseModule[Any]] = ()) -> None:
    """What the command `ns-train` does from its config on, timestamp apart."""
    config.save_config()

    def loop(local_rank: int, world_size: int, config: SplatkitTrainerConfig) -> None:
        make_trainer(config, *modules).train()

    launch(loop, 1, config=config, device_type="cpu")


@dataclasses.dataclass
class CheapRenderer(SplatRenderer):
    """All pixels show one colour, to which every parameter contributes: no kernels to load, for children."""

    def render(
        self, training_state: SplatTrainingState, view: View, options: RenderOptions = RenderOptions()
    ) -> SplatRenderPayload:
        state = training_state
        means2d = state.means[None, :, :2] * 1.0
        weights = state.opacities * state.scales.mean(-1) * state.quats.sum(-1).tanh()
        color = (state.sh0[:, 0] * weights[:, None]).mean(0) + state.shN.mean() + means2d.mean() + state.means.mean()
        renders = torch.sigmoid(color).expand(1, view.height, view.width, 3)
        alphas = torch.ones(1, view.height, view.width, 1)
        info = {"radii": torch.ones(1, len(state), dtype=torch.int32), "means2d": means2d}
        depths = alphas if options.render_mode == "RGB+ED" else None
        return SplatRenderPayload(
            renders=renders, alphas=alphas, width=view.width, height=view.height, n_cameras=1, info=info,
            means2d=means2d, depths_expected=depths,
        )  # fmt: skip


@dataclasses.dataclass
class CheapLoss(SplatLossFn):
    """Mean absolute difference, without kernels."""

    def compute_loss(self, rendered_frames: torch.Tensor, target_frames: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"l1": (rendered_frames - target_frames).abs().mean()}


CHEAP: dict[str, Any] = {
    "model_renderer": CheapRenderer(), "model_loss_fn": CheapLoss(), "steps_per_eval_image": 0, "densification": "mcmc",
}  # fmt: skip
"""Options of a run that takes milliseconds a step, also in a fresh process."""


class At(SplatBaseModule[Any]):
    """Does something at one step (1-based), after the optimizers and densification; notes that it was cleaned up."""

    def __init__(self, when: int, action: Callable[[], None]) -> None:
        self.when, self.action = when, action
        self.steps: list[int] = []
        self.cleaned_up = 0

    def post_step(self, step: int) -> None:
        self.steps.append(step)
        if step == self.when:
            self.action()

    def on_cleanup(self) -> None:
        self.cleaned_up += 1


def send(signum: int) -> Callable[[], None]:
    """An action that sends this process a signal."""
    return partial(_send, signum)


def _send(signum: int) -> None:
    os.kill(os.getpid(), signum)


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two checkpoints are not the same bits."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())
        return [] if same else [where]
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return [f"{where}: {sorted(map(str, one.keys() ^ other.keys()))}"]
        return [found for key in one for found in differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            return [f"{where}: {len(one)} and {len(other)}"]
        pairs = enumerate(zip(one, other, strict=True))
        return [found for i, (a, b) in pairs for found in differences(a, b, f"{where}/{i}")]
    return [] if one == other else [f"{where}: {one!r:.60} and {other!r:.60}"]
