"""Gaussians made from points."""

from __future__ import annotations

import math

import pytest
import torch

from splatkit_ns.splat import SplatTrainingState, random_points
from splatkit_ns.splat.initialization import MIN_DISTANCE, neighbour_distances


def test_scales_are_the_mean_distance_to_three_neighbours() -> None:
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3], [50, 50, 50]])
    state = SplatTrainingState.from_points(points, init_scale=0.5)
    assert state.scales[0].tolist() == pytest.approx([1.0, 1.0, 1.0])  # (1 + 2 + 3) / 3 * 0.5


def test_distances_equal_brute_force() -> None:
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    brute = torch.cdist(points.double(), points.double()).sort(dim=1).values[:, 1:4].mean(dim=1)
    assert torch.allclose(neighbour_distances(points).double(), brute, rtol=1e-6)


@pytest.mark.parametrize("num", [1, 2, 3, 4])
def test_few_points(num: int) -> None:
    state = SplatTrainingState.from_points(torch.eye(4)[:num, :3], init_scale=1.0)
    assert torch.isfinite(state.params["scales"]).all()
    assert len(state) == num


def test_coinciding_points_have_a_finite_scale() -> None:
    state = SplatTrainingState.from_points(torch.zeros(10, 3))
    assert state.scales.flatten().tolist() == pytest.approx([MIN_DISTANCE] * 30)


def test_a_scene_in_a_large_unit_starts_with_sizes_as_small() -> None:
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    distances = neighbour_distances(points)
    small = neighbour_distances(1e-4 * points)
    assert torch.allclose(small, 1e-4 * distances.clamp(min=float(distances.quantile(0.5))), rtol=1e-3)


def test_opacities_colours_and_quaternions() -> None:
    colors = torch.rand(20, 3)
    state = SplatTrainingState.from_points(torch.rand(20, 3), colors, init_opacity=0.3, sh_degree=2)
    assert state.opacities.tolist() == pytest.approx([0.3] * 20)
    assert torch.allclose(0.5 + state.sh0[:, 0] / (2 * math.sqrt(math.pi)), colors, atol=1e-6)
    assert state.shN.shape == (20, 8, 3)
    assert not state.shN.any()
    assert torch.allclose(state.params["quats"].norm(dim=-1), torch.ones(20))


def test_the_generator_decides_all_that_is_random() -> None:
    def make(seed: int) -> SplatTrainingState:
        generator = torch.Generator().manual_seed(seed)
        return SplatTrainingState.from_points(random_points(50, 2.0, generator), generator=generator)

    first, second, other = make(1), make(1), make(2)
    assert all(torch.equal(first.params[name], second.params[name]) for name in first.params)
    assert not torch.equal(first.quats, other.quats)
    assert first.means.abs().max() <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": torch.zeros(0, 3)}, r"\(M, 3\) with M > 0, found \(0, 3\)"),
        ({"points": torch.zeros(4, 2)}, r"found \(4, 2\)"),
        ({"points": torch.tensor([[0, 0, 0], [0, math.nan, 0], [math.inf, 0, 0]])}, r"2 of 3 points.*first is row 1"),
        ({"colors": torch.zeros(3, 3)}, r"\(5, 3\).*found \(3, 3\)"),
        ({"colors": torch.full((5, 3), 255.0)}, r"from 255 to 255; divide"),
        ({"colors": torch.zeros(5, 3, dtype=torch.uint8)}, r"uint8: divide"),
        ({"init_opacity": 1.0}, "between 0 and 1"),
        ({"init_scale": 0.0}, "positive"),
        ({"sh_degree": 4}, "0, 1, 2 or 3, found 4"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplatTrainingState.from_points(**{"points": torch.rand(5, 3), **arguments})  # type: ignore[arg-type]
