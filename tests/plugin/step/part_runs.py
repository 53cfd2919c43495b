"""Runs with parts that are trained, and what has to be the same when they are resumed or opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from splatkit_ns.densification import SplatDefaultDensification
from splatkit_ns.methods import make_method
from splatkit_ns.plugin.loading import load_run
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.splat import read_checkpoint
from tests.plugin.helpers import forget_writers, make_trainer, run_config

STEPS = 16


def config_of(scene: Path, output: Path, **parts: Any) -> Any:
    """A run of `STEPS` steps with these parts, which densifies unless another strategy is among them."""
    parts.setdefault(
        "densification",
        SplatDefaultDensification(
            refine_start_iter=2, refine_every=5, reset_every=0, grow_grad2d=1e-6, max_gaussians=80
        ),
    )
    return run_config(scene, output, steps=STEPS, method=make_method("parts", **parts))


def train(config: Any, *, load: Path | None = None) -> Any:
    """Train to the end, from a checkpoint if one is given; returns the trainer."""
    config.load_checkpoint = load
    trainer = make_trainer(config)
    trainer.train()
    forget_writers()
    return trainer


def differing(one: Path, other: Path) -> list[str]:
    """The parameters and optimizer states of two checkpoints that are not the same bits."""
    a, b = read_checkpoint(one), read_checkpoint(other)
    assert a["pipeline"].keys() == b["pipeline"].keys()
    found = [key for key, value in a["pipeline"].items() if not torch.equal(value, b["pipeline"][key])]
    for name, state in a["optimizers"].items():
        theirs = b["optimizers"][name]["state"]
        found += [
            f"{name}/{key}"
            for key, value in state["state"].get(0, {}).items()
            if not torch.equal(value, theirs[0][key])
        ]
    return found


def resumed_is_the_same(scene: Path, tmp_path: Path, **parts: Any) -> Any:
    """Train whole, and cut in the middle and resumed; returns the whole run."""
    whole_config = config_of(scene, tmp_path / "whole", **parts)
    whole_config.steps_per_save, whole_config.save_only_latest_checkpoint = 6, False
    whole = train(whole_config)
    cut = checkpoint_files.path_of(whole.checkpoint_dir, 6)
    resumed = train(config_of(scene, tmp_path / "resumed", **parts), load=cut)
    last = checkpoint_files.path_of(whole.checkpoint_dir, STEPS - 1)
    assert differing(last, checkpoint_files.path_of(resumed.checkpoint_dir, STEPS - 1)) == []
    return whole


def opened_is_the_same(trainer: Any) -> Any:
    """Open a run as ``ns-eval`` does, and evaluate it with the numbers of the run itself; returns the opened model."""
    config = trainer.base_dir / "config.yml"
    config.write_text(yaml.dump(trainer.config))
    opened: Any = load_run(config, device="cpu").pipeline.model
    of_run = [image.metrics for image in trainer.pipeline.model.context.data_provider.evaluate()]
    assert of_run
    assert of_run == [image.metrics for image in opened.context.data_provider.evaluate()]
    return opened
