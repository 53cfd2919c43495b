"""Masks that were made before an operation mean the Gaussians that they were made for."""

from __future__ import annotations

import logging

import gsplat.strategy.ops as gsplat_ops
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splatkit_ns.splat import RowChange, SplatTrainingState
from splatkit_ns.splat.masks import masked_rows
from tests.splat.helpers import Recorder, make_state, mask_of


def ids(state: SplatTrainingState) -> list[int]:
    """The Gaussian that each row shows, by the colours of `make_tensors`; copies and halves show their original."""
    return [int(value) for value in state.sh0[:, 0, 0]]


def test_three_masks_made_before_three_operations() -> None:
    state = make_state(6)
    splits, clones, prunes = mask_of(6, 0, 1), mask_of(6, 2, 3), mask_of(6, 1, 3, 4)
    with state.track_row_changes():
        state.split(splits)
        assert ids(state) == [2, 3, 4, 5, 0, 1, 0, 1]
        state.duplicate(clones)
        assert ids(state) == [2, 3, 4, 5, 0, 1, 0, 1, 2, 3]
        state.remove(prunes)
    assert ids(state) == [2, 5, 0, 1, 0, 1, 2, 3], "3 and 4 go; 1 was split, and the copy of 3 is new"


def test_masks_made_before_and_after_can_be_mixed() -> None:
    state = make_state(5)
    old = mask_of(5, 4)
    with state.track_row_changes():
        state.remove(mask_of(5, 0, 1))
        between = mask_of(3, 0)
        state.duplicate(between)
        state.duplicate(between[None])
        state.split(mask_of(5, 3), is_current=True)  # the copy that was made first
        assert ids(state) == [2, 3, 4, 2, 2, 2]
        state.remove(mask_of(6, 1))
        state.remove(between)
    assert ids(state) == [4, 2, 2, 2]
    with state.track_row_changes(), pytest.raises(ValueError, match=r"shape \(4,\).*found torch\.bool of shape \(5,\)"):
        state.remove(old)


def test_a_mask_follows_what_gsplat_does_in_between() -> None:
    state = make_state(4)
    mask = mask_of(4, 2)
    with state.track_row_changes():
        gsplat_ops.remove(params=state.params, optimizers=state.optimizers, state={}, mask=mask_of(4, 0))
        state.remove(mask)
    assert ids(state) == [1, 3]


def test_outside_a_block_only_the_present_number_counts() -> None:
    state = make_state(4)
    with state.track_row_changes():
        state.duplicate(mask_of(4, 0))
    with pytest.raises(ValueError, match=r"bool of shape \(5,\), \(5, 1\) or \(C, 5\), .*make each mask after"):
        state.remove(mask_of(4, 1))
    with state.track_row_changes(), pytest.raises(ValueError, match="make each mask after the operation before it"):
        state.remove(mask_of(4, 1))


def test_an_ambiguous_length_is_an_error_unless_all_readings_agree() -> None:
    state = make_state(6)
    with state.track_row_changes():
        state.remove(mask_of(6, 0, 1))
        state.duplicate(mask_of(4, 2, 3))
        assert ids(state) == [2, 3, 4, 5, 4, 5]
        with pytest.raises(
            ValueError, match=r"length 6 is ambiguous.*6, 4, 6 in turn.*\(1, 2 of those.*is_current=Tru"
        ):
            state.remove(mask_of(6, 1, 2))
        assert ids(state) == [2, 3, 4, 5, 4, 5]
        state.remove(mask_of(6, 1, 2), is_current=True)
    assert ids(state) == [2, 5, 4, 5]
    state = make_state(4)
    with state.track_row_changes():
        state.duplicate(mask_of(4, 0))
        state.remove(mask_of(5, 4))
        state.remove(mask_of(4, 3))  # before and after, row 3 is the same Gaussian
    assert ids(state) == [0, 1, 2]


def test_is_current_refuses_a_mask_of_an_earlier_length() -> None:
    state = make_state(4)
    with state.track_row_changes():
        state.duplicate(mask_of(4, 0))
        for operation in (state.duplicate, state.split, state.split_long_axis, state.remove):
            with pytest.raises(ValueError, match=r"shape \(5,\).*found torch\.bool of shape \(4,\)"):
                operation(mask_of(4, 1), is_current=True)


