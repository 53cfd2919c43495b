"""Adding and removing Gaussians: parameters, optimizers and listeners stay in step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from splatkit_ns.splat import RowChange, SplatTrainingState, make_optimizers
from tests.splat.helpers import (
    Recorder,
    assert_rows_followed,
    make_state,
    make_tensors,
    mask_of,
    snapshot,
    step_optimizers,
)


def test_duplicate_appends_copies_with_fresh_optimizer_state() -> None:
    state = make_state(5)
    recorder, before = Recorder(state), snapshot(state)
    state.duplicate(mask_of(5, 1, 3))
    after = snapshot(state)
    assert recorder.sources == [[0, 1, 2, 3, 4, -1, -1]]
    assert_rows_followed(before, after, recorder.changes[0])
    for name in state.params:
        assert torch.equal(after[name][5:], before[name][[1, 3]]), name


def test_split_draws_smaller_gaussians_from_the_old_one() -> None:
    num = 4000
    tensors = {key: value[:1].repeat(num, *[1] * (value.dim() - 1)) for key, value in make_tensors(1).items()}
    tensors["scales"] = torch.tensor([[0.5, 1.0, 2.0]]).log().repeat(num, 1)
    half = math.sqrt(0.5)
    tensors["quats"] = torch.tensor([[half, 0.0, 0.0, half]]).repeat(num, 1) * 3  # 90 degrees about z, not normalised
    state = SplatTrainingState.from_tensors(tensors)
    torch.manual_seed(0)
    state.split(torch.ones(num, dtype=torch.bool))
    assert len(state) == 2 * num
    assert torch.allclose(state.scales, torch.tensor([0.5, 1.0, 2.0]) / 1.6)
    # the rotation exchanges the x and y axes
    spread = (state.means - tensors["means"][0]).std(dim=0)
    assert torch.allclose(spread, torch.tensor([1.0, 0.5, 2.0]), rtol=0.05)
    assert torch.allclose(state.means.mean(dim=0), tensors["means"][0], atol=0.15)
    assert torch.equal(state.params["quats"], tensors["quats"].repeat(2, 1))


def test_split_keeps_the_others_and_replaces_the_masked() -> None:
    state = make_state(4)
    recorder, before = Recorder(state), snapshot(state)
    state.split(mask_of(4, 0, 2))
    assert recorder.sources == [[1, 3, -1, -1, -1, -1]]
    after = snapshot(state)
    assert_rows_followed(before, after, recorder.changes[0])
    assert after["sh0"][:, 0, 0].tolist() == [1, 3, 0, 2, 0, 2]


def test_revised_opacity_keeps_the_density_of_the_pair() -> None:
    state = SplatTrainingState.from_tensors({**make_tensors(3), "opacities": torch.tensor([-20.0, 0.3, 20.0])})
    old = state.opacities.double()
    state.split(torch.ones(3, dtype=torch.bool), revised_opacity=True)
    assert torch.isfinite(state.params["opacities"]).all()
    assert torch.allclose(1 - (1 - state.opacities[:3].double()) ** 2, old, rtol=1e-5, atol=0)


def test_remove_keeps_the_rest_bit_equal() -> None:
    state = make_state(5)
    recorder, before = Recorder(state), snapshot(state)
    state.remove(mask_of(5, 0, 3))
    assert recorder.sources == [[1, 2, 4]]
    assert_rows_followed(before, snapshot(state), recorder.changes[0])


def test_a_mask_per_camera_means_any_camera() -> None:
    state = make_state(4)
    state.remove(torch.tensor([[True, False, False, False], [False, False, True, False]]))
    assert state.sh0[:, 0, 0].tolist() == [1, 3]


def test_parameter_is_replaced_in_its_optimizer_and_step_count_is_kept() -> None:
    state = make_state(3)
    old = dict(state.params)
    state.duplicate(mask_of(3, 0))
    for name, optimizer in state.optimizers.items():
        param = state.params[name]
        assert param is not old[name]
        assert optimizer.param_groups[0]["params"][0] is param
        assert list(optimizer.state) == [param], "the old parameter is forgotten"
        assert float(optimizer.state[param]["step"]) == 1


def test_before_the_first_step_the_optimizer_state_stays_empty() -> None:
    state = make_state(3, stepped=False)
    state.split(mask_of(3, 1))
    assert all(not optimizer.state for optimizer in state.optimizers.values())
    step_optimizers(state)
    assert state.optimizers["means"].state[state.params["means"]]["exp_avg"].shape == (4, 3)


@pytest.mark.parametrize("operation", ["duplicate", "split", "remove"])
def test_an_empty_mask_changes_nothing(operation: str) -> None:
    state = make_state(3)
    recorder, old = Recorder(state), dict(state.params)
    getattr(state, operation)(torch.zeros(3, dtype=torch.bool))
    assert recorder.changes == []
    assert all(state.params[name] is old[name] for name in old)


@pytest.mark.parametrize("operation", ["duplicate", "split", "remove"])
@pytest.mark.parametrize(
    ("mask", "found"),
    [
        (torch.ones(4, dtype=torch.bool), r"torch\.bool of shape \(4,\)"),
        (torch.ones(3), r"torch\.float32 of shape \(3,\)"),
        (torch.tensor([0, 2]), r"torch\.int64 of shape \(2,\)"),
        (torch.ones(3, 2, dtype=torch.bool), r"\(3, 2\)"),
        (torch.tensor(True), r"shape \(\)"),
    ],
)
def test_a_mask_that_does_not_fit_is_an_error(operation: str, mask: torch.Tensor, found: str) -> None:
    state = make_state(3)
    before = snapshot(state)
    advice = "change the number of Gaussians" if mask.dtype == torch.bool else r"mask\[indices\] = True makes one"
    with pytest.raises(ValueError, match=rf"\(3,\), \(3, 1\) or \(C, 3\), found .*{found}.*{advice}"):
        getattr(state, operation)(mask)
    assert all(torch.equal(value, before[key]) for key, value in snapshot(state).items())


def test_removing_everything_reminds_of_logits() -> None:
    state = make_state(7)
    with pytest.raises(ValueError, match=r"all 7 Gaussians.*logits.*training_state\.opacities"):
        state.remove(torch.ones(7, dtype=torch.bool))
    assert len(state) == 7


def test_an_optimizer_of_another_tensor_is_found_before_anything_changes() -> None:
    state = make_state(3)
    state.params["quats"] = nn.Parameter(state.params["quats"].detach().clone())
    before = snapshot(state)
    with pytest.raises(ValueError, match=r"optimizers\['quats'\] trains another tensor"):
        state.duplicate(mask_of(3, 0))
    assert all(torch.equal(value, before[key]) for key, value in snapshot(state).items())


def test_unsubscribed_listeners_hear_nothing() -> None:
    state = make_state(3)
    recorder = Recorder(state)
    state.unsubscribe(recorder)
    state.duplicate(mask_of(3, 0))
    assert recorder.changes == []


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_row_change_carries_tensors_of_any_dtype(dtype: torch.dtype) -> None:
    change = RowChange(source=torch.tensor([2, -1, 0]), num_before=3)
    moved = change.apply(torch.tensor([1, 0, 1]).to(dtype))
    assert moved.dtype == dtype
    assert moved.tolist() == torch.tensor([1, 0, 1]).to(dtype).tolist()
    with pytest.raises(ValueError, match=r"shape \(2,\).*3 rows to 3"):
        change.apply(torch.zeros(2))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), num=st.integers(1, 9), moves=st.booleans())
def test_a_change_that_keeps_the_number_of_rows_is_written_in_place(data: st.DataObject, num: int, moves: bool) -> None:
    """The values are those of `merge` and `apply`, at the addresses that the tensors had."""
    rows = data.draw(st.permutations(range(num))) if moves else range(num)
    source = torch.tensor([-1 if data.draw(st.booleans()) else row for row in rows])
    change = RowChange(source, num)
    state = make_state(num)
    before, places = snapshot(state), {name: param.data_ptr() for name, param in state.params.items()}
    new = {name: param.detach().flip(0)[: change.num_new] for name, param in state.params.items()}
    new["means"] = state.params["means"].detach()[: change.num_new]  # a view
    expected = {name: change.merge(before[name], value.clone()) for name, value in new.items()}
    state.change_rows(change, new)
    for key, value in snapshot(state).items():
        assert torch.equal(value, expected[key] if key in expected else change.apply(before[key])), key
    assert {name: param.data_ptr() for name, param in state.params.items()} == places


OPERATIONS = st.lists(st.tuples(st.sampled_from(["duplicate", "split", "remove", "step"]), st.integers(0, 2**31)))


@settings(max_examples=150, deadline=None)
@given(num=st.integers(1, 8), stepped=st.booleans(), as_module=st.booleans(), operations=OPERATIONS)
def test_any_sequence_of_operations(
    num: int, stepped: bool, as_module: bool, operations: list[tuple[str, int]]
) -> None:
    tensors = make_tensors(num)
    plain = {key: nn.Parameter(value) for key, value in tensors.items()}
    params = nn.ParameterDict(plain) if as_module else plain
    state = SplatTrainingState(params, make_optimizers(params))
    if stepped:
        step_optimizers(state, learning_rate=0.0)
    recorder = Recorder(state)
    ids = list(range(num))
    for operation, seed in operations:
        if operation == "step":
            step_optimizers(state)
            continue
        mask = torch.rand(len(state), generator=torch.Generator().manual_seed(seed)) < 0.4
        if len(state) > 60 and operation != "remove":
            continue
        if operation == "remove" and mask.all():
            continue
        before = snapshot(state)
        getattr(state, operation)(mask)
        chosen = [bool(m) for m in mask]
        kept = [i for i, m in zip(ids, chosen, strict=True) if operation == "duplicate" or not m]
        ids = kept + [-1] * (sum(chosen) * {"duplicate": 1, "split": 2, "remove": 0}[operation])
        assert recorder.ids.tolist() == ids
        if mask.any():
            assert_rows_followed(before, snapshot(state), recorder.changes[-1])
    step_optimizers(state)
    assert all(torch.isfinite(param).all() for param in state.params.values())
    assert {len(param) for param in state.params.values()} == {len(ids)}


def test_activated_values() -> None:
    state = SplatTrainingState.from_tensors({**make_tensors(2), "opacities": torch.tensor([0.0, math.log(3.0)])})
    assert state.opacities.tolist() == pytest.approx([0.5, 0.75])
    assert torch.equal(state.scales, torch.exp(state.params["scales"]))
    assert state.quats.norm(dim=-1).tolist() == pytest.approx([1.0, 1.0])
    assert state.opacities.requires_grad
    assert (len(state), state.sh_degree, state.device) == (2, 1, torch.device("cpu"))


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("opacities", (3, 1), r"opacities must have shape \(3,\), found \(3, 1\)"),
        ("quats", (2, 4), r"quats must have shape \(3, 4\), found \(2, 4\)"),
        ("shN", (3, 4, 3), r"0, 3, 8, 15 coefficients.*found 4"),
    ],
)
def test_shapes_are_checked(key: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplatTrainingState.from_tensors({**make_tensors(3), key: torch.zeros(shape)})


def test_missing_keys_are_named() -> None:
    tensors = make_tensors(3)
    del tensors["sh0"]
    with pytest.raises(ValueError, match=r"\['sh0'\] are missing"):
        SplatTrainingState.from_tensors(tensors)
    params = {key: nn.Parameter(value) for key, value in make_tensors(3).items()}
    with pytest.raises(ValueError, match=r"\['means'\] are missing"):
        SplatTrainingState(params, make_optimizers({k: p for k, p in params.items() if k != "means"}))


def test_learning_rates_are_python_floats_and_checked() -> None:
    import numpy as np

    state = SplatTrainingState.from_tensors(make_tensors(2), learning_rates={"means": np.float64(0.5)})
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in state.optimizers.items()}
    assert type(rates["means"]) is float
    assert rates == {
        "means": 0.5, "scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "sh0": 2.5e-3, "shN": 1.25e-4,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"\['mean'\].*no parameters"):
        SplatTrainingState.from_tensors(make_tensors(2), learning_rates={"mean": 0.5})


@pytest.mark.parametrize(
    ("mask", "found"), [(np.zeros(3, bool), "numpy.ndarray"), ([True, False, True], "list"), (None, "NoneType")]
)
@pytest.mark.parametrize("operation", ["duplicate", "split", "split_long_axis", "remove"])
def test_a_mask_that_is_no_tensor(operation: str, mask: object, found: str) -> None:
    message = rf"{operation}: the mask must be a torch tensor, bool of shape \(3,\), .*an object of type {found}\."
    with pytest.raises(ValueError, match=message):
        getattr(make_state(3), operation)(mask)
