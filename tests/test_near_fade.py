"""Gaussians right before the camera fade."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from splatkit_ns import SplatModel, View, render
from splatkit_ns.near_fade import faded, nearest_seen
from splatkit_ns.renderer import Splat3DGSRenderer
from tests.test_rendering import WithoutDepth

EYE = View.look_at((0, 0, 0), (1, 0, 0), width=48, height=36)


def wall(x: float, size: float = 2.0, colour: float = 1.0) -> SplatModel:
    """An opaque square across x."""
    side = torch.linspace(-size, size, 40)
    grid = torch.cartesian_prod(torch.tensor([x]), side, side)
    num = len(grid)
    return SplatModel(
        means=grid,
        scales=torch.tensor([0.001, size / 20, size / 20]).log().expand(num, 3),
        quats=torch.tensor([1.0, 0, 0, 0]).expand(num, 4),
        opacities=torch.full((num,), 5.0),
        sh0=torch.full((num, 1, 3), colour),
        shN=torch.zeros(num, 0, 3),
    )


def both(one: SplatModel, other: SplatModel) -> SplatModel:
    names = ("means", "scales", "quats", "opacities", "sh0", "shN")
    return replace(one, **{name: torch.cat([getattr(one, name), getattr(other, name)]) for name in names})


def test_what_is_near_gives_way_to_what_is_behind_it() -> None:
    scene = both(wall(4.0, 4.0, 1.0), wall(0.3, 0.4, -1.0)).for_rendering("cpu")
    before, behind = render(scene, EYE), render(wall(4.0, 4.0, 1.0), EYE)
    assert float(before.mean()) < 0.3 < 0.7 < float(behind.mean())
    assert torch.allclose(render(faded(scene, EYE, 0.7), EYE), behind, atol=1e-3), "gone at 0.47"
    assert torch.allclose(render(faded(scene, EYE, 0.3), EYE), before, atol=1e-3)
    means = [float(render(faded(scene, EYE, near), EYE).mean()) for near in (0.3, 0.33, 0.36, 0.39, 0.42, 0.45)]
    assert means == sorted(means)
    assert max(b - a for a, b in pairwise(means)) < 0.5, "step by step"
    assert torch.equal(scene.params["opacities"], torch.full_like(scene.params["opacities"], 5.0)), "it is a copy"


def test_what_is_far_or_behind_stays_as_it_is() -> None:
    scene = both(wall(4.0), wall(-0.1)).for_rendering("cpu")
    assert faded(scene, EYE, 0.0) is scene
    assert faded(scene, EYE, 3.0) is scene
    around = EYE.panorama()
    assert float(faded(scene, around, 3.0).opacities.min()) < 0.01, "a panorama looks backwards, too"


def test_the_nearest_that_photographs_show() -> None:
    state, renderer = both(wall(4.0, 4.0), wall(-3.0, 4.0)).for_rendering("cpu"), Splat3DGSRenderer()
    forwards = [View.look_at((x, 0, 0), (9, 0, 0), width=480, height=360) for x in (0.0, 1.0, 1.5)]
    assert nearest_seen(renderer, state, forwards) == pytest.approx(2.5, abs=0.05)
    backwards = View.look_at((-1, 0, 0), (-9, 0, 0), width=48, height=36)
    assert nearest_seen(renderer, state, [*forwards, backwards]) == pytest.approx(2.0, abs=0.05)
    assert nearest_seen(renderer, state, [View.look_at((9, 0, 0), (10, 0, 0), width=48, height=36)]) == 0.0
    strip = View.look_at((0, 0, 0), (9, 0, 0), fov=1, width=900, height=3)
    assert nearest_seen(renderer, state, [strip]) == pytest.approx(4.0, abs=0.05), (
        "no row is lost when it is drawn small"
    )
    assert nearest_seen(WithoutDepth(), state, forwards) == 0.0