def test_a_length_that_never_was_names_those_that_were() -> None:
    state = make_state(4)
    with state.track_row_changes():
        state.duplicate(mask_of(4, 0))
        with pytest.raises(ValueError, match=r"split: .* \(5,\).*found torch\.bool of shape \(7,\).*was 4, 5 in turn"):
            state.split(mask_of(7, 1))


def test_a_block_forgets_the_operations_of_the_one_before_even_if_it_failed() -> None:
    state = make_state(4)

    def duplicate_and_fail() -> None:
        with state.track_row_changes():
            state.duplicate(mask_of(4, 0))
            raise KeyError("mine")

    with pytest.raises(KeyError):
        duplicate_and_fail()
    with pytest.raises(ValueError, match=r"found torch\.bool of shape \(4,\)"):
        state.remove(mask_of(4, 1))


@pytest.mark.parametrize("shape", [(4, 1), (1, 4), (3, 4)])
def test_masks_of_two_dimensions(shape: tuple[int, int]) -> None:
    state = make_state(4)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[2] = True
    with state.track_row_changes():
        state.duplicate(mask)
        state.remove(mask)
    assert ids(state) == [0, 1, 3, 2]


def test_cameras_that_see_a_single_gaussian() -> None:
    assert masked_rows(torch.tensor([[False], [True], [False]]), "remove", 1).tolist() == [0]


OPERATIONS = st.tuples(st.sampled_from(["duplicate", "split", "remove"]), st.integers(0, 2**31))


@settings(max_examples=200, deadline=None)
@given(num=st.integers(1, 8), operations=st.lists(OPERATIONS, max_size=5), seed=st.integers(0, 2**31))
def test_a_followed_mask_selects_the_same_gaussians_or_is_refused(
    num: int, operations: list[tuple[str, int]], seed: int
) -> None:
    """Checked against identities that a listener carries along."""
    state = make_state(num, stepped=False)
    recorder = Recorder(state)
    mask = torch.rand(num, generator=torch.Generator().manual_seed(seed)) < 0.5
    marked = set(mask.nonzero()[:, 0].tolist())
    with state.track_row_changes():
        for operation, operation_seed in operations:
            now = torch.rand(len(state), generator=torch.Generator().manual_seed(operation_seed)) < 0.4
            if not (operation == "remove" and now.all()):
                getattr(state, operation)(now, is_current=True)
        lengths = [*(change.num_before for change in recorder.changes), len(state)]
        expected = [row in marked for row in recorder.ids.tolist()]
        if lengths[-1] == num and expected != mask.tolist():
            with pytest.raises(ValueError, match="ambiguous"):
                masked_rows(mask, "remove", len(state), recorder.changes)
        elif lengths.count(num) == 1:
            rows = masked_rows(mask, "remove", len(state), recorder.changes)
            assert [row in rows.tolist() for row in range(len(state))] == expected


def test_a_row_change_of_the_users_own_is_followed() -> None:
    state = make_state(3)
    with state.track_row_changes():
        state.change_rows(RowChange(torch.tensor([2, 0]), 3), {})
        state.remove(mask_of(3, 0))
    assert ids(state) == [2]


def test_removing_most_of_the_scene_warns_once_with_numbers(caplog: pytest.LogCaptureFixture) -> None:
    state = make_state(100)
    with caplog.at_level(logging.WARNING, "splatkit_ns"):
        state.remove(torch.arange(100) < 50)
        assert caplog.messages == [], "half is not most"
        state.remove(torch.arange(50) < 26)
        state.remove(torch.arange(24) < 20)
    (message,) = caplog.messages
    assert "26 of 50 Gaussians" in message
    assert 'params["opacities"] holds logits' in message


def test_a_handful_goes_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    state = make_state(11)
    with caplog.at_level(logging.WARNING, "splatkit_ns"):
        state.remove(torch.arange(11) < 10)
    assert caplog.messages == []
    state = make_state(12)
    with caplog.at_level(logging.WARNING, "splatkit_ns"):
        state.remove(torch.arange(12) < 11)
    assert len(caplog.messages) == 1
