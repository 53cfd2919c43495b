"""New Gaussians at given positions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splatkit_ns.formats.gaussians import SH_C0
from splatkit_ns.splat import SplatTrainingState, make_optimizers
from tests.splat.helpers import Recorder, assert_rows_followed, make_state, make_tensors, snapshot, step_optimizers


def test_given_values_are_those_of_the_new_rows_and_the_others_stay() -> None:
    state = make_state(5)
    recorder, before = Recorder(state), snapshot(state)
    positions = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    state.add(
        positions,
        torch.tensor([[1.0, 0, 0.25], [0.5, 0.5, 0.5]]),
        scales=torch.tensor([0.1, 0.2]),
        quats=torch.tensor([[1.0, 0, 0, 0], [0, 2, 0, 0]]),
        opacities=torch.tensor([0.25, 0.75]),
    )
    assert recorder.sources == [[0, 1, 2, 3, 4, -1, -1]]
    assert recorder.changes[0].parents.tolist() == [0, 1, 2, 3, 4, -1, -1]
    assert_rows_followed(before, snapshot(state), recorder.changes[0])
    assert torch.equal(state.means[5:], positions)
    assert torch.allclose(state.sh0[5:, 0] * SH_C0 + 0.5, torch.tensor([[1.0, 0, 0.25], [0.5, 0.5, 0.5]]))
    assert torch.allclose(state.scales[5:], torch.tensor([[0.1] * 3, [0.2] * 3]))
    assert torch.equal(state.quats[5:], torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]]))
    assert state.opacities[5:].tolist() == pytest.approx([0.25, 0.75])
    assert not state.shN[5:].any()
    step_optimizers(state)
    assert state.optimizers["means"].state[state.params["means"]]["exp_avg"].shape == (7, 3)


def test_defaults_are_grey_faint_and_as_wide_as_the_neighbours_are_far() -> None:
    tensors = make_tensors(3)
    tensors["means"] = torch.tensor([[1.0, 0, 0], [0, 2, 0], [9, 9, 9]])
    state = SplatTrainingState.from_tensors(tensors)
    state.add(torch.tensor([[0.0, 0, 0], [0, 0, 6]]))
    assert not state.sh0[3:].any(), "grey"
    assert state.opacities[3:].tolist() == pytest.approx([0.1, 0.1])
    assert state.scales[3].tolist() == pytest.approx([(1 + 2 + 6) / 3] * 3), "the other new one counts"
    second = (6 + math.sqrt(37) + math.sqrt(40)) / 3
    assert state.scales[4].tolist() == pytest.approx([second] * 3)
    assert state.quats[3:].norm(dim=-1).tolist() == pytest.approx([1, 1])
    assert not torch.equal(state.quats[3], state.quats[4]), "drawn at random"


def test_axes_are_the_worlds_if_three_scales_are_given() -> None:
    state = make_state(3)
    state.add(torch.zeros(1, 3), scales=torch.tensor([[1.0, 2.0, 3.0]]), opacities=0.5)
    assert state.quats[3].tolist() == [1, 0, 0, 0]
    assert state.scales[3].tolist() == pytest.approx([1, 2, 3])
    assert float(state.opacities[3]) == pytest.approx(0.5)


def test_a_gaussian_that_is_not_finite_is_no_neighbour() -> None:
    tensors = make_tensors(2)
    tensors["means"] = torch.tensor([[float("nan"), 0, 0], [0, 3, 0]])
    state = SplatTrainingState.from_tensors(tensors)
    state.add(torch.zeros(1, 3))
    assert state.scales[2].tolist() == pytest.approx([3.0] * 3)


def test_further_parameters_start_at_zero_unless_given() -> None:
    tensors = {**make_tensors(3), "features": torch.ones(3, 8), "weight": torch.ones(3)}
    params = {name: nn.Parameter(value) for name, value in tensors.items()}
    rates = {"features": 1e-3, "weight": 1e-3}
    state = SplatTrainingState(params, make_optimizers(params, rates))
    state.add(torch.zeros(2, 3), features=torch.full((2, 8), 5.0), shN=torch.full((2, 3, 3), 0.5))
    assert state.params["features"][3:].unique().tolist() == [5]
    assert state.params["shN"][3:].unique().tolist() == [0.5]
    assert state.params["weight"].tolist() == [1, 1, 1, 0, 0]


def test_nothing_to_add_changes_nothing() -> None:
    state = make_state(3)
    recorder = Recorder(state)
    state.add(torch.zeros(0, 3), torch.zeros(0, 3))
    state.add(torch.zeros(0, 3))
    assert recorder.changes == []


def test_masks_made_before_do_not_select_what_was_added() -> None:
    state = make_state(3)
    mask = torch.ones(3, dtype=torch.bool)
    with state.track_row_changes():
        state.add(torch.tensor([[7.0, 7, 7]]))
        state.remove(mask)
    assert state.means.tolist() == [[7, 7, 7]]


def test_discs_stay_discs() -> None:
    state = make_state(3)
    state.make_flat()
    state.add(torch.zeros(1, 3), scales=torch.ones(1, 3))
    assert state.params["scales"][3, 2] == state.params["scales"][0, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positions": torch.zeros(3)}, r"positions must have shape \(M, 3\), found \(3,\)"),
        ({"positions": [[0, 0, 0]]}, r"positions must be a tensor of shape \(M, 3\), found an object of type list"),
        ({"positions": torch.tensor([[0.0, 0, 0], [0, float("inf"), 0]])}, r"positions must be finite; 1 of 2.*row 1"),
        ({"colors": torch.zeros(3, 3)}, r"colors must have shape \(2, 3\).*found \(3, 3\)"),
        ({"colors": torch.full((2, 3), 255.0)}, r"colors must lie in 0\.\.1.*divide"),
        ({"scales": torch.ones(2, 2)}, r"scales must have shape \(2,\) or \(2, 3\), found \(2, 2\)"),
        ({"scales": torch.tensor([1.0, -1.0])}, r"scales are standard deviations.*found -1.*logarithms"),
        ({"scales": torch.tensor([1.0, float("nan")])}, r"scales are standard deviations"),
        ({"quats": torch.zeros(2, 3)}, r"quats must have shape \(2, 4\).*found \(2, 3\)"),
        ({"opacities": 1.0}, r"opacities must lie between 0 and 1.*from 1 to 1.*logits"),
        ({"opacities": torch.tensor([0.5, float("nan")])}, "opacities must lie between 0 and 1"),
        ({"opacities": torch.tensor([0.5])}, r"opacities must have shape \(2,\).*found \(1,\)"),
        ({"shN": torch.zeros(2, 8, 3)}, r"shN must have shape \(2, 3, 3\).*found \(2, 8, 3\)"),
        ({"shN": torch.full((2, 3, 3), float("nan"))}, "shN must be finite; 2 of 2 rows"),
        ({"feature": torch.zeros(2)}, r"'feature' is no further parameter.*there are: shN\."),
        ({"sh0": torch.zeros(2, 1, 3)}, r"'sh0' is no further parameter.*Use colors\."),
        ({"means": torch.zeros(2, 3)}, r"'means' is no further parameter.*Use positions\."),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_changes(arguments: dict[str, Any], message: str) -> None:
    state = make_state(3)
    before: dict[str, Tensor] = snapshot(state)
    with pytest.raises(ValueError, match=rf"{message}"):
        state.add(**{"positions": torch.zeros(2, 3), **arguments})
    assert all(torch.equal(value, before[key]) for key, value in snapshot(state).items())
