"""Runs shorter than their method is made for: schedules that fit them, and the line that says so."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.utils.rich_utils import CONSOLE

from splatkit_ns import methods
from splatkit_ns.densification import SplatMCMCDensification
from splatkit_ns.methods import make_method
from splatkit_ns.plugin.optimizers import optimizers_of_run
from splatkit_ns.plugin.options.length import fit_to_length
from splatkit_ns.plugin.options.starting import describe_run
from tests.plugin.helpers import make_trainer, run_config

MCMC, PLAIN = (0.1, 0.5), (1.0, 0.1)
FULL: dict[str, tuple[int, tuple[int, int, int], int, tuple[float, float]]] = {
    "splatkit_3dgs": (10_000, (500, 8000, 50), 1000, MCMC),
    "splatkit_3dgs_fast": (4500, (500, 3600, 50), 500, MCMC),
    "splatkit_3dgs_big": (30_000, (500, 25_000, 50), 1000, MCMC),
    "splatkit_3dgs_adc": (30_000, (500, 15_000, 100), 1000, PLAIN),
    "splatkit_3dgs_mcmc": (30_000, (500, 25_000, 100), 1000, MCMC),
    "splatkit_2dgs": (30_000, (500, 15_000, 100), 1000, PLAIN),
}
"""The length of each method's runs, and there: start, end and period of refinement, interval of degrees, size and
opacity at the start."""


def fitted(name: str, steps: int) -> Any:
    """The config of a method for a run of so many steps."""
    config = deepcopy(getattr(methods, name).config)
    config.max_num_iterations = steps
    fit_to_length(config)
    return config


def shown(config: Any) -> tuple[Any, ...]:
    """Settings as in `FULL`, and the length of the poses' warm-up."""
    model = config.pipeline.model
    strategy = model.densification
    refinement = (strategy.refine_start_iter, strategy.refine_stop_iter, strategy.refine_every)
    warmup = config.optimizers["camera_opt"]["scheduler"].warmup_steps
    return refinement, model.sh_degree_interval, (model.init_scale, model.init_opacity), warmup


def last_factor(config: Any) -> float:
    """The share of the learning rate of positions that is left at the end of the run."""
    groups = {name: [torch.nn.Parameter(torch.zeros(1))] for name in config.optimizers}
    schedule: Any = optimizers_of_run(config, {}, groups, {}).schedulers["means"]
    return schedule.lr_lambdas[0](config.max_num_iterations)


@pytest.mark.parametrize("name", FULL)
def test_a_run_of_the_methods_own_length_or_longer_is_as_the_method_says(name: str) -> None:
    length, refinement, interval, start = FULL[name]
    for steps in (length, 2 * length):
        config = fitted(name, steps)
        assert config.full_length == length
        assert shown(config) == (refinement, interval, start, 1000)
        assert last_factor(config) == pytest.approx(0.01)
        own = deepcopy(getattr(methods, name).config)
        own.max_num_iterations = steps
        assert config == own, "nothing else is changed either"


@pytest.mark.parametrize("name", FULL)
def test_a_shorter_run_takes_shares_of_its_steps(name: str) -> None:
    length, refinement = FULL[name][:2]
    stop, every = (300, 60) if name in ("splatkit_3dgs_adc", "splatkit_2dgs") else (500, 30)
    config = fitted(name, 600)
    assert shown(config) == ((60, stop, every), 150, PLAIN, 60)
    assert last_factor(config) == pytest.approx(0.01 ** (600 / length)), "as far as in a whole run"
    almost = shown(fitted(name, length - 1))
    assert all(below <= full for below, full in zip(almost[0], refinement, strict=True)), (
        "never more than in whole ones"
    )
    assert almost[2] == FULL[name][3], "and the start of whole ones"
    loss = fitted("splatkit_2dgs", 600).pipeline.model.loss_fn
    assert (loss.distortion_start_iter, loss.normal_consistency_start_iter) == (60, 140)


def test_what_is_given_stays() -> None:
    config: Any = deepcopy(methods.splatkit_3dgs.config)
    config.max_num_iterations = 200
    model = config.pipeline.model
    model.densification.refine_stop_iter, model.sh_degree_interval, model.init_scale = 8000, 1000, 0.1
    config.final_learning_rates = {"means": 1e-5}
    fit_to_length(config)
    assert shown(config) == ((20, 8000, 10), 1000, (0.1, 0.1), 20)
    assert last_factor(config) == pytest.approx(1e-5 / 1.6e-4)
    config.final_learning_rates = {}
    config.optimizers["means"]["scheduler"].max_steps = 200
    assert last_factor(config) == pytest.approx(0.01)
    off: Any = deepcopy(methods.splatkit_3dgs.config)
    off.max_num_iterations, off.full_length = 200, 0
    fit_to_length(off)
    assert shown(off) == ((500, 8000, 50), 1000, MCMC, 1000)
    assert last_factor(off) == pytest.approx(0.01)


def test_a_users_method_is_made_for_its_own_length() -> None:
    settings: Any = {"max_num_iterations": 2000, "densification": SplatMCMCDensification(refine_every=7)}
    config: Any = make_method("own", **settings).config
    assert isinstance(config.pipeline.model.densification, SplatMCMCDensification)
    fit_to_length(config)
    assert (config.full_length, config.pipeline.model.densification.refine_start_iter) == (2000, 500)
    config.max_num_iterations = 1000
    fit_to_length(config)
    found = config.pipeline.model.densification
    assert (found.refine_start_iter, found.refine_stop_iter, found.refine_every) == (100, 833, 7)
    assert settings["densification"].refine_start_iter == 500, "the part that was given stays as it was"


def test_the_run_says_its_size_and_stores_what_it_used(tiny_scene: Path, tmp_path: Path) -> None:
    config = run_config(tiny_scene, tmp_path, steps=4, method=methods.splatkit_3dgs)
    config.full_length = 10_000
    config.save_config()
    stored = config.get_base_dir() / "config.yml"
    with CONSOLE.capture() as printed:
        trainer = make_trainer(config)
        trainer.train()
    cameras = trainer.pipeline.datamanager.train_dataset.cameras
    limit = getattr(trainer.pipeline.model.densification, "limit")  # noqa: B009
    width, height = int(cameras.width[0]), int(cameras.height[0])
    photographs = f"Training: {len(cameras)} photographs of {width}×{height}"
    line = f"{photographs}, 4 steps, at most {limit} Gaussians, schedules fitted to 4 steps"
    assert line in printed.get().splitlines()
    again: Any = yaml.load(stored.read_text(), Loader=yaml.Loader)
    assert shown(again) == shown(config) == ((1, 3, 10), 1, PLAIN, 1)
    again.max_num_iterations = 6
    fit_to_length(again)
    assert shown(again) == shown(config), "a run that goes on from its config.yml keeps its schedules"
    config.max_num_iterations = config.full_length
    cameras.width[0] = width + 16
    assert describe_run(config, cameras, None) == f"{photographs} to {width + 16}×{height}, 10,000 steps"
