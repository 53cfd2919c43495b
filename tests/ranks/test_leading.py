"""Row operations that rank 0 makes are made on all ranks."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from splatkit_ns.errors import ModuleError
from splatkit_ns.splat import RowChange, SplatTrainingState
from splatkit_ns.splat.leading import led_by
from tests.splat.helpers import make_tensors


class Pair:
    """Two ranks as threads of one process."""

    size = 2

    def __init__(self, rank: int, messages: queue.Queue[Any]) -> None:
        self.rank, self.is_first, self._messages = rank, rank == 0, messages

    def message_of_first(self, message: Any = None) -> Any:
        if self.is_first:
            self._messages.put(message)
            return message
        return self._messages.get(timeout=30)


def run_pair(densify: Callable[[SplatTrainingState, int], None]) -> list[SplatTrainingState]:
    """Run the same function on two ranks with the same Gaussians; their random numbers differ."""
    messages: queue.Queue[Any] = queue.Queue()
    states = [SplatTrainingState.from_tensors(make_tensors(12, seed=1)) for _ in range(2)]
    for state in states:
        for name, optimizer in state.optimizers.items():
            state.params[name].grad = torch.ones_like(state.params[name])
            optimizer.step()
    failures: list[BaseException] = []

    def work(rank: int) -> None:
        try:
            with led_by(Pair(rank, messages), states[rank]), states[rank].track_row_changes():  # type: ignore[arg-type]
                densify(states[rank], rank)
        except BaseException as error:
            failures.append(error)
            messages.put(None)  # the other rank would wait for ever

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if failures:
        raise failures[0]
    return states


def assert_equal(states: list[SplatTrainingState]) -> None:
    first, second = states
    for name in first.params:
        assert torch.equal(first.params[name], second.params[name]), name
        ours, theirs = (s.optimizers[name].state[s.params[name]] for s in states)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


def mask(state: SplatTrainingState, *rows: int) -> torch.Tensor:
    found = torch.zeros(len(state), dtype=torch.bool)
    found[list(rows)] = True
    return found


def on_rank_0_alone(state: SplatTrainingState, rank: int) -> None:
    """As in the document: both masks first."""
    if rank == 0:
        clones, prunes = mask(state, 1, 2), mask(state, 4, 5, 6)
        state.duplicate(clones)
        state.remove(prunes)


def by_what_each_has_seen(state: SplatTrainingState, rank: int) -> None:
    first, second = mask(state, rank, 5), mask(state, 7 + rank)
    state.split(first)  # draws random numbers
    state.remove(second)
    assert len(state) == 13, "later code sees the number that rank 0 has"
    state.limit_opacities(0.3 + rank / 10)


def in_another_order(state: SplatTrainingState, rank: int) -> None:
    if rank == 0:
        state.duplicate(mask(state, 3))
        state.remove(mask(state, 0))
        state.add(torch.zeros(2, 3))
    else:
        state.remove(mask(state, 9))
        state.split_long_axis(mask(state, 2))


def only_on_rank_1(state: SplatTrainingState, rank: int) -> None:
    if rank == 1:
        state.remove(mask(state, 0))


@pytest.mark.parametrize(
    ("densify", "number"),
    [(on_rank_0_alone, 11), (by_what_each_has_seen, 13), (in_another_order, 14), (only_on_rank_1, 12)],
)
def test_all_ranks_have_what_rank_0_made(densify: Callable[..., None], number: int) -> None:
    states = run_pair(densify)
    assert [len(state) for state in states] == [number, number]
    assert_equal(states)


def test_listeners_on_other_ranks_are_told_and_know_the_parents() -> None:
    seen: dict[int, list[RowChange]] = {0: [], 1: []}

    def densify(state: SplatTrainingState, rank: int) -> None:
        state.subscribe(seen[rank].append)
        on_rank_0_alone(state, rank)

    run_pair(densify)
    assert len(seen[0]) == len(seen[1]) == 2
    for ours, theirs in zip(seen[0], seen[1], strict=True):
        assert torch.equal(ours.source, theirs.source)
        assert torch.equal(ours.parents, theirs.parents)


def test_rows_changed_without_a_method_are_refused() -> None:
    from gsplat.strategy.ops import remove

    def densify(state: Any, rank: int) -> None:
        if rank == 0:
            remove(state.params, state.optimizers, {}, mask(state, 3))
            state.duplicate(mask(state, 1))

    with pytest.raises(ModuleError, match="without a method of training_state"):
        run_pair(densify)
