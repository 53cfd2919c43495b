"""The results of `rasterization_2dgs` in the form that all its kernels share."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from .projection_2dgs import Projected

Images2DGS = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, dict[str, Any]]
"""Images with depth accumulated, alphas, normals in camera space, distortion, median depth and the info dict."""


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
