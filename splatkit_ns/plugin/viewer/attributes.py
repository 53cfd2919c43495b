"""The attributes that nerfstudio's viewer and exporter read from a model of Gaussians."""

from __future__ import annotations

from torch import Tensor, nn

from splatkit_ns.plugin.data.images import sh_to_rgb
from splatkit_ns.plugin.viewer.shown import Shown


class GaussianAttributes:
    """The Gaussians of `gauss_params` under the names of nerfstudio's splatfacto."""

    gauss_params: nn.ParameterDict
    shown = Shown()
    """The choices of the viewer's panel; the pipeline puts those of its own panel here."""

    @property
    def features_dc(self) -> Tensor:
        """SH coefficients of degree 0, (N, 3)."""
        return self.gauss_params["sh0"][:, 0]

    @property
    def features_rest(self) -> Tensor:
        """SH coefficients of degrees 1 and up, (N, K - 1, 3)."""
        return self.gauss_params["shN"]

    @property
    def colors(self) -> Tensor:
        """Colours without their dependence on the direction, (N, 3)."""
        return sh_to_rgb(self.features_dc)

    @property
    def shs_0(self) -> Tensor:
        """See `features_dc`."""
        return self.features_dc

    @property
    def shs_rest(self) -> Tensor:
        """See `features_rest`."""
        return self.features_rest

    @property
    def opacities(self) -> Tensor:
        """Logits, (N, 1)."""
        return self.gauss_params["opacities"][:, None]
