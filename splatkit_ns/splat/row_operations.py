"""The operations that add and remove Gaussians in training."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Mapping, Set
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from splatkit_ns.errors import ModuleError
from splatkit_ns.splat.activated import ActivatedGaussians
from splatkit_ns.splat.adding import rows_at
from splatkit_ns.splat.discs import disc_log_scales
from splatkit_ns.splat.leading import RowLeader, followed
from splatkit_ns.splat.masks import masked_rows
from splatkit_ns.splat.rows import REWRITTEN, RowChange, change_rows
from splatkit_ns.splat.splitting import NUM_SAMPLES, long_axis_rows, split_rows
from splatkit_ns.splat.tracking import RowTracker

RowListener = Callable[[RowChange], None]

HANDFUL = 10
"""A `remove` of at most this many Gaussians is never reported, whatever their share of the scene."""
LOGITS_REMINDER = (
    'params["opacities"] holds logits, not opacities: compare training_state.opacities, which lie in (0, 1), with a '
    "threshold such as 0.005."
)

logger = logging.getLogger("splatkit_ns")


class GaussianRows(ActivatedGaussians):
    """Gaussians that are added and removed, with their optimizers and all else that has a row for each."""

    def __init__(self, params: dict[str, nn.Parameter] | nn.ParameterDict, optimizers: Mapping[str, Optimizer]) -> None:
        """Wrap parameters and optimizers; see `ActivatedGaussians`."""
        super().__init__(params, optimizers)
        self._summed_up: Set[str] = frozenset()
        self._listeners: list[RowListener] = []
        self._tracker: RowTracker | None = None
        self._changes_in_block: list[RowChange] = []
        self._row_starts: dict[str, Callable[[Any], Tensor]] = {}
        """Parameter -> what makes its rows from new Gaussians, an object of this class without optimizers."""
        self.fixed_rows_reason: str | None = None
        """The reason why rows must not be added or removed now; None if they may be."""
        self._has_warned_of_removal = False
        self.leader: RowLeader | None = None
        """Makes the row operations of rank 0 those of all ranks, in `leading.led_by`."""

    def keep_gradients_of(self, names: Set[str]) -> None:
        """Keep the gradients of these parameters when rows change, with zeros in new rows.

        This is for gradients that are summed up over several steps; those of other parameters are None after a change.
        """
        self._summed_up = names

    @followed
    def duplicate(self, mask: Tensor, *, is_current: bool = False) -> None:
        """Append an exact copy of each masked Gaussian.

        Args:
            mask: bool (N,), (N, 1), or (C, N) for "in any of C cameras". All False changes nothing. Within
                `track_row_changes`, and so in `densify`, it may have been made before other operations there, and then
                selects those of its Gaussians that are still there; see `masks.masked_rows`.
            is_current: the mask was made after all operations so far. Needed only if its length is ambiguous.

        Raises:
            ValueError: wrong length or dtype, or a length that is ambiguous.
        """
        selected = self._selected(mask, "duplicate", is_current)
        if len(selected) == 0:
            return
        self._change(self._all_rows(), selected, {name: p.detach()[selected] for name, p in self.params.items()})

    @followed
    def split(self, mask: Tensor, revised_opacity: bool = False, *, is_current: bool = False) -> None:
        """Replace each masked Gaussian by two smaller samples of it, appended at the end; see `splitting.split_rows`.

        Args:
            mask: see `duplicate`.
            revised_opacity: lower the opacity so that the pair is as dense as the whole (arXiv:2404.06109).
            is_current: see `duplicate`.

        Raises:
            ValueError: wrong length or dtype, or a length that is ambiguous.
        """
        selected = self._selected(mask, "split", is_current)
        self._replace(selected, lambda: split_rows(self.params, selected, revised_opacity))

    @followed
    def split_long_axis(self, mask: Tensor, *, is_current: bool = False) -> None:
        """Replace each masked Gaussian by two halves of its longest axis, appended; see `splitting.long_axis_rows`.

        Args:
            mask, is_current: see `duplicate`.

        Raises:
            ValueError: wrong length or dtype, or a length that is ambiguous.
        """
        selected = self._selected(mask, "split_long_axis", is_current)
        self._replace(selected, lambda: long_axis_rows(self.params, selected))

    @followed
    def remove(self, mask: Tensor, *, is_current: bool = False) -> None:
        """Remove the masked Gaussians; warn the first time that most of the scene goes in one call.

        Args:
            mask, is_current: see `duplicate`.

        Raises:
            ValueError: as `duplicate`, or no Gaussian would be left.
        """
        selected = self._selected(mask, "remove", is_current)
        num, num_removed = self.num_gaussians, len(selected)
        if num_removed == 0:
            return
        if num_removed == num:
            raise ValueError(
                f"remove: the mask marks all {num} Gaussians, so that none would be left. {LOGITS_REMINDER}"
            )
        if num_removed > max(num / 2, HANDFUL) and not self._has_warned_of_removal:
            self._has_warned_of_removal = True
            logger.warning(
                "remove: %d of %d Gaussians go in one call. If you did not mean that: %s (This is said once a run.)",
                num_removed,
                num,
                LOGITS_REMINDER,
            )
        self._change(self._others(selected), selected[:0], {})

    @followed
    def add(
        self,
        positions: Tensor,
        colors: Tensor | None = None,
        *,
        scales: Tensor | None = None,
        quats: Tensor | None = None,
        opacities: Tensor | float | None = None,
        **extra_rows: Tensor,
    ) -> None:
        """Append new Gaussians at given positions; their optimizer state starts at zero.

        Args:
            positions: (M, 3) in world units. M = 0 changes nothing.
            colors: (M, 3) RGB in 0..1, of SH degree 0. None: grey.
            scales: standard deviations in world units, (M,), or (M, 3) along the Gaussian's own axes. None: the mean
                distance to the 3 nearest Gaussians, new ones included.
            quats: (M, 4) wxyz. None: the world's axes if `scales` are (M, 3), otherwise drawn at random.
            opacities: in (0, 1): (M,), or one number for all. None: 0.1.
            extra_rows: values of further parameters (M, ...), by their names in `params`, such as ``shN``. Those that
                are not given start as the part that owns them says (`RowTrainable.initial`), others at zero.

        Raises:
            ValueError: a shape, a value or a name does not fit. Nothing is changed then.
        """
        rows = rows_at(self.params, positions, colors, scales, quats, opacities, extra_rows)
        if len(positions) > 0:
            new = type(self)({name: nn.Parameter(value) for name, value in rows.items()}, {})
            rows |= {name: start(new) for name, start in self._row_starts.items() if name not in extra_rows}
            kept = self._all_rows()
            self._change(kept, kept.new_full((len(positions),), REWRITTEN), rows)

    @followed
    def change_rows(self, change: RowChange, new_rows: Mapping[str, Tensor]) -> None:
        """Apply any change of rows, for operations that the methods above do not cover.

        Args:
            change: the source of each new row.
            new_rows: name -> values of the rows that `change` marks as rewritten, in their order; see
                `rows.change_rows`.

        Raises:
            ValueError: shapes disagree.
            RuntimeError: rows must not change now; see `fixed_rows_reason`.
        """
        if self.fixed_rows_reason is not None:
            raise RuntimeError(self.fixed_rows_reason)
        tracker = self._tracker
        if tracker is not None:
            self._report(tracker)
        if self._flat and "scales" in new_rows:
            new_rows = {**new_rows, "scales": disc_log_scales(new_rows["scales"])}
        try:
            change_rows(self.params, self.optimizers, change, new_rows, self._summed_up)
        finally:
            if tracker is not None:
                tracker.start()
        if self.leader is not None:
            self.leader.note(change, new_rows)
        self._notify(change)

    @followed
    @torch.no_grad()
    def limit_opacities(self, highest: float) -> None:
        """Lower all opacities to at most `highest`, in (0, 1), and reset the moments of their optimizer.

        This is the opacity reset of 3DGS; rows stay as they are.
        """
        logits = self.params["opacities"]
        logits.clamp_(max=math.log(highest / (1 - highest)))
        for key, entry in self.optimizers["opacities"].state[logits].items():
            if key != "step":
                entry.zero_()

    def subscribe(self, listener: RowListener) -> None:
        """Call `listener` with a `RowChange` after each change of rows, when `params` is in its new state."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: RowListener) -> None:
        """Undo `subscribe`.

        Raises:
            ValueError: the listener is not subscribed.
        """
        self._listeners.remove(listener)

    @contextmanager
    def track_row_changes(self) -> Generator[None, None, None]:
        """Within the block, also detect row changes by other code, such as gsplat's strategies.

        Listeners are called at the end of the block, and before each of this object's own operations in it. A row then
        counts as kept if it is the same Gaussian for the strategy, even if its opacity was reset or its mean moved; see
        `tracking.RowTracker`. No optimizer may step inside the block. Blocks can be nested; changes in an inner block
        are reported at its end. If nothing changes, a block costs microseconds.

        Masks may have been made at any time in the outermost block; see `duplicate`.

        Raises:
            ModuleError: rows were changed without their optimizer state.
        """
        outer = self._tracker
        if outer is not None:
            self._report(outer, continues=True)
        tracker = self._tracker = outer or RowTracker(self.params, self.optimizers, self._summed_up)
        if outer is None:
            tracker.start()
        failed = True
        try:
            yield
            failed = False
        finally:
            self._tracker = outer
            if outer is None:
                self._changes_in_block = []
            self._report(tracker, quiet=failed, continues=outer is not None)

    def _report(self, tracker: RowTracker, quiet: bool = False, continues: bool = False) -> None:
        """Call the listeners with the change.

        Args:
            tracker: the tracker of the change.
            quiet: whether to ignore rows that were changed without their optimizer state, because another exception is
                more informative.
            continues: whether the tracker starts again with the current rows.
        """
        try:
            change = tracker.finish()
        except ModuleError:
            if quiet:
                return
            raise
        finally:
            if continues:
                tracker.start()
        if change is not None:
            if self.leader is not None:
                self.leader.refuse()
            self._notify(change)

    def _notify(self, change: RowChange) -> None:
        if self._tracker is not None:
            self._changes_in_block.append(change)
        for listener in tuple(self._listeners):
            listener(change)

    def _change(self, kept: Tensor, parents: Tensor, new_rows: dict[str, Tensor]) -> None:
        """Keep the rows `kept`, and append new ones that were made of the rows `parents` (-1: of none)."""
        source = torch.cat([kept, torch.full_like(parents, REWRITTEN)])
        self.change_rows(RowChange(source, self.num_gaussians, new_parents=parents), new_rows)

    def _replace(self, selected: Tensor, new_rows: Callable[[], dict[str, Tensor]]) -> None:
        """Replace each selected row by ``NUM_SAMPLES`` new ones, which ``new_rows`` makes."""
        if len(selected) > 0:
            self._change(self._others(selected), selected.repeat(NUM_SAMPLES), new_rows())

    def _all_rows(self) -> Tensor:
        return torch.arange(self.num_gaussians, device=self.device)

    def _others(self, selected: Tensor) -> Tensor:
        rest = torch.ones(self.num_gaussians, dtype=torch.bool, device=selected.device)
        rest[selected] = False
        return rest.nonzero(as_tuple=True)[0]

    def _selected(self, mask: Tensor, operation: str, is_current: bool) -> Tensor:
        if self._tracker is not None:
            self._report(self._tracker, continues=True)  # the mask may be older than a change that others made
        rows = masked_rows(mask, operation, self.num_gaussians, self._changes_in_block, is_current)
        return rows.to(self.device)
