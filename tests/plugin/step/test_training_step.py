"""The training step: its order, its random numbers, and the checkpoints that parts ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CyclicLR, LambdaLR

from splatkit_ns.densification import SplatMCMCDensification
from splatkit_ns.hooks import Hook, HookModule
from splatkit_ns.hooks.checkpoint import CheckPointHook
from splatkit_ns.methods import make_method
from splatkit_ns.modules import SplatBaseModule, SplatCheckpointer, SplatExporter
from splatkit_ns.plugin.step.updates import ParameterUpdates
from splatkit_ns.renderer import Splat3DGSRenderer
from splatkit_ns.splat import read_checkpoint
from tests.plugin.helpers import forget_writers, make_trainer, run_config

POINTS = ("pre_batch", "pre_step", "pre_compute_loss", "post_compute_loss", "on_optimize", "post_step")


class Draws(SplatBaseModule[Any]):
    """Draws random numbers in every hook of a step."""

    def __init__(self) -> None:
        for point in POINTS:
            setattr(self, point, self.draw)

    def draw(self) -> None:
        torch.rand(7)
        np.random.rand()  # noqa: NPY002


def trained(scene: Path, output: Path, *modules: SplatBaseModule[Any]) -> dict[str, torch.Tensor]:
    """The Gaussians after some steps with everything that draws random numbers."""
    method = make_method(
        "draws",
        renderer=Splat3DGSRenderer(dropout=0.5, dropout_full_from=0.1),
        densification=SplatMCMCDensification(refine_start_iter=2, refine_every=4, max_gaussians=80, min_opacity=0.09),
        background_color="random",
    )
    trainer = make_trainer(run_config(scene, output, steps=14, method=method))
    trainer.pipeline.model.use_modules(list(modules))
    trainer.train()
    forget_writers()
    return {name: param.detach().clone() for name, param in trainer.pipeline.model.gauss_params.items()}


def test_random_numbers_of_a_step_do_not_depend_on_what_was_drawn_before(tiny_scene: Path, tmp_path: Path) -> None:
    plain = trained(tiny_scene, tmp_path / "plain")
    drawing = trained(tiny_scene, tmp_path / "drawing", Draws())
    assert len(plain["means"]) > 48
    for name, value in plain.items():
        assert torch.equal(drawing[name], value), name


def test_other_seeds_draw_other_numbers(tiny_scene: Path, tmp_path: Path) -> None:
    config = run_config(tiny_scene, tmp_path, method=make_method("r", background_color="random"))
    backgrounds: list[Any] = []
    for seed in (1, 1, 2):
        config.machine.seed = seed
        config.timestamp = f"run{len(backgrounds)}"
        trainer = make_trainer(config)
        forget_writers()
        drawn: list[torch.Tensor] = []
        for step in (0, 1):
            trainer.pipeline.model.parts.begin_step(step)
            drawn.append(
                trainer.pipeline.model.parts.take_frame(*trainer.pipeline.datamanager.train_view(0)).background
            )
        assert not torch.equal(*drawn)
        backgrounds.append(torch.stack(drawn))
    assert torch.equal(backgrounds[0], backgrounds[1])
    assert not torch.equal(backgrounds[0], backgrounds[2])


@dataclass
class Counts(SplatBaseModule[Any]):
    """Counts the steps, and keeps the count in checkpoints."""

    number: int = 0

    def post_step(self) -> None:
        self.number += 1

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number = state["number"]


class CountingHook(Hook):
    """The same as a hook."""

    def __init__(self) -> None:
        self.number = 0

    def after_train_iter(self, trainer: Any) -> None:
        self.number += 1

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number = state["number"]


class Saves(SplatBaseModule[Any]):
    """Writes a checkpoint with the training state's own method, in the hook that it is told."""

    def __init__(self, folder: Path, hook: str) -> None:
        def save(step: int, training_state: Any) -> None:
            if step == 5:
                training_state.save_ckpt(folder / "step_000005.ckpt")
                assert not (folder / "step_000005.ckpt").exists(), "the step is not over"

        setattr(self, hook, save)


def writer(kind: str, folder: Path) -> SplatBaseModule[Any]:
    if kind == "exporter":
        return SplatExporter(folder, export_steps=[5], save_splat=False)
    if kind == "checkpointer":
        return SplatCheckpointer(folder, every=5)
    if kind == "CheckPointHook":
        return HookModule([CheckPointHook(every=5)])
    return Saves(folder, kind)


@pytest.mark.parametrize("kind", ["exporter", "checkpointer", "CheckPointHook", *POINTS])
def test_checkpoints_that_parts_write_are_of_whole_steps(kind: str, tiny_scene: Path, tmp_path: Path) -> None:
    """Also with modules and hooks that come after the one that asks; and training resumes from them with the same
    bits."""
    saved, last = tmp_path / "saved", "step-000000007.ckpt"
    config = run_config(tiny_scene, tmp_path / "whole", steps=8)
    trainer = make_trainer(config)
    trainer.modules[:] = [writer(kind, saved), Counts(), HookModule([CountingHook()])]
    for module in trainer.run_hooks.modules:
        module.begin(trainer)
    trainer.pipeline.model.use_modules(trainer.modules)
    trainer.train()
    forget_writers()
    (path,) = [*saved.rglob("step_000005.ckpt"), *trainer.base_dir.rglob("ckpts/step_000005.ckpt")]
    states = read_checkpoint(path)["splatkit"]["modules"]
    assert states["Counts"] == {"number": 5}
    hooks = states["HookModule_2" if kind == "CheckPointHook" else "HookModule"]
    assert hooks == {"CountingHook": {"number": 5}}
    config.output_dir, config.load_checkpoint = tmp_path / "resumed", path
    resumed = make_trainer(config)
    assert resumed.start_step == 5
    counts = Counts()
    resumed.pipeline.model.use_modules([counts])
    resumed.train()
    forget_writers()
    for name, param in trainer.pipeline.model.gauss_params.items():
        assert torch.equal(resumed.pipeline.model.gauss_params[name], param), name
    assert (resumed.checkpoint_dir / last).is_file()


@pytest.mark.parametrize("images", [1, 2, 5])
def test_schedules_count_the_images_of_a_step(images: int) -> None:
    def made() -> Any:
        optimizers = {name: torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.1) for name in ("a", "b")}
        schedules = {
            "a": LambdaLR(optimizers["a"], lambda step: 0.97**step),
            "b": CyclicLR(optimizers["b"], 0.1, 0.3, step_size_up=3, cycle_momentum=False),
        }
        config = {name: {"optimizer": SimpleNamespace(max_norm=None)} for name in optimizers}
        return SimpleNamespace(optimizers=optimizers, schedulers=schedules, config=config)

    found, expected = made(), made()
    state: Any = None
    updates = ParameterUpdates(found, {"a": 1, "b": 1}, state)
    for _ in range(4):
        updates.step_schedules(images)
        for schedule in expected.schedulers.values():
            for _ in range(images):
                schedule.step()
        for name, optimizer in found.optimizers.items():
            assert optimizer.param_groups[0]["lr"] == expected.optimizers[name].param_groups[0]["lr"]
            ours, theirs = found.schedulers[name].state_dict(), expected.schedulers[name].state_dict()
            assert {key: ours[key] for key in ("last_epoch", "_step_count", "_last_lr")} == {
                key: theirs[key] for key in ("last_epoch", "_step_count", "_last_lr")
            }
