"""Row changes made by gsplat's own operations are noticed and told exactly once."""

from __future__ import annotations

from collections import defaultdict
from copy import deepcopy
from typing import Any

import gsplat.strategy.ops as gsplat_ops
import pytest
import torch
from gsplat.strategy import DefaultStrategy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splatkit_ns.errors import ModuleError
from splatkit_ns.splat import SplatTrainingState
from splatkit_ns.splat.tracking import MARKER
from tests.splat.helpers import Recorder, assert_rows_followed, make_state, snapshot, step_optimizers

BINOMS = torch.ones(51, 51)


def half_size(opacities: Tensor, scales: Tensor, ratios: Tensor, binoms: Tensor) -> tuple[Tensor, Tensor]:
    """Stands in for gsplat's CUDA function; what it computes is of no interest here."""
    return opacities / 2, scales / 2


@pytest.fixture(autouse=True)
def relocation_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gsplat_ops, "compute_relocation", half_size)


def by_gsplat(state: SplatTrainingState, operation: str, mask: Tensor, extra: dict[str, Tensor] | None = None) -> None:
    arguments = {"params": state.params, "optimizers": state.optimizers, "state": {} if extra is None else extra}
    if operation == "reset_opa":
        gsplat_ops.reset_opa(**arguments, value=0.01)
    elif operation == "relocate":
        gsplat_ops.relocate(**arguments, mask=mask, binoms=BINOMS)
    elif operation == "sample_add":
        gsplat_ops.sample_add(**arguments, n=int(mask.sum()), binoms=BINOMS)
    else:
        getattr(gsplat_ops, operation)(**arguments, mask=mask)


def assert_no_marks(state: SplatTrainingState) -> None:
    for optimizer in state.optimizers.values():
        assert all(MARKER not in entries for entries in optimizer.state.values())


@pytest.mark.parametrize("stepped", [False, True])
@pytest.mark.parametrize(
    ("operation", "source"),
    [
        ("duplicate", [0, 1, 2, 3, -1, -1]),
        ("split", [1, 3, -1, -1, -1, -1]),
        ("remove", [1, 3]),
        ("sample_add", [0, 1, 2, 3, -1, -1]),
    ],
)
def test_each_operation(operation: str, source: list[int], stepped: bool) -> None:
    state = make_state(4, stepped=stepped)
    recorder, before = Recorder(state), snapshot(state)
    with state.track_row_changes():
        by_gsplat(state, operation, torch.tensor([True, False, True, False]))
    assert recorder.sources == [source]
    # MCMC's sample_add shrinks the Gaussians that it samples, and keeps their optimizer state
    assert_rows_followed(before, snapshot(state), recorder.changes[0], but=("opacities", "scales"))
    assert_no_marks(state)
    if not stepped:
        assert all(not entries for optimizer in state.optimizers.values() for entries in optimizer.state.values())
    step_optimizers(state)
    assert state.optimizers["means"].state[state.params["means"]]["exp_avg"].shape == (len(source), 3)


def test_relocation_rewrites_the_dead_and_the_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gsplat_ops, "_multinomial_sample", lambda weights, n, replacement: torch.tensor([0, 0]))
    state = make_state(5)
    recorder, before = Recorder(state), snapshot(state)
    with state.track_row_changes():
        by_gsplat(state, "relocate", torch.tensor([False, True, False, False, True]))
    assert recorder.sources == [[-1, -1, 2, 3, -1]]
    after = snapshot(state)
    for name in state.params:
        assert torch.equal(after[name][[2, 3]], before[name][[2, 3]]), name
        assert torch.equal(after[name][[1, 4]], after[name][[0, 0]]), name


def test_resetting_opacities_or_moving_means_is_no_change_of_rows() -> None:
    state = make_state(4)
    recorder = Recorder(state)
    with state.track_row_changes():
        by_gsplat(state, "reset_opa", torch.zeros(4))
        state.params["means"].data += 1
    assert recorder.changes == []
    assert_no_marks(state)


def test_without_changes_the_optimizer_is_as_before() -> None:
    for stepped in (False, True):
        state = make_state(4, stepped=stepped)
        before = {name: optimizer.state_dict() for name, optimizer in state.optimizers.items()}
        with state.track_row_changes():
            pass
        after = {name: optimizer.state_dict() for name, optimizer in state.optimizers.items()}
        assert str(after) == str(before)


def test_marks_are_exact_beyond_float32() -> None:
    """gsplat appends float32 zeros: row numbers above 2**24 must not be rounded by it."""
    state = make_state(4)
    with state.track_row_changes():
        by_gsplat(state, "duplicate", torch.tensor([True, False, False, False]))
        marks = state.optimizers["means"].state[state.params["means"]][MARKER]
        assert torch.finfo(marks.dtype).eps <= 2**-32


