"""The Gaussians in training: parameters, their optimizers, and the operations that add and remove Gaussians."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Mapping, Set
from contextlib import contextmanager
from os import PathLike
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from splatkit_ns.formats.gaussians import SplatRenderMode
from splatkit_ns.splat import initialization, state_checkpoint
from splatkit_ns.splat.adding import rows_at
from splatkit_ns.splat.checkpoint import CheckpointError, read_checkpoint
from splatkit_ns.splat.checkpoint_requests import CheckpointRequests, Then
from splatkit_ns.splat.discs import disc_log_scales, flatten
from splatkit_ns.splat.leading import RowLeader, followed
from splatkit_ns.splat.masks import masked_rows
from splatkit_ns.splat.optimizers import make_optimizers
from splatkit_ns.splat.rows import REWRITTEN, Params, RowChange, change_rows
from splatkit_ns.splat.schema import KEYS, check_shapes, sh_degree_of
from splatkit_ns.splat.splitting import NUM_SAMPLES, long_axis_rows, split_rows
from splatkit_ns.splat.tracking import RowTracker

if TYPE_CHECKING:
    from splatkit_ns.splat.model import SplatModel

RowListener = Callable[[RowChange], None]
RowStart = Callable[["SplatTrainingState"], Tensor]
"""Makes the first rows (M, ...) of a further parameter, from M new Gaussians."""

HANDFUL = 10
"""A `remove` of at most this many Gaussians is never reported, whatever their share of the scene."""
LOGITS_REMINDER = (
    'params["opacities"] holds logits, not opacities: compare training_state.opacities, which lie in (0, 1), with a '
    "threshold such as 0.005."
)

logger = logging.getLogger("splatkit_ns")


class SplatTrainingState:
    """N Gaussians in training, with one optimizer per parameter.

    `params` holds the raw values (logs, logits; see `schema.KEYS`) that optimizers and gsplat's strategies change. The
    properties `means`, `quats`, `scales`, `opacities`, `sh0` and `shN` are the activated values, and carry gradients.

    Code that keeps values per Gaussian elsewhere subscribes to row changes, see `subscribe`.
    """

    def __init__(self, params: dict[str, nn.Parameter] | nn.ParameterDict, optimizers: Mapping[str, Optimizer]) -> None:
        """Wrap parameters and optimizers; neither is copied.

        Args:
            params: the six of `schema.KEYS`, float32, and any others with one row per Gaussian.
            optimizers: the same keys; each holds one group with that parameter. Empty for Gaussians that are only
                rendered.

        Raises:
            ValueError: keys or shapes do not fit.
        """
        check_shapes(params)
        missing = sorted(set(params.keys()) - set(optimizers))
        if optimizers and missing:
            raise ValueError(f"optimizers must have the keys of params: {missing} are missing.")
        self.params: Params = cast(Params, params)
        self.optimizers = optimizers
        self._requests = CheckpointRequests(self._own_checkpoint)
        self._summed_up: Set[str] = frozenset()
        self._listeners: list[RowListener] = []
        self._tracker: RowTracker | None = None
        self._changes_in_block: list[RowChange] = []
        self._row_starts: dict[str, RowStart] = {}
        self.fixed_rows_reason: str | None = None
        """The reason why rows must not be added or removed now; None if they may be."""
        self._has_warned_of_removal = False
        self._flat = False
        self.leader: RowLeader | None = None
        """Makes the row operations of rank 0 those of all ranks, in `leading.led_by`."""

    def __len__(self) -> int:
        return self.num_gaussians

    def use_optimizers(self, optimizers: Mapping[str, Optimizer]) -> None:
        """Use these optimizers for the parameters from now on; they have the keys of `params`."""
        self.optimizers = {name: optimizers[name] for name in self.params}

    def use_checkpoints_of(self, requests: CheckpointRequests) -> None:
        """Let `save_ckpt` write the full checkpoints of the training of which this state is a part."""
        self._requests = requests

    def keep_gradients_of(self, names: Set[str]) -> None:
        """Keep the gradients of these parameters when rows change, with zeros in new rows.

        This is for gradients that are summed up over several steps; those of other parameters are None after a change.
        """
        self._summed_up = names

    def start_rows_with(self, name: str, start: RowStart) -> None:
        """Let a further parameter start with these rows in Gaussians that `add` appends without values for it."""
        self._row_starts[name] = start

    @property
    def num_gaussians(self) -> int:
        """The current number of Gaussians, N."""
        return int(self.params["means"].shape[0])

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.params["means"].device

    @property
    def sh_degree(self) -> int:
        """The SH degree of the coefficients, 0 to 3."""
        return sh_degree_of(int(self.params["shN"].shape[1]))

    @property
    def means(self) -> Tensor:
        """(N, 3) centres in world units."""
        return self.params["means"]

    @property
    def quats(self) -> Tensor:
        """(N, 4) unit quaternions, wxyz."""
        return F.normalize(self.params["quats"], dim=-1)

    @property
    def scales(self) -> Tensor:
        """(N, 3) standard deviations along the Gaussian's own axes in world units, > 0."""
        log_scales = self.params["scales"]
        return torch.exp(disc_log_scales(log_scales) if self._flat else log_scales)

    def make_flat(self) -> None:
        """Turn the Gaussians into discs, see `discs.flatten`; from now on nothing changes their thickness.

        Renderers of discs use this. The third scale is then a constant, so that it does not influence densification and
        is stored in PLY files, where it makes the discs thin in viewers that draw 3D Gaussians.
        """
        flatten(self.params)
        self._flat = True

    @property
    def is_flat(self) -> bool:
        """Whether the Gaussians are discs, see `make_flat`."""
        return self._flat

    @property
    def opacities(self) -> Tensor:
        """(N,) opacities in (0, 1)."""
        return torch.sigmoid(self.params["opacities"])

    @property
    def sh0(self) -> Tensor:
        """(N, 1, 3) SH coefficients of degree 0."""
        return self.params["sh0"]

    @property
    def shN(self) -> Tensor:
        """(N, K - 1, 3) SH coefficients of degrees 1 and up."""
        return self.params["shN"]

    # ------------------------------------------------------------------ rows

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
            new = SplatTrainingState({name: nn.Parameter(value) for name, value in rows.items()}, {})
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
            RuntimeError: rows were changed without their optimizer state.
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
        except RuntimeError:
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

    # ------------------------------------------------------------------ conversions and checkpoints

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        *,
        learning_rates: Mapping[str, float] | None = None,
        device: torch.device | str = "cpu",
    ) -> SplatTrainingState:
        """Make new parameters with copies of the given raw values, and new optimizers.

        Raises:
            ValueError: keys, shapes or learning rates do not fit.
        """
        check_shapes(tensors)
        params = {
            key: nn.Parameter(value.detach().to(device, torch.float32, copy=True)) for key, value in tensors.items()
        }
        return cls(params, make_optimizers(params, learning_rates))

    @classmethod
    def from_points(
        cls,
        points: Tensor,
        colors: Tensor | None = None,
        *,
        sh_degree: int = 3,
        init_opacity: float = 0.1,
        init_scale: float = 1.0,
        learning_rates: Mapping[str, float] | None = None,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> SplatTrainingState:
        """Make one Gaussian per point; see `initialization.gaussians_from_points` for the arguments and errors."""
        tensors = initialization.gaussians_from_points(
            points,
            colors,
            sh_degree=sh_degree,
            init_opacity=init_opacity,
            init_scale=init_scale,
            generator=generator,
        )
        return cls.from_tensors(tensors, learning_rates=learning_rates, device=device)

    def to_splat_model(self, render_mode: SplatRenderMode = "default") -> SplatModel:
        """Return a copy of the Gaussians on the CPU, without optimizers; parameters beyond the six are its `extra`.

        Args:
            render_mode: the way in which they were trained, `SplatRenderer.splat_mode` of their renderer.
        """
        from splatkit_ns.splat.model import SplatModel  # the two convert into each other

        tensors = {name: param.detach().to("cpu", copy=True) for name, param in self.params.items()}
        six = {key: tensors.pop(key) for key in KEYS}
        return SplatModel(**six, render_mode=render_mode, extra=tensors)

    def save_ckpt(self, path: str | PathLike[str], step: int | None = None, then: Then | None = None) -> None:
        """Write a checkpoint that training resumes from; see `state_checkpoint.state_to_checkpoint`.

        With a trainer it is the trainer's full checkpoint, otherwise one of this object alone. During a training step
        it is written when all hooks of the step have run, so that it holds their states after this step.

        Args:
            path: the file to write, atomically. Its folder is made if it is missing.
            step: the training step to store, as nerfstudio counts it. None: the trainer's, or 0 without a trainer.
            then: callback with None when the file has been written, or with the `OSError` if it could not be.

        Raises:
            OSError: `then` is None, no step is under way, and the file cannot be written; an old file is then as it
                was.
        """
        self._requests.add(path, step, then)

    def _own_checkpoint(self, step: int | None) -> dict[str, Any]:
        return state_checkpoint.state_to_checkpoint(self.params, self.optimizers, step)

    @classmethod
    def from_ckpt(cls, path: str | PathLike[str], device: torch.device | str = "cpu") -> SplatTrainingState:
        """Read parameters and optimizers from a checkpoint of nerfstudio or splatkit.

        The global random number generators keep their state; see `rng.set_rng_state`.

        Raises:
            CheckpointError: the file is missing, damaged, refused or lacks something.
        """
        checkpoint = read_checkpoint(path)
        tensors = state_checkpoint.params_from_checkpoint(checkpoint, path)
        rates = state_checkpoint.learning_rates_from_checkpoint(checkpoint, list(tensors))
        try:
            state = cls.from_tensors(tensors, learning_rates=rates, device=device)
        except ValueError as error:  # an unknown parameter without an optimizer, or an impossible rate
            raise CheckpointError(f"checkpoint {path} cannot be trained further: {error}") from error
        state_checkpoint.load_optimizers(state.params, state.optimizers, checkpoint, path)
        return state
