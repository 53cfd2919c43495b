"""`rasterization_2dgs` on the CPU: the kernels combined as in gsplat."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ..arguments import Gaussians, RasterCameras, RasterSettings
from ..surfaces import densification_gradient
from ..versions import radii_have_axes
from .autograd_2dgs import CompositeDiscs, ProjectDiscs
from .rasterization import check_all_finite, composited_channels
from .tiles import TILE


def rasterize_2dgs_on_cpu(
    gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
    """See `splatkit_ns.rasterize.rasterization_2dgs`, whose arguments have been checked before.

    Returns images with depth accumulated, alphas, normals in camera space, distortion, median depth and the info dict.

    The geometry does not depend on the installed gsplat: a disc covers exactly the pixels where its alpha is at least
    1/255 in front of the camera. gsplat lists discs in tiles by a box of about 3 standard deviations, which cuts the
    near side of discs that stretch towards the camera and the rim of small ones; and it also draws discs behind the
    camera.
    """
    check_all_finite(gaussians, cameras, settings)
    gaussians = gaussians.with_joined_colors()
    width, height = cameras.size
    means2d, depths, transforms, normals, radii, footprints, records = cast(
        "tuple[Tensor, ...]",
        ProjectDiscs.apply(
            gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, cameras.viewmats, cameras.Ks,
            cameras.size, settings,
        ),
    )  # fmt: skip
    transforms, probe = densification_gradient(transforms)
    view_opacities = gaussians.opacities.expand(len(cameras), -1)
    channels, backgrounds = composited_channels(gaussians, cameras, settings, depths, radii)
    shown = channels.shape[-1]
    if backgrounds is None:
        backgrounds = means2d.new_zeros(len(cameras), shown)
    images, alphas, distortion, median = cast(
        "tuple[Tensor, ...]",
        CompositeDiscs.apply(
            means2d, transforms, view_opacities, torch.cat([channels, normals], dim=-1),
            torch.nn.functional.pad(backgrounds, (0, 3)), depths, radii, footprints, records,
            -1 if settings.render_mode == "RGB" else shown - 1, width, height, settings.absgrad,
        ),
    )  # fmt: skip
    info = {
        "camera_ids": None,
        "gaussian_ids": None,
        "radii": radii if radii_have_axes() else radii.amax(-1),
        "means2d": means2d,
        "depths": depths,
        "ray_transforms": transforms,
        "opacities": view_opacities,
        "normals": normals,
        "tile_width": -(-width // TILE),
        "tile_height": -(-height // TILE),
        "width": width,
        "height": height,
        "tile_size": TILE,
        "n_cameras": len(cameras),
        "gradient_2dgs": probe,
    }
    return images[..., :shown], alphas, images[..., shown:], distortion, median, info
