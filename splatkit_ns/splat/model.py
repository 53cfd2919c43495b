"""A trained model: Gaussians without optimizers, as files hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from splatkit_ns.splat import ply
from splatkit_ns.splat.schema import KEYS, check_shapes, sh_degree_of

if TYPE_CHECKING:
    from splatkit_ns.splat.training_state import SplatTrainingState


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

    def __post_init__(self) -> None:
        for key in KEYS:
            value = torch.as_tensor(getattr(self, key)).detach().to("cpu", torch.float32)
            object.__setattr__(self, key, value)
        check_shapes(self.tensors())

    def __len__(self) -> int:
        return int(self.means.shape[0])

    @property
    def sh_degree(self) -> int:
        """Highest SH degree that there are coefficients for, 0 to 3."""
        return sh_degree_of(int(self.shN.shape[1]))

    def tensors(self) -> dict[str, Tensor]:
        """The six tensors by name."""
        return {key: getattr(self, key) for key in KEYS}

    @classmethod
    def load_ply(cls, path: str | PathLike[str]) -> SplatModel:
        """Read a PLY file in the layout of 3DGS; see `ply.read_ply`.

        Raises:
            PlyError: the file is missing, damaged or holds no Gaussians.
        """
        return cls(**{key: torch.from_numpy(value) for key, value in ply.read_ply(path).items()})

    def save_ply(self, path: str | PathLike[str], *, format: ply.PlyFormat = "binary_little_endian") -> None:
        """Write a PLY file in the layout of 3DGS, atomically; see `ply.write_ply`.

        Args:
            path: file to write; its folder is made if it is missing.
            format: "binary_little_endian" (which every viewer reads), "binary_big_endian" or "ascii".

        Raises:
            ValueError: no Gaussian has only finite values.
            OSError: the file cannot be written.
        """
        ply.write_ply(path, {key: value.numpy() for key, value in self.tensors().items()}, format=format)

    def to_training_state(
        self, learning_rates: Mapping[str, float] | None = None, device: torch.device | str = "cpu"
    ) -> SplatTrainingState:
        """A copy with optimizers, to go on training.

        Args:
            learning_rates: name -> rate; names left out get the value of `optimizers.LEARNING_RATES`.
            device: where to train.

        Raises:
            ValueError: a learning rate names no parameter.
        """
        from splatkit_ns.splat.training_state import SplatTrainingState  # the two convert into each other

        return SplatTrainingState.from_tensors(self.tensors(), learning_rates=learning_rates, device=device)
