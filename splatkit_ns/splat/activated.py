"""The parameters of Gaussians, and the values that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from splatkit_ns.splat.discs import disc_log_scales, flatten
from splatkit_ns.splat.rows import Params
from splatkit_ns.splat.schema import check_shapes, sh_degree_of


class ActivatedGaussians:
    """N Gaussians: their raw parameters, and the activated values."""

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
        self._flat = False

    def __len__(self) -> int:
        return self.num_gaussians

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
