"""Detects row changes made by code that knows nothing of `SplatTrainingState`, such as gsplat's strategies.

gsplat's operations replace the parameters and carry every entry of the optimizers' state along: entries of kept rows
are kept, entries of new rows are zero. A temporary entry that numbers the rows therefore shows afterwards where each
row came from.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from splatkit_ns.splat.rows import REWRITTEN, Optimizers, Params, RowChange

MARKER = "splatkit_row"
_MARKED = "means"
# MCMC's relocation overwrites dead rows without touching their optimizer state. It copies these parameters from another
# Gaussian, and no operation of gsplat's changes them otherwise (it moves means, and resets opacities).
_IDENTITY_KEYS = ("quats", "sh0")


class RowTracker:
    """Marks the rows, and reads off later what became of them.

    A row counts as kept if its optimizer state was carried along and its `quats` and `sh0` are still the same bits.
    So a dead Gaussian that MCMC relocates counts as rewritten, unless it was an exact copy of its new value already.
    """

    def __init__(self, params: Params, optimizers: Optimizers, with_gradients: Collection[str] = ()) -> None:
        """Track these parameters.

        Args:
            params: name -> parameter (N, ...).
            optimizers: name -> optimizer of that parameter alone.
            with_gradients: names whose gradient `finish` carries along, with zeros in new rows.
        """
        self._params = params
        self._optimizers = optimizers
        self._num_before = 0
        self._had_state = False
        self._identity: dict[str, Tensor] = {}
        self._with_gradients = with_gradients
        self._grads: dict[str, Tensor | None] = {}
        self._marked_param: Tensor | None = None

    @torch.no_grad()
    def start(self) -> None:
        """Mark the rows. Until `finish`, the optimizer of `means` must not step."""
        param = self._params[_MARKED]
        self._marked_param = param
        self._num_before = param.shape[0]
        states = self._optimizers[_MARKED].state
        self._had_state = param in states
        # gsplat appends float32 zeros, which would turn int64 marks into float32 ones, exact only to 2^24.
        states[param][MARKER] = torch.arange(1, self._num_before + 1, dtype=torch.float64, device=param.device)
        self._identity = {key: self._params[key].detach().clone() for key in _IDENTITY_KEYS if key in self._params}
        self._grads = {name: param.grad for name, param in self._params.items() if name in self._with_gradients}

    @torch.no_grad()
    def finish(self) -> RowChange | None:
        """Remove the marks and tell what happened since `start`; None if no row changed.

        Raises:
            RuntimeError: the marks are gone or do not fit, because rows were changed in some way other than gsplat's.
        """
        param = self._params[_MARKED]
        marks = self._remove_marks()
        identity, self._identity = self._identity, {}
        if param is self._marked_param:
            self._carry_gradients(None)
            return None
        if marks is None or marks.shape != (param.shape[0],):
            found = "none" if marks is None else str(tuple(marks.shape))
            raise RuntimeError(
                f"rows were changed without carrying the optimizer state along: expected row marks of shape "
                f"({param.shape[0]},) in the state of optimizers['means'], found {found}. Use "
                "training_state.duplicate, split and remove, or gsplat.strategy.ops."
            )
        source = marks.round().to(torch.int64) - 1
        change = RowChange(source=self._without_overwritten(source, identity), num_before=self._num_before)
        self._carry_gradients(change)
        return None if change.is_identity() else change

    def _carry_gradients(self, change: RowChange | None) -> None:
        """Give parameters that were replaced their gradients back; an opacity reset replaces one without a change."""
        grads, self._grads = self._grads, {}
        for name, grad in grads.items():
            if grad is not None and self._params[name].grad is None:
                self._params[name].grad = grad if change is None else change.apply(grad)

    def _remove_marks(self) -> Tensor | None:
        """Remove the marks wherever they are; return those of the parameter of now."""
        now = self._params[_MARKED]
        marks = self._pop_marks(now)
        if self._marked_param is not None and self._marked_param is not now:
            self._pop_marks(self._marked_param)
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
