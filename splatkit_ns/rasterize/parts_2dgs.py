"""Parts of `rasterization_2dgs` on CUDA that are the same for our kernels and gsplat's."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from .arguments import Gaussians, RasterCameras, RasterSettings
from .cuda_rasterization import composited_channels, sh_colors
from .projection_2dgs import Projected

Images2DGS = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, dict[str, Any]]
"""Images with depth accumulated, alphas, normals in camera space, distortion, median depth and the info dict."""


def values_of(
    gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings, depths: Tensor, seen: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return the values to composite, (C, N, X), and their background (C, X): colours, depths or both."""
    colors = gaussians.colors
    if settings.sh_degree is not None:
        colors = sh_colors(settings.sh_degree, gaussians, cameras.viewmats, seen)
    elif colors.dim() == 2:
        colors = colors.expand(len(cameras), -1, -1)
    return composited_channels(colors, depths, settings.backgrounds, settings.render_mode)


def info_of(
    projected: Projected, radii: Tensor, opacities: Tensor, size: tuple[int, int], tile_size: int
) -> dict[str, Any]:
    """Return gsplat's dict of intermediate results."""
    width, height = size
    return {
        "camera_ids": None, "gaussian_ids": None, "radii": radii, "means2d": projected.means2d,
        "depths": projected.depths, "ray_transforms": projected.ray_transforms, "opacities": opacities,
        "normals": projected.normals, "tile_width": math.ceil(width / tile_size),
        "tile_height": math.ceil(height / tile_size), "width": width, "height": height, "tile_size": tile_size,
        "n_cameras": len(opacities), "gradient_2dgs": projected.probe,
    }  # fmt: skip
