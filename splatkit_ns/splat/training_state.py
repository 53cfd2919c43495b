"""Gaussians in training, and as a trained model: each can be made of the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from splatkit_ns import formats
from splatkit_ns.formats import Gaussians, SplatRenderMode
from splatkit_ns.formats.gaussians import check_extra
from splatkit_ns.formats.ply import PlyFormat
from splatkit_ns.splat import initialization, state_checkpoint
from splatkit_ns.splat.checkpoint import CheckpointError, read_checkpoint
from splatkit_ns.splat.checkpoint_requests import CheckpointRequests, Then
from splatkit_ns.splat.optimizers import EXTRA_LEARNING_RATE, make_optimizers
from splatkit_ns.splat.row_operations import GaussianRows
from splatkit_ns.splat.row_parameters import RowDict
from splatkit_ns.splat.schema import KEYS, check_shapes, sh_degree_of

__all__ = ["SplatTrainingState"]


class SplatTrainingState(GaussianRows):
    """N Gaussians in training, with one optimizer per parameter.

    `params` holds the raw values (logs, logits; see `schema.KEYS`) that optimizers and gsplat's strategies change. The
    properties `means`, `quats`, `scales`, `opacities`, `sh0` and `shN` are the activated values, and carry gradients.

    Code that keeps values per Gaussian elsewhere subscribes to row changes, see `subscribe`.
    """

    @cached_property
    def _requests(self) -> CheckpointRequests:
        """The checkpoints that are wanted; those of this state alone until `use_checkpoints_of`."""
        return CheckpointRequests(self._own_checkpoint)

    def use_optimizers(self, optimizers: Mapping[str, Optimizer]) -> None:
        """Use these optimizers for the parameters from now on; they have the keys of `params`."""
        self.optimizers = {name: optimizers[name] for name in self.params}

    def use_checkpoints_of(self, requests: CheckpointRequests) -> None:
        """Let `save_ckpt` write the full checkpoints of the training of which this state is a part."""
        self._requests = requests

    def start_rows_with(self, name: str, start: Callable[[SplatTrainingState], Tensor]) -> None:
        """Let a further parameter start with these rows in Gaussians that `add` appends without values for it."""
        self._row_starts[name] = start

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        *,
        learning_rates: Mapping[str, float] | None = None,
        device: torch.device | str = "cpu",
    ) -> SplatTrainingState:
        """Make new parameters with copies of the given raw values, and new optimizers.

        Args:
            tensors: means (N, 3), scales (N, 3) as logs, quats (N, 4), opacities (N,) as logits, sh0 (N, 1, 3) and shN
                (N, K - 1, 3); others have one row for each Gaussian, too.
            learning_rates: by these names; those left out are 3DGS's.
            device: of the parameters.

        Raises:
            ValueError: keys, shapes or learning rates do not fit.
        """
        check_shapes(tensors)
        params = RowDict(
            {key: nn.Parameter(value.detach().to(device, torch.float32, copy=True)) for key, value in tensors.items()}
        )
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

        Args:
            path: of any checkpoint of a run, or of `save_ckpt`.
            device: that the parameters are put on, whatever device they were on.

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


@dataclass(frozen=True, eq=False)
class SplatModel:
    """N Gaussians on the CPU, float32, in the raw space of `SplatTrainingState.params`.

    Raises:
        ValueError: shapes do not fit together.
    """

    means: Tensor
    """(N, 3) centres in world units."""
    scales: Tensor
    """(N, 3) natural logs of the standard deviations."""
    quats: Tensor
    """(N, 4) wxyz, not necessarily normalised."""
    opacities: Tensor
    """(N,) logits."""
    sh0: Tensor
    """(N, 1, 3) SH coefficients of degree 0."""
    shN: Tensor
    """(N, K - 1, 3) SH coefficients of degrees 1 and up."""
    render_mode: SplatRenderMode = "default"
    """The way in which they were trained: as 3D Gaussians, with Mip-Splatting's 2D filter (``mip``), or as discs
    (``2dgs``). Formats with a field for it store it, and viewers draw the Gaussians accordingly."""
    extra: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Name -> further rows (N, ...): the row parameters that parts of a run declare. Only PLY files hold them."""

    def __post_init__(self) -> None:
        for key in KEYS:
            value = torch.as_tensor(getattr(self, key)).detach().to("cpu", torch.float32)
            object.__setattr__(self, key, value)
        check_shapes(self.tensors())
        extra = {name: torch.as_tensor(rows).detach().to("cpu", torch.float32) for name, rows in self.extra.items()}
        check_extra({name: rows.shape for name, rows in extra.items()}, len(self))
        object.__setattr__(self, "extra", extra)

    def __len__(self) -> int:
        return int(self.means.shape[0])

    @property
    def sh_degree(self) -> int:
        """The SH degree of the coefficients, 0 to 3."""
        return sh_degree_of(int(self.shN.shape[1]))

    def tensors(self) -> dict[str, Tensor]:
        """The six tensors by name."""
        return {key: getattr(self, key) for key in KEYS}

    def to_gaussians(self) -> Gaussians:
        """Return the same Gaussians as arrays, which share the memory."""
        arrays = {key: value.numpy() for key, value in self.tensors().items()}
        extra = {name: rows.numpy() for name, rows in self.extra.items()}
        return Gaussians(**arrays, render_mode=self.render_mode, extra=extra)

    @classmethod
    def from_gaussians(cls, gaussians: Gaussians) -> SplatModel:
        """Make a model of Gaussians from a format's reader or `frames.transform`; it shares their memory."""
        tensors = {key: torch.from_numpy(value) for key, value in gaussians.arrays().items()}
        extra = {name: torch.from_numpy(rows) for name, rows in gaussians.extra.items()}
        return cls(**tensors, render_mode=gaussians.render_mode, extra=extra)

    @classmethod
    def load(cls, path: str | PathLike[str], *, format: str | None = None) -> SplatModel:
        """Read a file of any format; see `formats.read`.

        Args:
            path: the file, or a SOG folder.
            format: name of the format; None to find it by the suffix.

        Raises:
            FormatError: the file is missing, of no known format, damaged, or holds no Gaussians.
        """
        return cls.from_gaussians(formats.read(path, format))

    def save(self, path: str | PathLike[str], *, format: str | None = None, **options: Any) -> None:
        """Write a file of any format, atomically; see `formats.write`. Most formats round, and change the order.

        Args:
            path: file to write; its folder is made if it is missing.
            format: name of the format; None to find it by the suffix.
            **options: options of the format, such as ``version=2`` for SPZ.

        Raises:
            FormatError: there is no such format or option, or no Gaussian has only finite values.
            OSError: the file cannot be written; an old file is then as it was.
        """
        formats.write(path, self.to_gaussians(), format, **options)

    @classmethod
    def load_ply(cls, path: str | PathLike[str]) -> SplatModel:
        """Read a PLY file in the layout of 3DGS, with any suffix; see `ply.read_ply`.

        Raises:
            PlyError: the file is missing, damaged or holds no Gaussians.
        """
        return cls.load(path, format="ply")

    def save_ply(self, path: str | PathLike[str], *, format: PlyFormat = "binary_little_endian") -> None:
        """Write a PLY file in the layout of 3DGS, atomically, with any suffix; see `ply.write_ply`.

        Args:
            path: file to write; its folder is made if it is missing.
            format: "binary_little_endian" (which every viewer reads), "binary_big_endian" or "ascii".

        Raises:
            ValueError: no Gaussian has only finite values.
            OSError: the file cannot be written.
        """
        formats.write(path, self.to_gaussians(), "ply", encoding=format)

    def to_training_state(
        self, learning_rates: Mapping[str, float] | None = None, device: torch.device | str = "cpu"
    ) -> SplatTrainingState:
        """Return a copy with optimizers, for further training.

        Args:
            learning_rates: name -> rate; names left out get the value of `optimizers.LEARNING_RATES`, and extra rows
                `optimizers.EXTRA_LEARNING_RATE`.
            device: the device to train on.

        Raises:
            ValueError: the learning rates are no dict, or one names no parameter.
        """
        given: Any = {} if learning_rates is None else learning_rates
        if not isinstance(given, Mapping):
            raise ValueError(f"learning_rates is {given!r:.60}, expected a dict of rates by name, such as means.")
        rates = {**dict.fromkeys(self.extra, EXTRA_LEARNING_RATE), **given}
        return SplatTrainingState.from_tensors({**self.tensors(), **self.extra}, learning_rates=rates, device=device)

    def for_rendering(self, device: torch.device | str = "cpu") -> SplatTrainingState:
        """The Gaussians as renderers take them, without optimizers and gradients.

        Renderers do this themselves with a model that they are given; on a GPU it copies the Gaussians, so that it is
        better done once where many images are rendered.

        Args:
            device: where to render. On the CPU the result shares this model's memory.
        """
        tensors = {**self.tensors(), **self.extra}
        params = {key: nn.Parameter(value.to(device), requires_grad=False) for key, value in tensors.items()}
        return SplatTrainingState(RowDict(params), {})
