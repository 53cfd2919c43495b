"""Row operations that rank 0 makes and all ranks have."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from splatkit_ns.errors import ModuleError
from splatkit_ns.ranks import Ranks
from splatkit_ns.splat.rows import RowChange

Operation = TypeVar("Operation", bound=Callable[..., None])

END = "end"
"""The name of the message that no operation follows any more."""


class Led(Protocol):
    """The Gaussians of a rank, `row_operations.GaussianRows`."""

    leader: RowLeader | None

    @property
    def device(self) -> torch.device: ...

    def change_rows(self, change: RowChange, new_rows: Mapping[str, Tensor]) -> None: ...

    def limit_opacities(self, highest: float) -> None: ...


class Made(NamedTuple):
    """An operation that rank 0 has made."""

    name: str
    """The method, or `END`."""
    changes: Sequence[tuple[Tensor, int, Tensor, dict[str, Tensor]]] = ()
    """The changes of rows: source, number of rows before, parents of the new rows, and their values, on the CPU."""
    highest_opacity: float | None = None
    """The limit of `limit_opacities`."""


class RowLeader:
    """Makes the row operations of rank 0 those of all ranks.

    Rank 0 sends each operation with the rows that came out of it. Another rank that calls an operation makes rank 0's
    in place of its own: those up to the next of the same name, or none if rank 0 has made no such operation. At the end
    of the block every rank has made all of them. So it makes no difference whether rank 0 alone changes rows, or all
    ranks do, each by what it has seen of the scene.

    Args:
        ranks: the ranks of this run.
        state: the Gaussians of this rank.
    """

    def __init__(self, ranks: Ranks, state: Led) -> None:
        self._ranks, self._state = ranks, state
        self._changes: list[tuple[Tensor, int, Tensor, dict[str, Tensor]]] | None = None
        """The changes of the operation that is under way."""
        self._has_ended = self._is_following = False

    def operate(self, name: str, operation: Callable[[], None], highest_opacity: float | None) -> None:
        """Make an operation: this rank's on rank 0, rank 0's on the others.

        Args:
            name: the method of the state.
            operation: makes the operation in this process.
            highest_opacity: the limit of `limit_opacities`.
        """
        if self._is_following or self._changes is not None:  # a part of another operation
            operation()
        elif self._ranks.is_first:
            self._changes = []
            try:
                operation()
                self._ranks.message_of_first(Made(name, self._changes, highest_opacity))
            finally:
                self._changes = None
        else:
            self._follow(name)

    def note(self, change: RowChange, new_rows: Mapping[str, Tensor]) -> None:
        """Take a change of rows that has been made for the operation under way."""
        if self._changes is not None:
            parents = change.parents[change.source < 0]
            rows = {name: value.detach().cpu() for name, value in new_rows.items()}
            self._changes.append((change.source.cpu(), change.num_before, parents.cpu(), rows))

    def refuse(self) -> None:
        """Refuse a change of rows that was not made by a method of the state.

        Raises:
            ModuleError: always.
        """
        raise ModuleError(
            "Rows of params were changed without a method of training_state, which other ranks cannot follow. Use "
            "training_state.duplicate, split, remove, add or change_rows, or train in one process."
        )

    def end(self) -> None:
        """Make on this rank what rank 0 has made and this rank has not."""
        if self._ranks.is_first:
            self._ranks.message_of_first(Made(END))
        elif not self._has_ended:
            self._follow(END)

    def _follow(self, name: str) -> None:
        """Make the operations of rank 0 up to the next of this name, unless there are no more."""
        while not self._has_ended:
            made: Made = self._ranks.message_of_first()
            self._has_ended = made.name == END
            self._is_following = True
            try:
                self._repeat(made)
            finally:
                self._is_following = False
            if made.name == name:
                return

    def _repeat(self, made: Made) -> None:
        state = self._state
        for source, num_before, parents, rows in made.changes:
            change = RowChange(source.to(state.device), num_before, new_parents=parents.to(state.device))
            state.change_rows(change, {name: value.to(state.device) for name, value in rows.items()})
        if made.highest_opacity is not None:
            state.limit_opacities(made.highest_opacity)


def followed(operation: Operation) -> Operation:
    """Let a method of `GaussianRows` be made on all ranks as on rank 0, within `led_by`."""

    @functools.wraps(operation)
    def call(self: Led, *args: Any, **kwargs: Any) -> None:
        leader = self.leader
        if leader is None:
            operation(self, *args, **kwargs)
            return
        highest = (kwargs.get("highest") or args[0]) if operation.__name__ == "limit_opacities" else None
        leader.operate(operation.__name__, lambda: operation(self, *args, **kwargs), highest)

    return call  # type: ignore[return-value]


@contextmanager
def led_by(ranks: Ranks, state: Led) -> Generator[None]:
    """Let all ranks have the row operations that rank 0 makes in the block, which all ranks run.

    Args:
        ranks: the ranks of this run.
        state: the Gaussians of this rank.

    Raises:
        RankLost: another rank has ended.
        ModuleError: rows were changed in another way than by a method of the state.
    """
    if ranks.size == 1:
        yield
        return
    leader = state.leader = RowLeader(ranks, state)
    try:
        yield
        leader.end()
    finally:
        state.leader = None
