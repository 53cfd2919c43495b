"""The attributes that nerfstudio's viewer and exporter read from a model of Gaussians."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from splatkit_ns.formats.gaussians import SH_C0
from splatkit_ns.parts.nesting import part_with
from splatkit_ns.plugin.reporting.console import report_once
from splatkit_ns.plugin.viewer.shown import Shown
from splatkit_ns.renderer import SplatRenderer

KINDS = {"mip": "antialiased", "2dgs": "discs"}
"""Mode of a file that says how its Gaussians are drawn -> word for messages."""


class GaussianAttributes:
    """The Gaussians of `gauss_params` under the names of nerfstudio's splatfacto."""

    gauss_params: nn.ParameterDict
    shown = Shown()
    """The choices of the viewer's panel; the pipeline puts those of its own panel here."""

    @property
    def renderer(self) -> SplatRenderer[Any]:
        """The renderer that the Gaussians were trained with."""
        raise NotImplementedError

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        """The colours of the Gaussians without the background, and alpha, (H, W, 4) in [0, 1]; see `view_outputs`."""
        alpha = outputs["accumulation"]
        colors = (outputs[output_name] - (1 - alpha) * outputs["background"]) / alpha.clamp(min=1e-6)
        return torch.cat([colors.clamp(0, 1), alpha], dim=-1)

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
        return self.features_dc * SH_C0 + 0.5

    @property
    def shs_0(self) -> Tensor:
        """See `features_dc`. Only ``ns-export`` reads it, whose files have no sky, and do not say how Gaussians are
        drawn."""
        if getattr(part_with(self.renderer, "sky_degree"), "sky_degree", None) is not None:
            report_once(
                "The file of ns-export has no sky. splatkit export --load-config CONFIG --output FILE.ply writes one "
                "that shows it."
            )
        kind = KINDS.get(self.renderer.splat_mode)
        if kind is not None:
            report_once(
                f"These Gaussians are {kind}, and the file of ns-export does not say so: viewers draw it otherwise. "
                "splatkit export --load-config CONFIG --output FILE.ply writes a file that does."
            )
        return self.features_dc

    @property
    def shs_rest(self) -> Tensor:
        """See `features_rest`."""
        return self.features_rest

    @property
    def opacities(self) -> Tensor:
        """Logits, (N, 1)."""
        return self.gauss_params["opacities"][:, None]
