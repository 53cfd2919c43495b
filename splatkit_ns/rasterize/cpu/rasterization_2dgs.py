"""`rasterization_2dgs` on the CPU: the kernels combined as in gsplat."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ..arguments import Gaussians, RasterCameras, RasterSettings
from ..info_2dgs import Images2DGS, info_of
from ..projection_2dgs import Projected
from ..surfaces import densification_gradient
from ..versions import radii_have_axes
from .autograd_2dgs import CompositeDiscs, ProjectDiscs
from .rasterization import check_all_finite, composited_values
from .tiles import TILE


def rasterize_2dgs_on_cpu(gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings) -> Images2DGS:
    """See `splatkit_ns.rasterize.rasterization_2dgs`, whose arguments have been checked before.

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
    values, backgrounds = composited_values(gaussians, cameras, settings, depths, radii)
    shown = values.shape[-1]
    if backgrounds is None:
        backgrounds = means2d.new_zeros(len(cameras), shown)
    images, alphas, distortion, median = cast(
        "tuple[Tensor, ...]",
        CompositeDiscs.apply(
            means2d, transforms, view_opacities, torch.cat([values, normals], dim=-1),
            torch.nn.functional.pad(backgrounds, (0, 3)), depths, radii, footprints, records,
            -1 if settings.render_mode == "RGB" else shown - 1, width, height, settings.absgrad,
        ),
    )  # fmt: skip
    projected = Projected(means2d, depths, transforms, normals, probe)
    info = info_of(projected, radii if radii_have_axes() else radii.amax(-1), view_opacities, cameras.size, TILE)
    return images[..., :shown], alphas, images[..., shown:], distortion, median, info