def test_an_exception_in_the_block_passes_and_leaves_no_marks() -> None:
    state = make_state(4)
    recorder = Recorder(state)

    def remove_and_fail() -> None:
        with state.track_row_changes():
            by_gsplat(state, "remove", torch.tensor([True, False, False, False]))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        remove_and_fail()
    assert recorder.sources == [[1, 2, 3]], "what had changed until then is told"
    assert_no_marks(state)
    state.duplicate(torch.tensor([True, False, False]))
    assert len(recorder.changes) == 2


def cut_without_optimizer_state(state: SplatTrainingState) -> None:
    """Keep the first two rows of all parameters, and leave the optimizers' state as it was."""
    for name in state.params:
        state.params[name] = torch.nn.Parameter(state.params[name].detach()[:2])


def test_rows_changed_without_their_optimizer_state_are_an_error() -> None:
    state = make_state(4)

    def replace_parameters() -> None:
        with state.track_row_changes():
            cut_without_optimizer_state(state)

    with pytest.raises(ModuleError, match=r"optimizers\['means'\], found none"):
        replace_parameters()
    assert_no_marks(state)


def test_the_exception_of_the_block_says_more_than_rows_without_their_optimizer_state() -> None:
    state = make_state(4)

    def replace_parameters_and_fail() -> None:
        with state.track_row_changes():
            cut_without_optimizer_state(state)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        replace_parameters_and_fail()
    assert_no_marks(state)


def test_nothing_is_marked_or_copied_until_a_state_is_asked_for() -> None:
    state = make_state(4)
    optimizer, param = state.optimizers["quats"], state.params["means"]
    states = {name: each.state for name, each in state.optimizers.items()}
    with state.track_row_changes():
        assert MARKER not in dict(state.optimizers["means"].state)[param]
        assert MARKER not in state.optimizers["means"].state_dict()["state"][0], "nor in checkpoints"
        assert optimizer.state[state.params["quats"]]["exp_avg"].shape == (4, 4)
        assert MARKER in state.optimizers["means"].state[param]
    assert_no_marks(state)
    assert all(each.state is states[name] for name, each in state.optimizers.items())
    assert type(optimizer.state) is defaultdict


@pytest.mark.parametrize("operation", ["duplicate", "split", "remove", "relocate", "sample_add"])
@pytest.mark.parametrize("first", ["means", "quats", "sh0"])
def test_parameters_may_be_replaced_before_their_state_is_asked_for(
    operation: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As gsplat does since 1.5, whatever the order of the parameters."""

    def as_since_1_5(param_fn: Any, optimizer_fn: Any, params: Any, optimizers: Any, names: Any = None) -> None:
        for name in sorted(names or params, key=lambda name: name != first):
            with torch.no_grad():
                before, params[name] = params[name], param_fn(name, params[name])
                entries = optimizers[name].state[before]
                del optimizers[name].state[before]
                entries.update({key: optimizer_fn(key, entry) for key, entry in entries.items() if key != "step"})
                optimizers[name].param_groups[0]["params"] = [params[name]]
                optimizers[name].state[params[name]] = entries

    mask = torch.tensor([True, False, True, False, False])
    monkeypatch.setattr(gsplat_ops, "_multinomial_sample", lambda weights, n, replacement: torch.tensor([1, 1]))
    sources: list[list[list[int]]] = []
    for patched in (False, True):
        if patched:
            monkeypatch.setattr(gsplat_ops, "_update_param_with_optimizer", as_since_1_5)
        state = make_state(5)
        recorder = Recorder(state)
        with state.track_row_changes():
            by_gsplat(state, operation, mask)
        assert_no_marks(state)
        sources.append(recorder.sources)
    assert sources[0] == sources[1]
    assert len(sources[0]) == 1


def test_an_optimizer_copied_in_the_block_is_a_plain_one() -> None:
    state = make_state(4)
    with state.track_row_changes():
        copied = deepcopy(state.optimizers["quats"])
    assert type(copied.state) is defaultdict
    assert next(iter(copied.state.values()))["exp_avg"].shape == (4, 4)


def test_nested_blocks_tell_each_change_once() -> None:
    state = make_state(4)
    recorder = Recorder(state)
    with state.track_row_changes():
        with state.track_row_changes():
            by_gsplat(state, "remove", torch.tensor([True, False, False, False]))
        assert recorder.sources == [[1, 2, 3]], "at the end of the inner block"
        by_gsplat(state, "remove", torch.tensor([True, False, False]))
        with state.track_row_changes():
            assert len(recorder.sources) == 2, "before the inner block"
    assert recorder.sources == [[1, 2, 3], [1, 2]]
    assert_no_marks(state)


def test_gsplat_default_strategy_keeps_a_listener_in_step() -> None:
    """The strategy's own statistics are carried along by gsplat; ours must arrive at the same rows."""
    state = make_state(40)
    strategy = DefaultStrategy(refine_start_iter=0, refine_every=1, reset_every=10, prune_opa=0.3)
    strategy.check_sanity(state.params, state.optimizers)
    strategy_state = strategy.initialize_state(scene_scale=1.0)
    strategy_state["tag"] = torch.arange(40.0)
    recorder = Recorder(state)
    strategy_state["grad2d"] = torch.linspace(0, 1e-3, 40)
    strategy_state["count"] = torch.ones(40)
    with state.track_row_changes():
        strategy._grow_gs(state.params, state.optimizers, strategy_state, 1)
        strategy._prune_gs(state.params, state.optimizers, strategy_state, 1)
    assert len(recorder.changes) == 1
    kept = recorder.ids >= 0
    assert 0 < kept.sum() < 40
    assert torch.equal(recorder.ids[kept].float(), strategy_state["tag"][kept])
    assert torch.equal(recorder.ids[kept].float(), state.sh0[kept, 0, 0])


BLOCKS = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(["duplicate", "split", "remove", "reset_opa", "sample_add"]),
            st.booleans(),
            st.integers(0, 2**31),
        ),
        max_size=4,
    ),
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(num=st.integers(1, 8), stepped=st.booleans(), blocks=BLOCKS)
def test_any_mix_of_gsplats_operations_and_ours(
    num: int, stepped: bool, blocks: list[list[tuple[str, bool, int]]]
) -> None:
    state = make_state(num, stepped=stepped)
    recorder = Recorder(state)
    for block in blocks:
        expected: list[list[int]] = []
        first = len(recorder.changes)
        rows = list(range(len(state)))

        def flush(rows: list[int], num_before: int, expected: list[list[int]] = expected) -> list[int]:
            if rows != list(range(num_before)):
                expected.append(rows)
            return list(range(len(rows)))

        num_before = len(rows)
        with state.track_row_changes():
            for operation, ours, seed in block:
                mask = torch.rand(len(state), generator=torch.Generator().manual_seed(seed)) < 0.4
                grows = operation in ("duplicate", "split", "sample_add")
                if mask.all() or not mask.any() or (grows and len(state) > 60):
                    continue
                ours = ours and operation in ("duplicate", "split", "remove")
                if ours:
                    rows = flush(rows, num_before)
                    num_before = len(rows)
                    getattr(state, operation)(mask, is_current=True)
                else:
                    by_gsplat(state, operation, mask)
                rows = expected_rows(operation, rows, mask.tolist())
                if ours:
                    rows = flush(rows, num_before)
                    num_before = len(rows)
        flush(rows, num_before)
        assert recorder.sources[first:] == expected
        assert_no_marks(state)
        assert len(recorder.ids) == len(state)
        kept = recorder.ids >= 0
        assert torch.equal(state.sh0[kept, 0, 0], recorder.ids[kept].float())
        assert {len(value) for value in snapshot(state).values()} == {len(state)}
        step_optimizers(state, learning_rate=0.0)


