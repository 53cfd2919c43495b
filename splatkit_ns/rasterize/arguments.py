"""The arguments of `rasterization` and `rasterization_2dgs` as three values, made by these public functions.

Only the two public functions have gsplat's long signatures; everything below passes these values on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from splatkit_ns.cameras import LensModel

from .tile_list_space import ListSpace

GsplatRenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
"""All modes of gsplat; our renderers offer those with colours, `splatkit_ns.renderer.RenderMode`."""
RasterizeMode = Literal["classic", "antialiased"]
"""Opacities as they are, or scaled by the area that the blur of small Gaussians adds."""
DepthMode = Literal["expected", "median"]
"""The average depth along a ray, or the one at which half of the light is gone."""
Backend = Literal["splatkit", "gsplat"]
"""The kernels that project Gaussians, and composite 2D ones, on CUDA: ours in Triton, or gsplat's compiled ones."""


@dataclass(frozen=True, eq=False)
class Gaussians:
    """N Gaussians or discs with activated parameters."""

    means: Tensor
    """(N, 3), world units."""
    quats: Tensor
    """(N, 4), wxyz, of any length."""
    scales: Tensor
    """(N, 3), standard deviations in world units."""
    opacities: Tensor
    """(N,), in [0, 1]."""
    colors: Tensor
    """(N, D) or (C, N, D) values, or (N, K, 3) coefficients of spherical harmonics."""
    sh_rest: Tensor | None = None
    """(N, K - 1, 3) coefficients of degrees 1 and up, if `colors` (N, 1, 3) has only those of degree 0."""

    def __len__(self) -> int:
        return len(self.means)

    def with_joined_colors(self) -> Gaussians:
        """Return these Gaussians with all coefficients in `colors`."""
        if self.sh_rest is None:
            return self
        return replace(self, colors=torch.cat([self.colors, self.sh_rest], dim=1), sh_rest=None)


@dataclass(frozen=True, eq=False)
class RasterCameras:
    """C cameras whose images have one size."""

    viewmats: Tensor
    """(C, 4, 4), world to camera, OpenCV axes."""
    Ks: Tensor
    """(C, 3, 3), in pixels."""
    width: int
    """Width of the images in pixels."""
    height: int
    """Height of the images in pixels."""
    lens: LensModel = "pinhole"
    """The lens model of all cameras, pinhole, opencv or opencv_fisheye."""
    distortion: Tensor | None = None
    """The coefficients of the lens model, (C, D); None for a pinhole camera, or if all are 0."""

    def __len__(self) -> int:
        return len(self.viewmats)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height


@dataclass(frozen=True, eq=False, kw_only=True)
class RasterSettings:
    """Options of rasterisation: see `splatkit_ns.rasterize.rasterization`; 2DGS has no eps2d and rasterize_mode."""

    near_plane: float = 0.01
    far_plane: float = 1e10
    radius_clip: float = 0.0
    eps2d: float = 0.3
    sh_degree: int | None = None
    packed: bool = False
    tile_size: int = 16
    backgrounds: Tensor | None = None
    render_mode: GsplatRenderMode = "RGB"
    absgrad: bool = False
    rasterize_mode: RasterizeMode = "classic"
    list_space: ListSpace | None = None
    backend: Backend = "splatkit"

    @property
    def is_antialiased(self) -> bool:
        """Whether opacities are lowered to make up for eps2d."""
        return self.rasterize_mode == "antialiased"


def tensors_by_name(gaussians: Gaussians, cameras: RasterCameras) -> dict[str, Tensor]:
    """The tensors of both, in the order of the public functions' arguments."""
    names = ("means", "quats", "scales", "opacities", "colors")
    tensors: dict[str, Tensor] = {name: getattr(gaussians, name) for name in names}
    tensors |= {} if gaussians.sh_rest is None else {"sh_rest": gaussians.sh_rest}
    tensors |= {"viewmats": cameras.viewmats, "Ks": cameras.Ks}
    return tensors if cameras.distortion is None else tensors | {"distortion": cameras.distortion}
