"""Which Gaussians each rule picks."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from splatkit_ns.cameras import View
from splatkit_ns.cleaning import rules
from splatkit_ns.cleaning.weights import seen_in
from splatkit_ns.formats import Gaussians
from splatkit_ns.renderer import RenderOptions, Splat2DGSRenderer, Splat3DGSRenderer
from splatkit_ns.splat import SplatModel
from tests.formats.helpers import make_gaussians
from tests.tiny_scene import orbit_poses, tiny_gaussians

SIZE = 40


def in_a_row(*positions: float, size: float = 0.1) -> Gaussians:
    """Round Gaussians on the x axis."""
    found = make_gaussians(len(positions))
    found.means[:] = 0
    found.means[:, 0] = positions
    found.scales[:] = np.log(size)
    found.opacities[:] = 2
    return found


def test_clusters() -> None:
    """Two touch at up to five standard deviations of 0.1."""
    row = in_a_row(0, 0.45, 0.9, 1.35, 5, 5.45, 9, 1.8)
    assert rules.small_clusters(row, 2).tolist() == [False] * 6 + [True, False]
    assert rules.small_clusters(row, 3).tolist() == [False] * 4 + [True] * 3 + [False]
    assert rules.small_clusters(row, 6).all()
    assert rules.small_clusters(row, 3, reach=2.0).all(), "gaps of 0.45 are too wide then"


@pytest.mark.parametrize("turn", [[1, 0, 0, 0], [2**-0.5, 0, 0, 2**-0.5]])
def test_a_long_gaussian_holds_together_what_is_along_it(turn: list[float]) -> None:
    """Three on the x axis, the middle one with its long axis there, or across it after a quarter turn around z."""
    row = in_a_row(0, 1, 2)
    assert rules.small_clusters(row, 2).all()
    row.quats[1] = turn
    row.scales[1, 0 if turn[0] == 1 else 1] = np.log(0.35)
    assert not rules.small_clusters(row, 3).any()
    row.scales[1] = row.scales[1, [1, 0, 2]]
    assert rules.small_clusters(row, 2).all()


def test_haze_holds_nothing() -> None:
    """A large faint Gaussian touches four: a pair that touches itself, and two that hang alone in the haze."""
    row = in_a_row(0, 0.3, 3, -3, 0.1)
    row.scales[4] = np.log(2)
    assert not rules.small_clusters(row, 5).any()
    row.opacities[4] = -3
    assert rules.small_clusters(row, 2).tolist() == [False, False, True, True, False]
    assert not rules.small_clusters(row, 2, solid=0.01).any()
    row.means[4] = 50
    assert rules.small_clusters(row, 2).tolist() == [False, False, True, True, True]


def test_one_gaussian_alone() -> None:
    assert rules.small_clusters(in_a_row(0), 2).tolist() == [True]
    assert rules.small_clusters(in_a_row(0, 0), 2).tolist() == [False, False]


def test_many_at_one_place_do_not_hide_their_neighbours() -> None:
    """More of them than neighbours are looked at; the pair beside them is connected from its own side."""
    row = in_a_row(*[0.0] * 40, 0.3)
    assert not rules.small_clusters(row, 41).any()


def test_sizes_and_shapes() -> None:
    row = in_a_row(0, 1, 2)
    row.scales[:] = np.log([[0.1, 0.1, 0.1], [0.1, 3.0, 0.1], [0.1, 0.1, 1e-6]])
    assert rules.oversized(row, 1.0).tolist() == [False, True, False]
    assert rules.needles(row, 10.0).tolist() == [False, True, False], "a disc is no needle"


def test_faint() -> None:
    row = in_a_row(0, 1, 2)
    row.opacities[:] = np.log([0.003 / 0.997, 0.005 / 0.995, 0.5 / 0.5])
    assert rules.faint(row).tolist() == [True, False, False]
    assert rules.faint(row, 0.1).tolist() == [True, True, False]


def test_regions() -> None:
    row = in_a_row(-1, 0.5, 2)
    row.means[1, 2] = 0.9
    assert rules.outside_box(row, (-1, -1, -1, 1, 1, 1)).tolist() == [False, False, True]
    assert rules.outside_sphere(row, (0, 0, 0, 1)).tolist() == [False, True, True]
    assert rules.outside_sphere(row, (2, 0, 0, 0.1)).tolist() == [True, True, False]


def test_not_finite() -> None:
    row = in_a_row(0, 1, 2)
    assert not rules.not_finite(row).any()
    row.shN[1, 4, 2] = np.inf
    assert rules.not_finite(row).tolist() == [False, True, False]
    row.scales[:, 0] = [88.7, 0, 88.8]
    assert rules.not_finite(row).tolist() == [False, True, True], "e to the 88.8 is infinite in float32"
    assert rules.infinite_size(row).tolist() == [False, False, True]


def test_clusters_of_the_largest_gaussians() -> None:
    """They reach everything; the squares of their sizes are beyond float32."""
    row = in_a_row(0, 1, 2, size=1e30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not rules.small_clusters(row, 3).any()


@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1e6)), st.floats(0, 0.99))
def test_unneeded_ones_have_at_most_their_share(weights: np.ndarray, share: float) -> None:
    mask = rules.unneeded(weights, share)
    assert weights[mask].sum() <= share * weights.sum() * (1 + 1e-9)
    if weights.sum() > 0:
        assert not mask.all()
        assert weights[mask].max(initial=0) <= weights[~mask].min()
        next_one = weights[~mask].min()
        assert weights[mask].sum() + next_one > share * weights.sum() * (1 - 1e-9), "no more could go"
        assert (mask | (weights > 0)).all(), "those without any weight always go"


def view() -> View:
    poses = torch.from_numpy(orbit_poses(2) @ np.diag([1.0, -1.0, -1.0, 1.0])).float()
    K = torch.tensor([[48.0, 0, SIZE / 2], [0, 48.0, SIZE / 2], [0, 0, 1]])
    return View(poses[:1], K[None], SIZE, SIZE)


@pytest.mark.parametrize("kind", [Splat3DGSRenderer, Splat2DGSRenderer])
def test_weights_sum_up_to_what_is_covered(kind: type) -> None:
    """An image's coverage is the sum of all blend weights, for renderers that know them and for others."""
    state = tiny_gaussians()
    alphas = kind().render(state, view(), RenderOptions()).alphas
    weights = seen_in(kind(), state, [view(), view()]).weights
    assert float(weights.sum()) == pytest.approx(2 * float(alphas.sum()), rel=1e-4)
    assert float(weights.min()) >= 0
    assert state.params["sh0"].grad is None


