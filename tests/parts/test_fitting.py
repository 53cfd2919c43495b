"""Settings that know what they are in shorter runs: their values, and what keeps or loses that knowledge."""

from __future__ import annotations

import pickle
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import yaml

from splatkit_ns.densification import (
    SplatBudgetDensification,
    SplatDefaultDensification,
    SplatFittingDensification,
    SplatMCMCDensification,
)
from splatkit_ns.loss_fn import Splat2DGSLossFn
from splatkit_ns.parts.fitting import FittingSteps, FittingValue, SceneShare, SceneValue, fitted, fitted_to_scene
from splatkit_ns.ranges import check


@dataclass
class Inner:
    """Settings within others."""

    every: int = FittingSteps(100, share=1 / 10, least=10)
    kept: int = 100
    size: float = FittingValue(0.1, short=1.0, below=400)


@dataclass
class Outer:
    """Settings with others."""

    inner: Inner = field(default_factory=Inner)
    other: Inner = field(default_factory=lambda: Inner(every=100, size=0.1))
    groups: dict[str, Any] = field(default_factory=lambda: {"plain": 3, "means": Inner()})
    itself: Any = None


def test_a_share_of_the_steps_within_its_limits() -> None:
    every = FittingSteps(100, share=1 / 10, least=10)
    assert [every.in_run(steps) for steps in (1, 90, 456, 999, 50_000)] == [10, 10, 46, 100, 100]
    assert type(every.in_run(456)) is type(every.in_run(50_000)) is int


def test_what_was_given_stays_and_settings_are_copied() -> None:
    given = Outer()
    given.itself = given
    found = fitted(given, 300)
    assert (found.inner.every, found.inner.kept, found.inner.size) == (30, 100, 1.0)
    assert (found.other.every, found.other.size) == (100, 0.1), "plain numbers were given"
    assert found.other is given.other
    assert found.groups["means"] == found.inner
    assert (given.inner.every, given.groups["means"].size) == (100, 0.1), "the settings themselves stay"
    assert type(found.inner.every) is int
    assert fitted(found.inner, 5) == found.inner
    assert fitted(given, 400).inner.size == 0.1, "not in runs of as many steps as that"


def test_they_are_numbers_and_survive_copies_but_not_files() -> None:
    every, size = Inner.every, Inner.size
    assert (every, str(every), every // 3, size, f"{size:.2f}") == (100, "100", 33, 0.1, "0.10")
    assert hash(every) != hash(100)
    check(Inner())
    for copied in (deepcopy(Inner()), pickle.loads(pickle.dumps(Inner()))):
        assert fitted(copied, 300) == Inner(30, 100, 1.0)
    stored = yaml.load(yaml.dump(Inner()), Loader=yaml.Loader)
    assert "every: 100\n" in yaml.dump(Inner())
    assert fitted(stored, 300) == Inner(100, 100, 0.1), "a file says what the run used"


def test_a_share_that_falls_with_the_number_of_photographs() -> None:
    share = SceneShare(0.2, short=0.0, below=400, photographs=40, least=0.05, most=0.4)
    settings: dict[str, Any] = {"renderer": {"dropout": share, "other": 0.2}, "inner": Inner()}
    found = [fitted_to_scene(settings, photographs)["renderer"]["dropout"] for photographs in (1, 20, 40, 100, 900)]
    assert found == [0.4, 0.4, 0.2, 0.08, 0.05]
    assert fitted_to_scene(settings, 100)["renderer"]["other"] == 0.2, "what was given stays"
    assert fitted_to_scene(settings, 100)["inner"] is settings["inner"]
    short = fitted_to_scene(fitted(settings, 300), 20)
    assert short["renderer"]["dropout"] == 0.0, "a short run's value stays"
    for kept in (fitted(settings, 400), deepcopy(settings), pickle.loads(pickle.dumps(settings))):
        assert fitted_to_scene(kept, 20)["renderer"]["dropout"] == 0.4
    assert yaml.dump({"dropout": share}) == "dropout: 0.2\n"


def test_a_value_of_few_photographs_within_a_part_that_knows_short_runs() -> None:
    value = SceneValue(13, few=7.6, short=20, below=400, photographs=30)
    part = SplatFittingDensification(max_per_seed=value)
    found = [fitted_to_scene(part, photographs) for photographs in (29, 30)]
    assert [strategy.max_per_seed for strategy in found] == [7.6, 13]
    assert [type(strategy.max_per_seed) for strategy in found] == [float, float]
    assert (type(found[0]), part.max_per_seed) == (SplatFittingDensification, value)
    assert fitted_to_scene(fitted(part, 399), 2).max_per_seed == 20
    assert fitted_to_scene(pickle.loads(pickle.dumps(fitted(part, 400))), 2).max_per_seed == 7.6
    assert yaml.dump({"most": value}) == "most: 13.0\n"


def test_the_built_in_parts_in_a_short_run() -> None:
    def steps(part: Any) -> tuple[int, int, int]:
        return part.refine_start_iter, part.refine_stop_iter, part.refine_every

    for kind in (SplatDefaultDensification, SplatBudgetDensification):
        assert steps(kind()) == (500, 15_000, 100)
        assert steps(fitted(kind(), 120)) == (12, 60, 12)
        assert steps(fitted(kind(), 3000)) == (300, 1500, 100)
    assert steps(fitted(SplatMCMCDensification(), 120)) == (12, 100, 10)
    assert steps(fitted(SplatMCMCDensification(refine_stop_iter=90), 600)) == (60, 90, 30)
    loss = fitted(Splat2DGSLossFn(), 300)
    assert (loss.distortion_start_iter, loss.normal_consistency_start_iter) == (30, 70)
