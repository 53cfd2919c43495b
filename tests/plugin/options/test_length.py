"""Runs shorter than their method is made for: schedules that fit them, and the line that says so."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.utils.rich_utils import CONSOLE

from splatkit_ns import methods
from splatkit_ns.densification import SplatBudgetDensification, SplatFittingDensification, SplatMCMCDensification
from splatkit_ns.methods import make_method
from splatkit_ns.parts.fitting import SceneShare, SceneSteps, SceneValue
from splatkit_ns.plugin.optimizers import optimizers_of_run
from splatkit_ns.plugin.options.length import fit_to_length, fit_to_scene
from splatkit_ns.plugin.options.starting import describe_run
from splatkit_ns.renderer import Splat2DGSRenderer, Splat3DGSRenderer
from tests.plugin.helpers import make_trainer, run_config

MCMC, PLAIN = (0.1, 0.5), (1.0, 0.1)
FULL: dict[str, tuple[int, tuple[int, int, int], int, tuple[float, float]]] = {
    "splatkit_3dgs": (20_000, (500, 16_000, 100), 1000, MCMC),
    "splatkit_3dgs_fast": (6500, (500, 5200, 50), 500, MCMC),
    "splatkit_3dgs_big": (30_000, (500, 24_000, 100), 1000, MCMC),
    "splatkit_3dgs_small": (10_000, (500, 8000, 100), 1000, MCMC),
    "splatkit_3dgs_adc": (30_000, (500, 15_000, 100), 1000, PLAIN),
    "splatkit_3dgs_mcmc": (30_000, (500, 25_000, 100), 1000, MCMC),
    "splatkit_2dgs": (30_000, (500, 15_000, 100), 1000, PLAIN),
}
"""The length of each method's runs, and there: start, end and period of refinement, interval of degrees, size and
opacity at the start."""
QUICK = ("splatkit_3dgs", "splatkit_3dgs_fast", "splatkit_3dgs_big")


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
        assert "SplatBudgetDensification" not in yaml.dump(config) or name in ("splatkit_2dgs", "splatkit_3dgs_small")
        own = deepcopy(getattr(methods, name).config)
        own.max_num_iterations = steps
        assert config == own, "nothing else is changed either"


@pytest.mark.parametrize("name", FULL)
def test_a_shorter_run_takes_shares_of_its_steps(name: str) -> None:
    length, refinement = FULL[name][:2]
    stop, every = (300, 60) if name in ("splatkit_3dgs_adc", "splatkit_2dgs") else (500, 30)
    stop = 480 if name in QUICK else stop
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


@pytest.mark.parametrize("name", QUICK)
def test_a_short_run_has_a_strategy_of_its_own(name: str) -> None:
    per_seed = {"splatkit_3dgs": 13, "splatkit_3dgs_fast": 9, "splatkit_3dgs_big": 13}[name]
    for steps in (200, 2499):
        config = fitted(name, steps)
        model = config.pipeline.model
        strategy = model.densification
        assert type(strategy) is SplatBudgetDensification
        assert (strategy.max_per_seed, strategy.pixels_per_gaussian, strategy.reset_every) == (per_seed, 100, 0)
        assert (model.renderer.dropout, config.optimizers["scales"]["optimizer"].lr) == (0.0, 0.01)
        assert model.loss_fn.mse_lambda == 4.0
        before = deepcopy(config)
        fit_to_length(config)
        assert config == before, "a second call changes nothing"
    model = fitted(name, 2500).pipeline.model
    assert type(model.densification) is SplatMCMCDensification
    assert model.renderer.dropout > 0
    assert model.loss_fn.mse_lambda == 0.0


def test_a_short_run_keeps_mcmc_if_that_is_wanted_or_needed() -> None:
    config: Any = deepcopy(methods.splatkit_3dgs.config)
    config.max_num_iterations, config.pipeline.model.densification.growth = 200, 0.2
    config.pipeline.model.densification.max_gaussians = 7
    other = deepcopy(config)
    fit_to_length(config)
    strategy = config.pipeline.model.densification
    assert type(strategy) is SplatMCMCDensification
    assert (strategy.growth, strategy.noise_lr, strategy.refine_stop_iter) == (0.2, 1e6, 160)
    other.pipeline.model.densification = replace(
        methods.splatkit_3dgs.config.pipeline.model.densification,  # type: ignore[reportAttributeAccessIssue]
        max_gaussians=7,
    )
    no_gradients = deepcopy(other)
    fit_to_length(other)
    assert type(other.pipeline.model.densification) is SplatBudgetDensification
    assert other.pipeline.model.densification.max_gaussians == 7
    no_gradients.pipeline.model.renderer = Splat2DGSRenderer()
    fit_to_length(no_gradients)
    assert type(no_gradients.pipeline.model.densification) is SplatMCMCDensification
    assert no_gradients.pipeline.model.densification.refine_stop_iter == 160


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
    assert shown(off) == ((500, 16_000, 100), 1000, MCMC, 1000)
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
    limit = len(trainer.pipeline.model.training_state)  # more than the limit of so few pixels
    assert limit > getattr(trainer.pipeline.model.densification, "limit")  # noqa: B009
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
    assert describe_run(config, cameras, None, 1) == f"{photographs} to {width + 16}×{height}, 10,000 steps"
    more = describe_run(config, cameras, SplatMCMCDensification(max_gaussians=1_000), 1_200)
    assert more.endswith("at most 1,200 Gaussians"), "the line is about what there is by now"
    assert describe_run(config, cameras, None, 1, 2).endswith("10,000 steps, 2 photographs at a time")
    config.count_images = False
    assert describe_run(config, cameras, None, 1, 2).endswith("10,000 steps of 2 photographs")


@pytest.mark.parametrize(
    ("name", "photographs", "steps", "stop"),
    [
        ("splatkit_3dgs", 50, 10_000, 8000),
        ("splatkit_3dgs", 91, 18_200, 14_560),
        ("splatkit_3dgs", 99, 19_800, 15_840),
        ("splatkit_3dgs_big", 2, 10_000, 8000),
        ("splatkit_3dgs_big", 30, 10_200, 8160),
        ("splatkit_3dgs_big", 88, 29_920, 23_936),
    ],
)
def test_few_photographs_get_fewer_steps(name: str, photographs: int, steps: int, stop: int) -> None:
    config: Any = deepcopy(getattr(methods, name).config)
    assert fit_to_scene(config, photographs)
    assert (config.max_num_iterations, config.full_length) == (steps, steps)
    assert config.pipeline.model.densification.refine_stop_iter == stop
    assert isinstance(config.pipeline.model.densification, SplatMCMCDensification)
    assert last_factor(config) == pytest.approx(0.01), "as at the end of a run of full length"
    assert not fit_to_scene(config, photographs), "nothing is left to fit"


def test_the_big_preset_is_the_usual_one_with_few_photographs() -> None:
    usual, big, more = (
        deepcopy(getattr(methods, name).config) for name in ("splatkit_3dgs", *["splatkit_3dgs_big"] * 2)
    )
    for config, photographs in ((usual, 29), (big, 29), (more, 30)):
        assert fit_to_scene(config, photographs)
    assert vars(usual.pipeline.model.densification) == vars(big.pipeline.model.densification)
    for part in ("renderer", "loss_fn"):
        assert getattr(usual.pipeline.model, part) == getattr(big.pipeline.model, part)
    assert (usual.optimizers, usual.max_num_iterations) == (big.optimizers, big.max_num_iterations)
    model: Any = more.pipeline.model
    found = (
        model.densification.max_per_seed,
        model.densification.pixels_per_gaussian,
        model.renderer.dropout_full_from,
    )
    assert found == (13, 45, 1 / 3)


@pytest.mark.parametrize("photographs", [5, 69, 70, 500])
def test_the_fast_preset_learns_faster_from_any_number_of_photographs(photographs: int) -> None:
    config: Any = deepcopy(methods.splatkit_3dgs_fast.config)
    usual: Any = deepcopy(methods.splatkit_3dgs.config)
    config.optimizers["quats"]["optimizer"].lr = 0.5
    assert fit_to_scene(config, photographs)
    assert fit_to_scene(usual, photographs)
    found, expected = ({k: v["optimizer"].lr for k, v in each.optimizers.items()} for each in (config, usual))
    for name in ("scales", "opacities", "sh0", "shN"):
        assert found[name] == pytest.approx(2 * expected[name])
        assert yaml.safe_load(yaml.dump(found[name])) == found[name], "config.yml tells it"
        assert config.optimizers[name]["optimizer"].beta2 == 0.99
        assert usual.optimizers[name]["optimizer"].beta2 == 0.999
    assert config.optimizers["means"]["optimizer"].beta2 == 0.999
    assert found["means"] == expected["means"]
    assert found["quats"] == 0.5, "what is given stays"
    assert expected["scales"] == 0.01


@pytest.mark.parametrize(("photographs", "dropout"), [(3, 0.4), (21, 0.381), (40, 0.2), (100, 0.08), (500, 0.05)])
def test_the_fewer_photographs_the_more_dropout(photographs: int, dropout: float) -> None:
    config: Any = deepcopy(methods.splatkit_3dgs.config)
    config.max_num_iterations = config.full_length  # given, so that the steps stay
    others: Any = deepcopy(config)
    assert fit_to_scene(config, photographs)
    assert config.pipeline.model.renderer.dropout == dropout
    assert type(config.pipeline.model.renderer.dropout) is float
    assert not fit_to_scene(config, 2), "nothing is left to fit"
    config.pipeline.model.renderer.dropout = others.pipeline.model.renderer.dropout
    assert config == others, "nothing else is changed"
    others.max_num_iterations = 3000
    fit_to_length(others)
    assert fit_to_scene(others, photographs)
    assert others.pipeline.model.renderer.dropout == dropout, "in shorter runs, too"
    for name, value in (("max_num_iterations", 2000), ("full_length", 0)):
        kept: Any = deepcopy(methods.splatkit_3dgs.config)
        setattr(kept, name, value)
        fit_to_length(kept)
        assert not fit_to_scene(kept, photographs), name
    given: Any = deepcopy(config)
    given.pipeline.model.renderer.dropout = 0.2
    assert not fit_to_scene(given, photographs)


def test_a_run_trains_with_the_dropout_of_its_photographs_and_says_so(tiny_scene: Path, tmp_path: Path) -> None:
    share = SceneShare(0.01, short=0.0, below=1, photographs=40, least=0.0, most=0.4)
    few = SceneValue(13, few=7.6, short=13, below=1, photographs=30)
    pulled = SplatFittingDensification(gradient_power=1.0, max_per_seed=few)
    method = make_method("own", renderer=Splat3DGSRenderer(dropout=share), densification=pulled, max_num_iterations=2)
    config = run_config(tiny_scene, tmp_path, steps=2, method=method)
    config.full_length = 2
    config.save_config()
    with CONSOLE.capture() as printed:
        trainer = make_trainer(config)
        trainer.train()
    dropout = share.of_scene(len(trainer.pipeline.datamanager.train_dataset))
    assert 0.01 < dropout < 0.4
    used: list[Any] = [trainer.pipeline.model.renderer, config.pipeline.model.renderer]
    assert [renderer.dropout for renderer in used] == [dropout, dropout]
    strategies: list[Any] = [trainer.pipeline.model.densification, config.pipeline.model.densification]
    assert [strategy.max_per_seed for strategy in strategies] == [7.6, 7.6]
    assert f", dropout {dropout:.2g}" in printed.get()
    assert bool(getattr(trainer.pipeline.model.densification, "gradient_sums").any())  # noqa: B009
    again: Any = yaml.load((config.get_base_dir() / "config.yml").read_text(), Loader=yaml.Loader)
    assert (again.pipeline.model.renderer.dropout, again.pipeline.model.densification.refine_every) == (dropout, 100)


def test_a_number_of_steps_that_is_given_is_not_lowered() -> None:
    config: Any = deepcopy(methods.splatkit_3dgs_big.config)
    config.max_num_iterations = 30_000
    fit_to_scene(config, 2)
    assert (config.max_num_iterations, config.full_length) == (30_000, 30_000)
    config = deepcopy(methods.splatkit_3dgs_big.config)
    config.full_length = 0
    assert not fit_to_scene(config, 2)
    stored = yaml.dump({"steps": SceneSteps(10_000, 300)})
    assert stored == "steps: 10000\n", "and config.yml holds a plain number"


def test_a_run_with_few_photographs_stores_the_steps_it_took(tiny_scene: Path, tmp_path: Path) -> None:
    config = run_config(tiny_scene, tmp_path, method=methods.splatkit_3dgs)
    config.max_num_iterations, config.full_length = SceneSteps(10_000, 0.5, least=3), 10_000
    config.save_config()
    stored = config.get_base_dir() / "config.yml"
    assert yaml.load(stored.read_text(), Loader=yaml.Loader).max_num_iterations == 10_000
    trainer = make_trainer(config)
    trainer.train()
    photographs = len(trainer.pipeline.datamanager.train_dataset)
    steps = max(3, round(photographs / 2))
    densification = trainer.pipeline.model.densification
    assert trainer.step + 1 == config.max_num_iterations == steps
    assert getattr(densification, "refine_stop_iter") == round(steps * 5 / 6)  # noqa: B009
    again: Any = yaml.load(stored.read_text(), Loader=yaml.Loader)
    assert (again.max_num_iterations, again.full_length) == (steps, steps)
    assert shown(again) == shown(config), "a run that goes on from its config.yml keeps its schedules"
