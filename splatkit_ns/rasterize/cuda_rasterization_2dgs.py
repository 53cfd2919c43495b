"""`rasterization_2dgs` on CUDA, by kernels of our own in Triton; by gsplat's if the user chooses them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from splatkit_ns.triton_kernels import lazy_kernel, run_together

from .arguments import Gaussians, RasterCameras, RasterSettings
from .channels import composited_channels
from .cuda import gsplat_need, require_gsplat
from .cuda_rasterization import check_float32, composited_values
from .gsplat_rasterization_2dgs import rasterize_2dgs_by_gsplat
from .info_2dgs import Images2DGS, info_of
from .projection_2dgs import Projected, project, project_in_torch
from .surfaces import densification_gradient
from .versions import radii_have_axes


class OwnKernels2DGS(NamedTuple):
    """Compositing of discs in Triton."""

    describe: Callable[..., Any]
    tile_lists: Callable[..., Any]
    composite: Callable[..., tuple[Tensor, ...]]
    tile_size: int
    max_channels: int
    """The most channels that `composite` blends at once."""


def rasterize_2dgs_on_cuda(gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings) -> Images2DGS:
    """See `splatkit_ns.rasterize.rasterization_2dgs`, whose arguments have been checked before."""
    check_float32(gaussians.means)
    with torch.cuda.device_of(gaussians.means):
        if len(gaussians) == 0:
            return _render_backgrounds(gaussians, cameras, settings)
        need = gsplat_need(settings.backend)
        kernels = own_kernels_2dgs() if need is None else None
        if need is None and kernels is None:
            need = f"{own_kernels_2dgs.failure}, so that gsplat would have to render."
        if kernels is not None and settings.absgrad and _channels(gaussians, settings) > kernels.max_channels:
            # absolute gradients of groups of channels do not add up to those of all
            need = f"absgrad with more than {kernels.max_channels} channels is gsplat's."
        if need is not None or kernels is None:
            require_gsplat(need or "")
            return rasterize_2dgs_by_gsplat(gaussians, cameras, settings)
        return _rasterize_with_own_kernels(kernels, gaussians, cameras, settings)


def _rasterize_with_own_kernels(
    kernels: OwnKernels2DGS, gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings
) -> Images2DGS:
    """Project, describe the discs, evaluate spherical harmonics, list the discs on each tile, and composite.

    A disc covers exactly the pixels where its alpha is at least 1/255 in front of the camera, as on the CPU.
    """
    tile_size = kernels.tile_size
    projected = project(gaussians, cameras)
    rays = projected.ray_transforms
    discs = kernels.describe(rays, gaussians.opacities, cameras.size, settings, radii_have_axes())
    opacities = gaussians.opacities.expand(len(cameras), -1)
    values, backgrounds = composited_values(gaussians, cameras, settings, projected.depths, discs.seen)
    lists = kernels.tile_lists(
        discs.centres, discs.conics, opacities, discs.seen, projected.depths.detach(),
        math.ceil(cameras.width / tile_size), math.ceil(cameras.height / tile_size), tile_size, settings.list_space,
    )  # fmt: skip
    images, alphas, normals, distortion, median = kernels.composite(
        projected.means2d, rays, values, projected.normals, opacities, backgrounds, discs, lists, cameras.size,
        settings.render_mode != "RGB", settings.absgrad,
    )  # fmt: skip
    return (
        images,
        alphas,
        normals,
        distortion,
        median,
        info_of(projected, discs.radii, opacities, cameras.size, tile_size),
    )


def _render_backgrounds(gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings) -> Images2DGS:
    """Render backgrounds alone, in the graph."""
    gaussians = gaussians.with_joined_colors()
    means, colors, num_cameras = gaussians.means, gaussians.colors, len(cameras)
    means2d, depths, rays, normals = project_in_torch(gaussians, cameras)
    rays, probe = densification_gradient(rays)
    projected = Projected(means2d, depths, rays, normals, probe)
    values = colors.reshape(0, colors.shape[-1]).expand(num_cameras, -1, -1)
    values, backgrounds = composited_channels(values, depths, settings.backgrounds, settings.render_mode)
    opacities = gaussians.opacities.expand(num_cameras, -1)
    nothing = sum(tensor.sum() for tensor in (means2d, rays, values, opacities, normals))
    blank = means.new_zeros(num_cameras, cameras.height, cameras.width, 1) + nothing
    images = blank + (means.new_zeros(values.shape[-1]) if backgrounds is None else backgrounds[:, None, None])
    radii = torch.zeros(means2d.shape if radii_have_axes() else depths.shape, dtype=torch.int32, device=means.device)
    info = info_of(projected, radii, opacities, cameras.size, settings.tile_size)
    return images, blank, blank.expand(-1, -1, -1, 3), blank, blank, info


def _channels(gaussians: Gaussians, settings: RasterSettings) -> int:
    """Return the number of channels of an image."""
    colors = 0 if not settings.render_mode.startswith("RGB") else gaussians.colors.shape[-1]
    return colors + ("D" in settings.render_mode)


@lazy_kernel(otherwise="Compositing of 2D Gaussians is gsplat's")
def own_kernels_2dgs() -> OwnKernels2DGS:
    """Tile lists and compositing of discs in Triton, or None if they cannot be used."""
    from . import _compositing_2dgs_triton as compositing
    from . import _discs_triton as discs
    from . import _tile_lists_triton as lists
    from ._blending_triton import MAX_CHANNELS

    tile = compositing.TILE
    launches = [discs.first_launch("cuda", radii_have_axes()), *compositing.first_launches("cuda")]
    run_together([*launches, *lists.first_launches("cuda", tile)])
    return OwnKernels2DGS(discs.describe, lists.tile_lists, compositing.composite_discs, tile, MAX_CHANNELS)