def test_both_ways_to_the_weights_agree() -> None:
    class Unknowing(Splat3DGSRenderer):
        blend_weight_sums = property()  # type: ignore[assignment]  # hasattr says no

    state = tiny_gaussians()
    known, other = (seen_in(renderer, state, [view()]).weights for renderer in (Splat3DGSRenderer(), Unknowing()))
    assert not hasattr(Unknowing(), "blend_weight_sums")
    assert torch.allclose(known, other, rtol=1e-4, atol=1e-4)
    assert float(known.max()) > 10


def test_what_is_in_front() -> None:
    """Two sheets behind each other, the farther one in a gap of the nearer, and one Gaussian that is not seen."""
    num = 101
    gaussians = make_gaussians(num, 0)
    gaussians.means[:] = np.random.default_rng(0).uniform(-0.5, 0.5, (num, 3)) * [1, 1, 0.01]
    gaussians.scales[:] = np.log(0.1)
    gaussians.opacities[:] = 3
    gaussians.means[0] = 0.6, 0, -0.8  # between the camera and the sheet
    gaussians.means[1] = 1.5, 0, 3  # behind it, beside it
    gaussians.means[2] = 0, 0, -5  # behind the camera
    gaussians.scales[[0, 1]] = np.log(0.03)
    camera = View.look_at(eye=(0, 0, -3), target=(0, 0, 0), up=(0, 1, 0), fov=60, width=SIZE, height=SIZE)
    state = SplatModel.from_gaussians(gaussians).for_rendering("cpu")
    seen = seen_in(Splat3DGSRenderer(), state, [camera])
    assert (seen.weights[:2] > 0).all()
    assert seen.in_front[0]
    assert not seen.in_front[1], "it is seen, and farther than nearly all that is"
    assert not seen.in_front[2]
    assert seen.weights[2] == 0
