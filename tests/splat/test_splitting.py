"""The long-axis split against its formulas, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from splatkit_ns.splat import SplatTrainingState
from tests.densification.helpers import random_state

QUARTER_TURN = [math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)]
"""About z: the Gaussian's x axis points along the world's y."""


def one_gaussian(logit: float = 0.0) -> SplatTrainingState:
    """Longest along its own x axis, turned, beside one that stays."""
    return SplatTrainingState.from_tensors(
        {
            "means": torch.tensor([[5.0, 5.0, 5.0], [1.0, 2.0, 3.0]]),
            "scales": torch.tensor([[1.0, 1.0, 1.0], [0.2, 0.1, 0.05]]).log(),
            "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0], QUARTER_TURN]) * 3,
            "opacities": torch.tensor([1.0, logit]),
            "sh0": torch.arange(6.0).reshape(2, 1, 3),
            "shN": torch.zeros(2, 0, 3),
        }
    )


def test_two_halves_lie_along_the_longest_axis() -> None:
    state = one_gaussian()
    state.split_long_axis(torch.tensor([False, True]))
    assert len(state) == 3
    step = 0.45 * 3 * 0.2
    expected = torch.tensor([[5.0, 5.0, 5.0], [1.0, 2.0 + step, 3.0], [1.0, 2.0 - step, 3.0]])
    torch.testing.assert_close(state.means.detach(), expected)
    others = math.sqrt(1 - 0.45**2)
    half = [0.2 * 0.55, 0.1 * others, 0.05 * others]
    torch.testing.assert_close(state.scales.detach(), torch.tensor([[1.0, 1.0, 1.0], half, half]))
    assert state.opacities[1:].tolist() == pytest.approx([0.6 * 0.5] * 2)
    assert state.sh0[:, 0, 0].tolist() == [0.0, 3.0, 3.0]
    assert torch.equal(state.params["quats"][1], state.params["quats"][2])


@pytest.mark.parametrize("logit", [-200.0, -30.0, 20.0, 200.0])
def test_opacities_stay_finite(logit: float) -> None:
    state = one_gaussian(logit)
    state.split_long_axis(torch.tensor([False, True]))
    expected = math.log(0.6) + logit if logit < 0 else math.log(0.6 / 0.4)
    assert state.params["opacities"][1:].tolist() == pytest.approx([expected] * 2, rel=1e-5)


def test_the_others_keep_their_moments_and_halves_start_without() -> None:
    state = random_state(20)
    mask = torch.arange(20) % 3 == 0
    before = state.optimizers["means"].state[state.params["means"]]["exp_avg"].clone()
    kept = state.means.detach()[~mask].clone()
    state.split_long_axis(mask)
    assert len(state) == 20 + int(mask.sum())
    moments = state.optimizers["means"].state[state.params["means"]]["exp_avg"]
    assert torch.equal(moments[: len(kept)], before[~mask])
    assert torch.equal(state.means.detach()[: len(kept)], kept)
    assert float(moments[len(kept) :].abs().max()) == 0


def test_an_empty_mask_changes_nothing_and_a_wrong_one_is_refused() -> None:
    state = random_state(5)
    state.split_long_axis(torch.zeros(5, dtype=torch.bool))
    assert len(state) == 5
    with pytest.raises(ValueError, match="split_long_axis: the mask must be bool of shape"):
        state.split_long_axis(torch.zeros(4, dtype=torch.bool))
