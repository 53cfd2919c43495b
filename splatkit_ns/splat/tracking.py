"""Detection of row changes that other code makes without `SplatTrainingState`, such as gsplat's strategies.

gsplat's operations replace the parameters and update every entry of the optimizers' state: entries of kept rows are
kept, entries of new rows are zero. A temporary entry that numbers the rows therefore shows afterwards the source of
each row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from splatkit_ns.errors import ModuleError
from splatkit_ns.splat.rows import REWRITTEN, Optimizers, Params, RowChange

MARKER = "splatkit_row"
_MARKED = "means"
# MCMC's relocation overwrites dead rows without touching their optimizer state. It copies these parameters from another
# Gaussian, and no operation of gsplat's changes them otherwise (it moves means, and resets opacities).
_IDENTITY_KEYS = ("quats", "sh0")
_HASH_BASE = 0x9E3779B97F4A7C15  # odd, with bits spread evenly


@torch.no_grad()
def unique_matches(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> Tensor:
    """For each new row the only old row with the same bits in all tensors.

    Every operation of gsplat's copies `quats` and `sh0` of the row that a new one is made of, so that this is its
    parent.

    Args:
        old: name -> float32 (N, ...).
        new: name -> float32 (M, ...), the same names.

    Returns:
        (M,) int64 indices of old rows; -1 if none is equal, or several are.
    """
    old_bits, new_bits = (
        torch.cat([value.flatten(1).view(torch.int32) for value in rows.values()], dim=1) for rows in (old, new)
    )
    # sorted by a hash, so that no N x M comparison is needed; it wraps around, which does no harm
    factors = torch.tensor(
        [pow(_HASH_BASE, power, 2**62) for power in range(old_bits.shape[1])], device=old_bits.device
    )
    hashes, order = (old_bits * factors).sum(1).sort()
    new_hashes = (new_bits * factors).sum(1)
    first = torch.searchsorted(hashes, new_hashes)
    count = torch.searchsorted(hashes, new_hashes, right=True) - first
    candidates = order[first.clamp(max=len(order) - 1)]
    is_match = (count == 1) & (old_bits[candidates] == new_bits).all(1)
    return torch.where(is_match, candidates, -1)


class _WatchedState(defaultdict[Tensor, Any]):
    """The state of an optimizer; it calls `touched` before it first returns or drops the entries of a parameter."""

    def __init__(self, state: dict[Tensor, Any], touched: Callable[[], None]) -> None:
        super().__init__(getattr(state, "default_factory", dict), state)
        self._touched = touched

    def __getitem__(self, param: Tensor) -> Any:
        self._touched()
        return super().__getitem__(param)

    def __delitem__(self, param: Tensor) -> None:
        self._touched()
        super().__delitem__(param)

    def get(self, param: Tensor, default: Any = None) -> Any:
        self._touched()
        return super().get(param, default)

    def pop(self, param: Tensor, *default: Any) -> Any:
        self._touched()
        return super().pop(param, *default)

    def __reduce__(self) -> Any:
        return defaultdict, (self.default_factory,), None, None, iter(self.items())


class RowTracker:
    """A tracker that marks the rows when they are about to change, and later derives the change from the marks.

    Code that changes rows has to update the optimizers' state, and gsplat's operations do: they read the entries of a
    parameter in its optimizer before they touch that parameter, or (since gsplat 1.5) right after they have put the
    first new one in its place. Until such a read nothing is marked or copied, so that a step without a change costs a
    few microseconds with any number of Gaussians.

    A row counts as kept if its optimizer state was kept and its `quats` and `sh0` are still the same bits.
    So a dead Gaussian that MCMC relocates counts as rewritten, unless it was an exact copy of its new value already.
    """

    def __init__(self, params: Params, optimizers: Optimizers, with_gradients: Collection[str] = ()) -> None:
        """Track these parameters.

        Args:
            params: name -> parameter (N, ...).
            optimizers: name -> optimizer of that parameter alone.
            with_gradients: names of parameters whose gradient `finish` keeps, with zeros in new rows.
        """
        self._params = params
        self._optimizers = optimizers
        self._with_gradients = with_gradients
        self._watched: list[tuple[Optimizer, dict[Tensor, Any], _WatchedState]] = []
        self._before: dict[str, Tensor] = {}
        self._num_before = 0
        self._grads: dict[str, Tensor | None] = {}
        self._is_marked = False
        self._had_state = False
        self._identity: dict[str, Tensor] = {}

    def start(self) -> None:
        """Watch the optimizers. Until `finish`, none of them may step."""
        self._before = dict(self._params.items())
        self._num_before = self._before[_MARKED].shape[0]
        self._grads = {name: param.grad for name, param in self._before.items() if name in self._with_gradients}
        self._is_marked = False
        for optimizer in {id(each): each for each in self._optimizers.values()}.values():
            watched = _WatchedState(optimizer.state, self._mark)
            self._watched.append((optimizer, optimizer.state, watched))
            optimizer.state = watched

    @torch.no_grad()
    def _mark(self) -> None:
        """Number the rows in the optimizer's state, at the first access to a state."""
        if self._is_marked:
            return
        self._is_marked = True
        param, states = self._before[_MARKED], self._optimizers[_MARKED].state
        self._had_state = param in states
        # gsplat appends float32 zeros, which would turn int64 marks into float32 ones, exact only to 2^24.
        marks = torch.arange(1, param.shape[0] + 1, dtype=torch.float64, device=param.device)
        states.setdefault(param, {})[MARKER] = marks
        self._identity = {key: self._before[key].detach().clone() for key in _IDENTITY_KEYS if key in self._before}

    def _stop_watching(self) -> None:
        for optimizer, state, watched in reversed(self._watched):
            if optimizer.state is watched:
                state.clear()
                state.update(watched)
                optimizer.state = state  # pyright: ignore[reportAttributeAccessIssue] - the original defaultdict
        self._watched = []

    @torch.no_grad()
    def finish(self) -> RowChange | None:
        """Remove the marks and return the change since `start`; None if no row changed.

        Raises:
            ModuleError: the marks are gone or do not fit, because rows were changed in another way than gsplat's.
        """
        self._stop_watching()
        param, before = self._params[_MARKED], self._before
        marks = self._remove_marks() if self._is_marked else None
        identity = self._identity
        self._is_marked, self._identity, self._before = False, {}, {}
        if not before or (param is before[_MARKED] and param.shape[0] == self._num_before):
            self._carry_gradients(None)
            return None
        if marks is None or marks.shape != (param.shape[0],):
            found = "none" if marks is None else str(tuple(marks.shape))
            raise ModuleError(
                "The rows of Gaussians were changed in densify, or within track_row_changes(), but not the optimizers' "
                f"state with them: expected row marks of shape ({param.shape[0]},) in the state of "
                f"optimizers['means'], found {found}. Use training_state.duplicate, split and remove, or "
                "gsplat.strategy.ops."
            )
        source = self._without_overwritten(marks.round().to(torch.int64) - 1, identity)
        new = {key: self._params[key].detach()[source < 0] for key in identity}  # a copy: optimizers change these
        change = RowChange(source, self._num_before, new_parents=lambda: unique_matches(identity, new))
        self._carry_gradients(change)
        return None if change.is_identity() else change

    def _carry_gradients(self, change: RowChange | None) -> None:
        """Restore the gradients of replaced parameters; an opacity reset replaces one without a change of rows."""
        grads, self._grads = self._grads, {}
        for name, grad in grads.items():
            if grad is not None and self._params[name].grad is None:
                self._params[name].grad = grad if change is None else change.apply(grad)

    def _remove_marks(self) -> Tensor | None:
        """Remove the marks from all states; return those of the current parameter."""
        now = self._params[_MARKED]
        marks, marked = self._pop_marks(now), self._before[_MARKED]
        if marked is not now:
            self._pop_marks(marked)
        return marks

    def _pop_marks(self, param: Tensor) -> Tensor | None:
        states = self._optimizers[_MARKED].state
        if param not in states:
            return None
        state: dict[str, Any] = states[param]
        marks = state.pop(MARKER, None)
        if not state and not self._had_state:
            del states[param]
        return marks

    def _without_overwritten(self, source: Tensor, identity: dict[str, Tensor]) -> Tensor:
        kept = (source >= 0).nonzero(as_tuple=True)[0]
        overwritten = torch.zeros(len(kept), dtype=torch.bool, device=source.device)
        for key, before in identity.items():
            # compared as integers, so that a NaN equals itself
            old = before[source[kept]].flatten(1).view(torch.int32)
            new = self._params[key].detach()[kept].flatten(1).view(torch.int32)
            overwritten |= (old != new).any(dim=1)
        source[kept[overwritten]] = REWRITTEN
        return source
