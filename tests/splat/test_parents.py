"""A row change names the row that each new row was made of, and values can follow from parents to children."""

from __future__ import annotations

from typing import Any

import gsplat.strategy.ops as gsplat_ops
import pytest
import torch

from splatkit_ns.densification import SplatMCMCDensification
from splatkit_ns.splat import RowChange, SplatTrainingState
from splatkit_ns.splat.tracking import unique_matches
from tests.densification.helpers import random_state
from tests.splat.helpers import Recorder, make_state, mask_of
from tests.splat.test_tracking import by_gsplat, relocation_on_cpu

__all__ = ["relocation_on_cpu"]  # a fixture


@pytest.mark.parametrize(
    ("operation", "parents"),
    [
        ("duplicate", [0, 1, 2, 3, 0, 2]),
        ("split", [1, 3, 0, 2, 0, 2]),
        ("split_long_axis", [1, 3, 0, 2, 0, 2]),
        ("remove", [1, 3]),
    ],
)
def test_our_operations_name_parents(operation: str, parents: list[int]) -> None:
    state = make_state(4)
    recorder = Recorder(state)
    getattr(state, operation)(mask_of(4, 0, 2))
    (change,) = recorder.changes
    assert change.parents.dtype == torch.int64
    assert change.parents.tolist() == parents
    assert change.inherit(torch.arange(4.0) * 10).tolist() == [10.0 * parent for parent in parents]
    assert state.sh0[:, 0, 0].tolist() == parents, "colours of copies and halves are their parent's"


@pytest.mark.parametrize(
    ("operation", "parents"),
    [("duplicate", [0, 1, 2, 3, 0, 2]), ("split", [1, 3, 0, 2, 0, 2]), ("remove", [1, 3])],
)
def test_gsplats_operations_have_parents(operation: str, parents: list[int]) -> None:
    state = make_state(4)
    recorder = Recorder(state)
    with state.track_row_changes():
        by_gsplat(state, operation, mask_of(4, 0, 2))
    step_colours_away(state)
    assert recorder.changes[0].parents.tolist() == parents


def test_gsplats_relocation_and_growth_have_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gsplat_ops, "_multinomial_sample", lambda weights, n, replacement: torch.tensor([0, 0]))
    state = make_state(5)
    recorder = Recorder(state)
    with state.track_row_changes():
        by_gsplat(state, "relocate", mask_of(5, 1, 4))
    assert recorder.changes[0].parents.tolist() == [0, 0, 2, 3, 0]
    state = make_state(5)
    recorder = Recorder(state)
    with state.track_row_changes():
        by_gsplat(state, "sample_add", mask_of(5, 1, 4))
    assert recorder.changes[0].parents.tolist() == [0, 1, 2, 3, 4, 0, 0]


def step_colours_away(state: SplatTrainingState) -> None:
    """What an optimizer does between a change and the first look at its parents."""
    with torch.no_grad():
        state.params["sh0"] += 1
        state.params["quats"] += 1


def test_mcmc_names_the_gaussians_that_dead_ones_move_to() -> None:
    state = random_state(50)
    with torch.no_grad():
        state.params["opacities"][:5] = -10.0
    before = state.sh0.detach().clone()
    changes: list[RowChange] = []
    state.subscribe(changes.append)
    strategy = SplatMCMCDensification(refine_start_iter=0, refine_every=1, max_gaussians=60, noise_lr=0.0)
    strategy.on_setup(logger=None, training_state=state)
    strategy.densify(1, state)
    relocation, growth = changes
    assert (growth.num_before, growth.num_after) == (50, 52)
    assert bool((relocation.parents[:5] >= 5).all()), "dead ones were made of live ones"
    assert torch.equal(state.sh0.detach(), before[relocation.parents][growth.parents])
    assert torch.equal(growth.inherit(relocation.inherit(before)), before[relocation.parents][growth.parents])


def test_inherit_is_zero_without_a_parent_and_keeps_dtype() -> None:
    change = RowChange(torch.tensor([2, -1, 0, -1]), 3, new_parents=torch.tensor([-1, 1]))
    assert change.parents.tolist() == [2, -1, 0, 1]
    values = torch.tensor([[1, 2], [3, 4], [5, 6]], dtype=torch.int16)
    assert change.inherit(values).tolist() == [[5, 6], [0, 0], [1, 2], [3, 4]]
    assert change.inherit(values).dtype == torch.int16
    assert RowChange(torch.tensor([0, -1]), 1).inherit(torch.ones(1)).tolist() == [1, 0], "no parents are known"
    with pytest.raises(ValueError, match=r"shape \(2,\).*3 rows to 4"):
        change.inherit(torch.zeros(2))
    wrong: Any = RowChange(torch.tensor([0, -1]), 1, new_parents=torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=r"new_parents must have shape \(1,\), found \(2,\)"):
        wrong.inherit(torch.zeros(1))


def test_parents_are_looked_for_only_if_they_are_asked_for() -> None:
    calls: list[int] = []

    def find() -> torch.Tensor:
        calls.append(1)
        return torch.tensor([0])

    change = RowChange(torch.tensor([0, -1]), 1, new_parents=find)
    change.apply(torch.zeros(1))
    assert calls == []
    assert change.parents.tolist() == [0, 0]
    change.inherit(torch.zeros(1))
    assert calls == [1]


def test_a_match_that_is_not_unique_is_none() -> None:
    old = {"quats": torch.tensor([[1.0], [2.0], [1.0], [float("nan")]]), "sh0": torch.zeros(4, 1, 3)}
    new = {"quats": torch.tensor([[2.0], [1.0], [3.0], [float("nan")]]), "sh0": torch.zeros(4, 1, 3)}
    assert unique_matches(old, new).tolist() == [1, -1, -1, 3]
