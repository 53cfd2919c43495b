"""The limit of Gaussians that follows the training images' error and the number of seed points."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.densification import SplatBudgetDensification, SplatMCMCDensification
from splatkit_ns.densification.scene_limit import NUM_VIEWS, need_of_gaussians
from splatkit_ns.image_metrics.ssim import ssim
from splatkit_ns.methods import splatkit_3dgs, splatkit_3dgs_big, splatkit_3dgs_fast, splatkit_3dgs_small
from splatkit_ns.parts.training_views import TrainingView
from splatkit_ns.renderer import Splat3DGSRenderer
from tests.densification.helpers import LOGGER, random_state

SIZE = 24


class Views:
    """Training images beside renders that differ from them by noise of their own strength each."""

    num_train_pixels = 100_000

    def __init__(self, strengths: Sequence[float], masks: Tensor | None = None, size: int = SIZE) -> None:
        generator = torch.Generator().manual_seed(0)
        self.targets = torch.rand(len(strengths), size, size, 3, generator=generator)
        noise = torch.randn(self.targets.shape, generator=generator)
        self.renders = self.targets + noise * torch.tensor(strengths)[:, None, None, None]
        self.masks = masks
        self.seen: list[int] = []

    @property
    def num_train_images(self) -> int:
        return len(self.targets)

    def training_view(self, index: int, with_depth: bool = False) -> TrainingView:
        self.seen.append(index)
        view: Any = View
        return TrainingView(view, self.targets[index][None], self.renders[index][None], self.masks)

    def error(self) -> float:
        """The mean of 1 - SSIM over all images."""
        pairs = zip(self.renders, self.targets, strict=True)
        images = [[image.clamp(0, 1).permute(2, 0, 1)[None] for image in pair] for pair in pairs]
        return 1 - sum(float(ssim(a, b)) for a, b in images) / len(images)


def test_the_factor_is_the_root_of_the_error_over_the_usual_one() -> None:
    views = Views([0.05, 0.1, 0.2])
    expected = views.error()
    assert 0.01 < expected < 0.5
    error, factor = need_of_gaussians(views, usual_error=expected / 1.44)
    assert error == pytest.approx(expected, abs=1e-5)
    assert factor == pytest.approx(1.2, abs=1e-3)
    assert views.seen == [0, 1, 2]


@pytest.mark.parametrize(("strength", "expected"), [(0.0, 0.7), (2.0, 1.5)])
def test_the_factor_has_limits(strength: float, expected: float) -> None:
    assert need_of_gaussians(Views([strength]), usual_error=0.1)[1] == expected


def test_of_many_images_some_that_are_spread_evenly_are_looked_at() -> None:
    views = Views([0.1] * 40)
    need_of_gaussians(views, usual_error=0.1)
    assert len(views.seen) == NUM_VIEWS
    assert views.seen[:4] == [0, 2, 5, 7]
    assert max(views.seen) == 37


def test_what_masks_leave_out_does_not_count() -> None:
    masks = torch.ones(1, SIZE, SIZE, dtype=torch.bool)
    masks[:, :, 12:] = False
    views = Views([0.1], masks)
    before = need_of_gaussians(views, usual_error=0.1)
    views.renders[0, :, 12:] = math.nan
    assert need_of_gaussians(views, usual_error=0.1) == before


@pytest.mark.parametrize("source", [None, object(), Views([0.3], size=8)])
def test_without_images_to_look_at_scenes_are_usual(source: Any) -> None:
    error, factor = need_of_gaussians(source, usual_error=0.1)
    assert math.isnan(error)
    assert factor == 1


def grown(strategy: SplatMCMCDensification, views: Any, steps: int = 30) -> list[int]:
    """The number of Gaussians after each step of a run that starts with 100."""
    state = random_state(100)
    strategy.on_setup(LOGGER, state, views)
    numbers: list[int] = []
    for step in range(1, steps + 1):
        strategy.densify(step, state)
        numbers.append(len(state))
    return numbers


def strategy_for(usual_error: float, **settings: Any) -> SplatMCMCDensification:
    every_step: Any = {"refine_start_iter": 0, "refine_every": 1, "noise_lr": 0.0, "growth": 0.2}
    return SplatMCMCDensification(**every_step, max_per_seed=4.0, usual_error=usual_error, **settings)


def test_hard_scenes_grow_to_more_gaussians_and_easy_ones_to_fewer(caplog: pytest.LogCaptureFixture) -> None:
    views = Views([0.1])
    usual, hard = strategy_for(views.error()), strategy_for(views.error() / 1.21)
    assert grown(usual, views)[-1] == pytest.approx(400, abs=1)
    caplog.set_level(logging.INFO)
    assert grown(hard, views)[-1] == pytest.approx(440, abs=1)
    assert f"is usual: at most {hard.limit} Gaussians." in caplog.text
    assert grown(strategy_for(9.0), views)[-1] == 280
    assert grown(strategy_for(1e-4), views)[-1] == 600
    assert grown(strategy_for(0.0), views)[-1] == 400, "0 switches it off"


def test_images_are_looked_at_once_when_seven_tenths_of_the_limit_are_reached() -> None:
    views = Views([0.1])
    strategy = strategy_for(views.error())
    state = random_state(100)
    strategy.on_setup(LOGGER, state, views)
    assert strategy.limit == 600, "until then, the most that the scene may need"
    before = 0
    for step in range(1, 30):
        was_seen, before = bool(views.seen), len(state)
        strategy.densify(step, state)
        if views.seen and not was_seen:
            assert before <= 280 < 1.2 * before
    assert views.seen == [0]


def test_a_resumed_run_keeps_what_was_found_out() -> None:
    views = Views([0.1])
    first = strategy_for(views.error() / 1.21)
    number = grown(first, views, steps=8)[-1]
    resumed = strategy_for(views.error() / 1.21)
    resumed.load_state_dict(first.state_dict())
    easy = Views([0.0])
    state = random_state(number)
    resumed.on_setup(LOGGER, state, easy)
    assert resumed.limit == first.limit == pytest.approx(440, abs=1)
    for step in range(9, 30):
        resumed.densify(step, state)
    assert len(state) == resumed.limit
    assert easy.seen == []


def test_images_are_not_looked_at_if_their_pixels_set_the_limit() -> None:
    views = Views([0.1])
    views.num_train_pixels = 10_000
    assert grown(strategy_for(0.001, pixels_per_gaussian=50.0), views)[-1] == 200
    assert views.seen == []


@pytest.mark.parametrize(("usual_seeds", "expected"), [(0.0, 400), (100.0, 400), (1000.0, 400), (12.5, 200)])
def test_many_seed_points_grow_to_fewer_gaussians_each(usual_seeds: float, expected: int) -> None:
    assert grown(strategy_for(0.0, usual_seeds=usual_seeds), None)[-1] == expected


def test_the_budget_of_many_seed_points_is_smaller_too() -> None:
    strategy = SplatBudgetDensification(max_per_seed=4.0, usual_seeds=12.5)
    strategy.on_setup(LOGGER, Splat3DGSRenderer(), random_state(100), Views([0.1]))
    assert strategy.limit == 200


def test_the_methods_that_follow_the_scene() -> None:
    for method in (splatkit_3dgs, splatkit_3dgs_fast):
        densification: Any = method.config.pipeline.model.densification  # type: ignore[attr-defined]
        assert (densification.usual_seeds, densification.usual_error) == (17_500, 0.18)
        short = densification.in_run(1000)
        assert isinstance(short, SplatBudgetDensification)
        assert short.usual_seeds == 0
        assert densification.in_run(4000).usual_error == 0.18
    big: Any = splatkit_3dgs_big.config.pipeline.model.densification  # type: ignore[attr-defined]
    assert (big.usual_seeds, big.usual_error) == (0, 0)
    small: Any = splatkit_3dgs_small.config.pipeline.model.densification  # type: ignore[attr-defined]
    assert small.usual_seeds == 17_500
