"""The one place where rows of parameters and of their optimizers' state are added, dropped and rewritten.

A row is one Gaussian. Every operation on rows is described by a `RowChange`, which holds the source of each new row.
Code that keeps a tensor with one entry per Gaussian updates it with `RowChange.apply`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

REWRITTEN = -1
"""Entry of `RowChange.source` for a row that is new, or holds another Gaussian than before."""

Params = MutableMapping[str, nn.Parameter]
Optimizers = Mapping[str, Optimizer]


class _Parts(NamedTuple):
    """The source of the kept rows, and the places of kept and new rows, or None if all new rows come last."""

    kept_source: Tensor
    positions: tuple[Tensor, Tensor] | None


@dataclass(frozen=True, eq=False)
class RowChange:
    """A change of rows: the old row that each row still is, and the old row that each new row was made of."""

    source: Tensor
    """(N_after,) int64: the index, before the change, of the Gaussian that this row still is; -1 if the row is new."""
    num_before: int
    """The number of rows before the change."""
    new_parents: Tensor | Callable[[], Tensor] | None = None
    """(num_new,) int64: for each new row, in their order, the index before the change of the row that it was made of,
    -1 if there is none; or a function that finds them, called at most once. None: no new row has a known parent."""

    @property
    def num_after(self) -> int:
        """The number of rows after the change."""
        return int(self.source.shape[0])

    @property
    def num_new(self) -> int:
        """The number of rows that are new or rewritten."""
        return len(self._new_places)

    @cached_property
    def _new_places(self) -> Tensor:
        """The rows that are new or rewritten, in ascending order."""
        return (self.source < 0).nonzero(as_tuple=True)[0]

    @cached_property
    def _stays_in_place(self) -> bool:
        """Whether every row that is kept stays where it is, and none is added."""
        if self.num_after != self.num_before:
            return False
        rows = torch.arange(self.num_before, device=self.source.device)
        return bool(((self.source == rows) | (self.source < 0)).all())

    def apply(self, tensor: Tensor, fill: float | int | bool = 0) -> Tensor:
        """Apply the change to a per-Gaussian tensor: kept rows keep their values, new rows get `fill`.

        Args:
            tensor: (num_before, ...), on any device.
            fill: the value of the rows that are new or rewritten.

        Returns:
            (num_after, ...), a new tensor of the same dtype and device.

        Raises:
            ValueError: the tensor does not have `num_before` rows.
        """
        return self.merge(tensor, tensor.new_full((self.num_new, *tensor.shape[1:]), fill))

    def merge(self, tensor: Tensor, new_rows: Tensor) -> Tensor:
        """Do the same as `apply`, with a value for each new row.

        Args:
            tensor: (num_before, ...), on any device.
            new_rows: (num_new, ...), in the order of the new rows; the same dtype and device.

        Raises:
            ValueError: the tensor does not have `num_before` rows.
        """
        self._check_rows_before(tensor)
        parts = self._parts
        kept = tensor.index_select(0, parts.kept_source.to(tensor.device))
        if parts.positions is None:
            return torch.cat([kept, new_rows])
        merged = tensor.new_empty((self.num_after, *tensor.shape[1:]))
        for positions, rows in zip(parts.positions, (kept, new_rows), strict=True):
            merged.index_copy_(0, positions.to(tensor.device), rows)
        return merged

    @cached_property
    def parents(self) -> Tensor:
        """(num_after,) int64: the index, before the change, of the row that each row was made of.

        A kept row is its own parent, and the parent of a copy or of a half is the original. -1: none is known, as for
        Gaussians added at given positions. Computed when it is first read.
        """
        rows = torch.arange(self.num_before, dtype=torch.int64, device=self.source.device)
        return self.merge(rows, self._parents_of_new)

    def inherit(self, values: Tensor) -> Tensor:
        """Carry a per-Gaussian tensor along: kept rows keep their values, new rows get the value of their parent.

        Args:
            values: (num_before, ...), on any device.

        Returns:
            (num_after, ...), a new tensor of the same dtype and device; zero in rows without a known parent.

        Raises:
            ValueError: the tensor does not have `num_before` rows.
        """
        self._check_rows_before(values)
        parents = self._parents_of_new.to(values.device)
        new_rows = values.new_zeros((self.num_new, *values.shape[1:]))
        known = parents >= 0
        new_rows[known] = values[parents[known]]
        return self.merge(values, new_rows)

    @cached_property
    def _parents_of_new(self) -> Tensor:
        found = self.new_parents() if callable(self.new_parents) else self.new_parents
        if found is None:
            return self.source.new_full((self.num_new,), -1)
        if found.shape != (self.num_new,):
            raise ValueError(f"new_parents must have shape ({self.num_new},), found {tuple(found.shape)}.")
        return found.to(self.source)

    def _check_rows_before(self, tensor: Tensor) -> None:
        if tensor.dim() == 0 or tensor.shape[0] != self.num_before:
            raise ValueError(
                f"a tensor of shape {tuple(tensor.shape)} cannot follow a change of {self.num_before} rows to "
                f"{self.num_after}: its first dimension must be {self.num_before}. It has missed an earlier change, "
                "or was made after this one."
            )

    @cached_property
    def _parts(self) -> _Parts:
        is_kept = self.source >= 0
        kept_source = self.source[is_kept]
        if bool(is_kept[: len(kept_source)].all()):
            return _Parts(kept_source, None)
        return _Parts(kept_source, (is_kept.nonzero(as_tuple=True)[0], self._new_places))

    def rewrite(self, tensor: Tensor, new_rows: Tensor | None = None) -> None:
        """Do the same as `merge` in place, for a change that leaves the number of rows as it is.

        If all kept rows stay where they are, only the others are written.

        Args:
            tensor: (num_before, ...), on any device.
            new_rows: see `merge`, with memory of its own; None fills the new rows with zeros, as `apply`.
        """
        places = self._new_places.to(tensor.device)
        if not self._stays_in_place:
            tensor.copy_(self.apply(tensor) if new_rows is None else self.merge(tensor, new_rows))
        elif new_rows is None:
            tensor.index_fill_(0, places, 0)
        else:
            tensor.index_copy_(0, places, new_rows)

    def is_identity(self) -> bool:
        """Whether every row is still the same Gaussian, at the same place."""
        if self.num_after != self.num_before:
            return False
        return bool((self.source == torch.arange(self.num_before, device=self.source.device)).all())


@torch.no_grad()
def change_rows(
    params: Params,
    optimizers: Optimizers,
    change: RowChange,
    new_rows: Mapping[str, Tensor],
    with_gradients: Collection[str] = (),
) -> None:
    """Apply a change of rows to every parameter and to its optimizer's state, in place.

    Kept rows stay equal bit for bit, in the parameter and in the state; new rows take their values from `new_rows` and
    start with a state of zeros. If the number of rows changes, each `Parameter` is replaced by a new one at the same
    place in its optimizer, as gsplat's own operations do, so that both kinds of operation can be mixed. If not, the
    values are written into the tensors that are there: their addresses stay, and with them CUDA graphs.

    Args:
        params: name -> parameter (num_before, ...).
        optimizers: name -> optimizer of that parameter alone; the same keys.
        change: the source of each new row.
        new_rows: name -> (R, ...), the values of the R rows that `change` marks as rewritten, in their order. A name
            may be left out if R is 0.
        with_gradients: names of parameters that keep their gradient, with zeros in new rows; the others lose theirs.

    Raises:
        ValueError: an optimizer does not hold the parameter of its name, or shapes disagree; then nothing is changed.
    """
    for name, param in params.items():
        _check_optimizer(name, param, optimizers)
        _check_rows(name, param, change, new_rows.get(name))
    for name in list(params.keys()):
        old = params[name].detach()
        new = new_rows[name].to(old.dtype) if change.num_new else None
        if new is not None and new.untyped_storage().data_ptr() == old.untyped_storage().data_ptr():
            new = new.clone()  # it would be read while it is overwritten
        grad = params[name].grad if name in with_gradients else None
        if change.num_after == change.num_before:
            _overwrite(params[name], optimizers[name], new, change)
        else:
            value = change.apply(old) if new is None else change.merge(old, new)
            replace_parameter(params, optimizers, name, value, change)
        params[name].grad = None if grad is None else change.apply(grad)


def _overwrite(param: nn.Parameter, optimizer: Optimizer, new_rows: Tensor | None, change: RowChange) -> None:
    """Write new rows into a parameter and its optimizer's state; their number is the same as before."""
    change.rewrite(param, new_rows)
    for key, entry in optimizer.state.get(param, {}).items():
        if _has_rows(key, entry, change.num_before):
            change.rewrite(entry)