def expected_rows(operation: str, rows: list[int], chosen: list[bool]) -> list[int]:
    """What gsplat documents that each operation does to the rows."""
    if operation == "reset_opa":
        return rows
    kept = [row for row, m in zip(rows, chosen, strict=True) if operation in ("duplicate", "sample_add") or not m]
    return kept + [-1] * (sum(chosen) * {"duplicate": 1, "sample_add": 1, "split": 2, "remove": 0}[operation])


@pytest.mark.parametrize("tracked", [False, True])
def test_gradients_that_are_being_summed_up_follow(tracked: bool) -> None:
    state = make_state(4)
    state.keep_gradients_of({"shN", "opacities"})
    for param in state.params.values():
        param.grad = torch.ones_like(param) * torch.arange(1.0, 5.0).view(4, *[1] * (param.dim() - 1))
    with state.track_row_changes():
        if tracked:
            by_gsplat(state, "reset_opa", torch.ones(4, dtype=torch.bool))
        state.duplicate(torch.tensor([False, True, False, False]))
        mask = torch.tensor([True, False, False, True, False])
        if tracked:
            by_gsplat(state, "remove", mask)
            by_gsplat(state, "reset_opa", torch.ones(3, dtype=torch.bool))
        else:
            state.remove(mask)
    for name, param in state.params.items():
        if name in ("shN", "opacities"):
            assert param.grad is not None
            assert param.grad.flatten(1 if param.dim() > 1 else 0).reshape(3, -1)[:, 0].tolist() == [2.0, 3.0, 0.0], (
                name
            )
        else:
            assert param.grad is None, name


def test_gradients_survive_an_opacity_reset_alone() -> None:
    state = make_state(4)
    state.keep_gradients_of({"opacities"})
    state.params["opacities"].grad = torch.arange(4.0)
    with state.track_row_changes():
        by_gsplat(state, "reset_opa", torch.ones(4, dtype=torch.bool))
    assert torch.equal(state.params["opacities"].grad, torch.arange(4.0))


def test_rows_that_are_cut_in_place_are_refused_because_no_optimizer_follows() -> None:
    state = make_state(4)
    with pytest.raises(ModuleError, match=r"row marks of shape \(2,\).* found none\. Use"), state.track_row_changes():
        state.params["means"].data = state.params["means"].data[:2]
