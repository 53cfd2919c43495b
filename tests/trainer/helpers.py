"""Short runs on the tiny scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from splatkit_ns.data_provider import NerfstudioDataProvider
from splatkit_ns.trainer import SplatTrainer, SplatTrainerConfig, SplatTrainerResult


def make_trainer(scene: Path, output_dir: Path, max_steps: int = 6, **parts: Any) -> SplatTrainer:
    """A trainer on the CPU; `config` holds further settings of `SplatTrainerConfig`."""
    settings = {"device": "cpu", "sh_degree": 1, "lpips": False, **parts.pop("config", {})}
    config = SplatTrainerConfig(max_steps=max_steps, output_dir=output_dir, **settings)
    return SplatTrainer(config=config, data_provider=NerfstudioDataProvider(scene), **parts)


def train(scene: Path, output_dir: Path, max_steps: int = 6, **parts: Any) -> SplatTrainerResult:
    """Run `make_trainer`'s trainer."""
    return make_trainer(scene, output_dir, max_steps, **parts).run()