def replace_parameter(
    params: Params, optimizers: Optimizers, name: str, value: Tensor, change: RowChange | None = None
) -> None:
    """Put a new `Parameter` with the given value at the place of the old one, and carry its optimizer state over.

    With no `change` the state is carried over as it is. Entries of the state without one row per Gaussian (Adam's
    `step`) are kept.
    """
    old = params[name]
    optimizer = optimizers[name]
    new = nn.Parameter(value, requires_grad=old.requires_grad)
    state: dict[str, Any] | None = optimizer.state.pop(old, None)
    if state is not None:
        if change is not None:
            for key, entry in state.items():
                if _has_rows(key, entry, change.num_before):
                    state[key] = change.apply(entry)
        optimizer.state[new] = state
    optimizer.param_groups[0]["params"][0] = new
    params[name] = new


def _has_rows(key: str, entry: Any, num_rows: int) -> bool:
    return key != "step" and isinstance(entry, Tensor) and entry.dim() > 0 and entry.shape[0] == num_rows


def _check_rows(name: str, param: Tensor, change: RowChange, rows: Tensor | None) -> None:
    if param.shape[0] != change.num_before:
        raise ValueError(
            f"params[{name!r}] has {param.shape[0]} rows, but {change.num_before} were expected: all parameters must "
            "have one row per Gaussian."
        )
    expected = (change.num_new, *param.shape[1:])
    found = None if rows is None else tuple(rows.shape)
    if change.num_new and found != expected:
        raise ValueError(f"the new rows of {name!r} must have shape {expected}, found {found}.")


def _check_optimizer(name: str, param: nn.Parameter, optimizers: Optimizers) -> None:
    if name not in optimizers:
        raise ValueError(f"params[{name!r}] has no optimizer; there are optimizers for {sorted(optimizers)}.")
    groups = optimizers[name].param_groups
    if len(groups) != 1 or len(groups[0]["params"]) != 1:
        raise ValueError(f"optimizers[{name!r}] must hold one group with one parameter, found {len(groups)} group(s).")
    if groups[0]["params"][0] is not param:
        raise ValueError(
            f"optimizers[{name!r}] trains another tensor than params[{name!r}]: a parameter was replaced without its "
            "optimizer. Change values with `params[name].data = ...`, which keeps the Parameter."
        )
