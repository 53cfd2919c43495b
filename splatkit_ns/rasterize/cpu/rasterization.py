"""`rasterization` on the CPU: the kernels combined as in gsplat."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ..arguments import Gaussians, RasterCameras, RasterSettings, tensors_by_name
from ..channels import composited_channels, with_expected_depth
from ..checks import check_finite
from ..versions import radii_have_axes
from .autograd import Composite, Project, ShColours, lens_of_kernels
from .tiles import TILE


def rasterize_on_cpu(
    gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """See `splatkit_ns.rasterize.rasterization`, whose arguments have been checked before.

    The geometry does not depend on the installed gsplat: a Gaussian covers exactly the ellipse where its alpha is at
    least 1/255, and its radii are that ellipse's half-widths along x and y, rounded up (as gsplat 1.5 has them). gsplat
    1.4 has squares of 3 standard deviations instead: at the edge of a tile they cut a rim (alpha up to 0.011) off
    opaque Gaussians, and they list faint ones in many tiles to no effect.
    """
    if settings.packed:
        raise ValueError("packed: expected False on the CPU, found True (packing is a memory layout of gsplat on CUDA)")
    check_all_finite(gaussians, cameras, settings)
    gaussians = gaussians.with_joined_colors()
    width, height = cameras.size
    means2d, depths, conics, compensations, radii = cast(
        "tuple[Tensor, ...]",
        Project.apply(
            gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, cameras.viewmats, cameras.Ks,
            cameras.size, lens_of_kernels(cameras), settings,
        ),
    )  # fmt: skip
    view_opacities = gaussians.opacities.expand(len(cameras), -1)
    if settings.is_antialiased:
        view_opacities = view_opacities * compensations
    values, backgrounds = composited_values(gaussians, cameras, settings, depths, radii)
    renders, alphas = cast(
        "tuple[Tensor, Tensor]",
        Composite.apply(
            means2d, conics, view_opacities, values, backgrounds, depths, radii, width, height, settings.absgrad
        ),
    )
    info = {
        "means2d": means2d,
        "radii": radii if radii_have_axes() else radii.amax(-1),
        "depths": depths,
        "conics": conics,
        "opacities": view_opacities,
        "gaussian_ids": None,
        "camera_ids": None,
        "batch_ids": None,
        "width": width,
        "height": height,
        "n_cameras": len(cameras),
        "n_batches": 1,
        "tile_size": TILE,
        "tile_width": -(-width // TILE),
        "tile_height": -(-height // TILE),
    }
    return with_expected_depth(renders, alphas, settings.render_mode), alphas, info


def check_all_finite(gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings) -> None:
    """Raise ValueError naming the first argument with a NaN or infinity."""
    for name, tensor in tensors_by_name(gaussians, cameras).items():
        check_finite(name, tensor)
    if settings.backgrounds is not None:
        check_finite("backgrounds", settings.backgrounds)


def composited_values(
    gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings, depths: Tensor, radii: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return the values to composite, (C, N, X), and their background (C, X): colours, depths or both."""
    colors = gaussians.colors
    if settings.sh_degree is None:
        colors = colors.expand(len(cameras), -1, -1)
    elif settings.render_mode.startswith("RGB"):
        centres = torch.inverse(cameras.viewmats)[:, :3, 3]
        colors = cast("Tensor", ShColours.apply(gaussians.means, centres, colors, radii, settings.sh_degree))
    return composited_channels(colors, depths, settings.backgrounds, settings.render_mode)
