"""The image models that come with the package, one of which an option chooses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from splatkit_ns.image_model.affine import AffineColor
from splatkit_ns.image_model.base import IdentityImageModel, SplatImageModel
from splatkit_ns.image_model.bilateral_grid import BilateralGrid
from splatkit_ns.image_model.ppisp import PPISP
from splatkit_ns.parts.image_frame import ImageFrame
from splatkit_ns.parts.payload import SplatRenderPayload


@dataclass
class ImageModelChoice(SplatImageModel[SplatRenderPayload]):
    """The image model that `kind` names, with its settings. A run uses the chosen model itself."""

    kind: Literal["none", "affine", "bilateral-grid", "ppisp"] = "none"
    """The model of what differs from photograph to photograph and is not the scene's, such as exposure and white
    balance. none: photographs are compared with renders as they are."""
    affine: AffineColor = field(default_factory=AffineColor)
    """An affine map of the colours for each photograph."""
    bilateral_grid: BilateralGrid = field(default_factory=BilateralGrid)
    """A grid of affine maps over place and luminance for each photograph."""
    ppisp: PPISP = field(default_factory=PPISP)
    """Exposure, vignetting, colour correction and response curve of cameras."""

    @property
    def chosen(self) -> SplatImageModel[Any]:
        """The model that `kind` names."""
        models = {"affine": self.affine, "bilateral-grid": self.bilateral_grid, "ppisp": self.ppisp}
        return models.get(self.kind) or IdentityImageModel()

    def apply(self, rendered: Tensor, frame: ImageFrame) -> Tensor:
        raise NotImplementedError("a run uses the chosen image model")
