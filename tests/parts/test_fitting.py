"""Settings that count steps and are None: what they are in runs of several lengths, and in the parts that have them."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from splatkit_ns.densification import SplatBudgetDensification, SplatDefaultDensification, SplatMCMCDensification
from splatkit_ns.errors import ModuleError
from splatkit_ns.loss_fn import Splat2DGSLossFn
from splatkit_ns.parts import fitting
from splatkit_ns.parts.fitting import Fitting, sh_degree_at
from splatkit_ns.ranges import check
from splatkit_ns.renderer import Splat2DGSRenderer, Splat3DGSRenderer
from tests.densification.helpers import random_payload, random_state

LOGGER = logging.getLogger("splatkit_ns")
FITTED: Any = {"refine_start_iter": None, "refine_stop_iter": None, "refine_every": None}


def test_a_number_stays_and_none_is_a_share_within_its_limits() -> None:
    rule = Fitting(1 / 10, least=10, most=100)
    assert [rule.steps(None, length, "every") for length in (1, 100, 450, 1000, 30_000)] == [10, 10, 45, 100, 100]
    assert rule.steps(7, 1000, "every") == 7
    assert rule.steps(7, None, "every") == 7
    assert fitting.REFINE_STOP.steps(None, 30_000, "stop") == 25_000
    for unknown in (None, 0):
        with pytest.raises(ModuleError, match="every is None, which follows the steps of the run, but their number is"):
            rule.steps(None, unknown, "every")


@pytest.mark.parametrize("kind", [SplatDefaultDensification, SplatBudgetDensification, SplatMCMCDensification])
def test_a_strategy_refines_at_the_steps_that_fit_its_run(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    growing: Any = {} if kind is SplatMCMCDensification else {"grow_grad2d": 0.0, "absgrad": False}
    strategy: Any = kind(**FITTED, **growing)
    state = random_state(40)
    check(strategy)
    setup: Any = {}
    if kind is not SplatMCMCDensification:
        state.subscribe(strategy.on_gaussians_changed)
        setup["renderer"] = Splat3DGSRenderer()
    with caplog.at_level("INFO", "splatkit_ns"):
        strategy.on_setup(logger=LOGGER, training_state=state, max_steps=120, **setup)
    expected = "in 120 steps Gaussians are refined every 12 steps, after step 12 and before step 100"
    if kind is SplatMCMCDensification:
        expected = expected.replace("every 12", "every 10")
    assert expected in caplog.text
    grew: list[int] = []
    for step in range(1, 121):
        before = len(state)
        strategy.densify(
            step=step, training_state=state, rend_out=random_payload(before, seed=step), scene_scale=1.0, max_steps=120
        )
        grew += [step] if len(state) > before else []
    every = strategy.refinement.every
    assert grew == [step for step in range(1, 120) if 12 < step < 100 and step % every == 0]


def test_a_strategy_that_was_not_told_the_steps_names_the_setting() -> None:
    with pytest.raises(ModuleError, match=r"SplatMCMCDensification\.refine_stop_iter is None, which follows"):
        SplatMCMCDensification(refine_stop_iter=None).on_setup(LOGGER, random_state(4))
    silent = SplatDefaultDensification()
    silent.on_setup(None, Splat3DGSRenderer(), random_state(4))
    assert (silent.refinement.start, silent.refinement.stop, silent.refinement.every) == (500, 15_000, 100)


def test_the_budget_rises_between_the_fitted_steps() -> None:
    strategy = SplatBudgetDensification(**FITTED, max_gaussians=140, max_per_seed=0)
    strategy.on_setup(LOGGER, Splat3DGSRenderer(), random_state(40), None, 600)
    assert [strategy.allowed_number(step) for step in (60, 170, 500, 600)] == [40, 90, 140, 140]


def test_the_terms_of_2dgs_set_in_at_the_fitted_steps() -> None:
    loss = Splat2DGSLossFn(normal_consistency_start_iter=None, distortion_start_iter=None)
    loss.on_setup(Splat2DGSRenderer(), 300)
    assert [loss.wants_depth(step) for step in (30, 31)] == [False, True]
    loss.distortion_lambda = 0.0
    assert [loss.wants_depth(step) for step in (70, 71)] == [False, True]


@pytest.mark.parametrize(
    ("interval", "max_steps", "init_ply", "expected"),
    [
        (None, 200, None, [0, 1, 2, 3, 3]),
        (None, 0, None, [3, 3, 3, 3, 3]),
        (30, 200, None, [0, 0, 1, 2, 3]),
        (30, 0, None, [0, 0, 1, 2, 3]),
        (None, 50_000, None, [0, 0, 0, 0, 0]),
        (30, 200, Path("start.ply"), [3, 3, 3, 3, 3]),
    ],
)
def test_spherical_harmonics(interval: int | None, max_steps: int, init_ply: Path | None, expected: list[int]) -> None:
    settings: Any = SimpleNamespace(sh_degree=3, sh_degree_interval=interval, init_ply=init_ply)
    assert [sh_degree_at(step, settings, max_steps) for step in (19, 20, 59, 60, 199)] == expected
