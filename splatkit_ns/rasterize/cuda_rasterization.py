"""`rasterization` on CUDA: the projection of either gsplat version, then kernels of our own.

Without Triton, and for packed renders, gsplat does all steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from splatkit_ns.triton_kernels import lazy_kernel, run_together

from .arguments import Gaussians, GsplatRenderMode, RasterCameras, RasterSettings, tensors_by_name
from .cuda import BackendUnavailableError, check_cuda_backend
from .lens_projection import project_with_lens
from .versions import radii_have_axes


def rasterize_on_cuda(
    gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """See `splatkit_ns.rasterize.rasterization`. Waits for the GPU only where gsplat does, too."""
    check_cuda_backend()
    with torch.cuda.device_of(gaussians.means):
        if len(gaussians) == 0:
            return _render_backgrounds(gaussians, cameras, settings)
        kernels = None if settings.packed else own_kernels()
        if kernels is None:
            if cameras.lens != "pinhole":
                raise BackendUnavailableError(
                    f"Views through lenses of the model {cameras.lens} are drawn on a GPU by our kernels, which need "
                    "Triton: install triton, or undistort the images."
                )
            return _rasterize_with_gsplat(gaussians, cameras, settings)
        return _rasterize_with_own_kernels(kernels, gaussians, cameras, settings)


LARGE_TILE, SMALL_TILE = 16, 8
TILES_PER_MULTIPROCESSOR = 20
"""Least number of large tiles for each multiprocessor: images with fewer get small tiles. An H200 has 132
multiprocessors, so that the limit is 0.7 megapixels."""


class OwnKernels(NamedTuple):
    """The rasterisation steps that our kernels replace."""

    tile_lists: Callable[..., Any]
    composite: Callable[..., tuple[Tensor, Tensor]]
    max_channels: int
    """The most channels that `composite` can blend."""


def _rasterize_with_own_kernels(
    kernels: OwnKernels, gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Run a projection, then our spherical harmonics, tile lists and, for up to four channels, compositing."""
    from gsplat import rasterize_to_pixels

    (width, height), tile_size = cameras.size, settings.tile_size
    radii, means2d, depths, conics, compensations = _project(gaussians, cameras, settings)
    num_cameras = len(cameras)
    seen = (radii > 0).all(-1) if radii.dim() == 3 else radii > 0
    opacities = gaussians.opacities.expand(num_cameras, -1)
    if settings.is_antialiased:
        opacities = opacities * compensations
    colors = gaussians.colors
    if settings.sh_degree is not None:
        colors = sh_colors(settings.sh_degree, gaussians.means, colors, cameras.viewmats, seen)
    elif colors.dim() == 2:
        colors = colors.expand(num_cameras, -1, -1)
    colors, backgrounds = composited_channels(colors, depths, settings.backgrounds, settings.render_mode)
    uses_own_compositing = colors.shape[-1] <= kernels.max_channels
    if uses_own_compositing:
        tile_size = own_tile_size(num_cameras * width * height)
    tiles_x, tiles_y = math.ceil(width / tile_size), math.ceil(height / tile_size)
    lists = kernels.tile_lists(
        means2d, conics, opacities, seen, depths, tiles_x, tiles_y, tile_size, settings.list_space
    )
    if uses_own_compositing:
        images, alphas = kernels.composite(
            means2d, conics, colors, opacities, backgrounds, width, height, tile_size, lists, settings.absgrad
        )
    else:
        images, alphas = rasterize_to_pixels(
            means2d, conics, colors, opacities, width, height, tile_size, lists.offsets, lists.ids,
            backgrounds=backgrounds, absgrad=settings.absgrad,
        )  # fmt: skip
    if "ED" in settings.render_mode:
        images = torch.cat([images[..., :-1], images[..., -1:] / alphas.clamp(min=1e-10)], dim=-1)
    info = {
        "camera_ids": None, "gaussian_ids": None, "radii": radii, "means2d": means2d, "depths": depths,
        "conics": conics, "opacities": opacities, "tile_width": tiles_x, "tile_height": tiles_y,
        "isect_offsets": lists.offsets, "flatten_ids": lists.ids, "width": width, "height": height,
        "tile_size": tile_size, "n_cameras": num_cameras,
    }  # fmt: skip
    return images, alphas, info


def _project(
    gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Radii, means2d, depths, conics and compensations: gsplat's for pinhole cameras, else those of PyTorch."""
    if cameras.lens != "pinhole":
        found = project_with_lens(gaussians, cameras, settings)
        radii = found.radii if radii_have_axes() else found.radii.amax(-1)
        return radii, found.means2d, found.depths, found.conics, found.compensations
    from gsplat import fully_fused_projection

    return fully_fused_projection(
        gaussians.means, None, gaussians.quats, gaussians.scales, cameras.viewmats, cameras.Ks, *cameras.size,
        near_plane=settings.near_plane, far_plane=settings.far_plane, radius_clip=settings.radius_clip,
        eps2d=settings.eps2d, calc_compensations=settings.is_antialiased,
    )  # fmt: skip


def _render_backgrounds(
    gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Render backgrounds alone, in the graph: without Gaussians gsplat 1.5 divides by 0, which ends the process."""
    means, colors, num_cameras = gaussians.means, gaussians.colors, len(cameras)
    (width, height), tile_size = cameras.size, settings.tile_size
    depths = means[:, 2].expand(num_cameras, -1)
    means2d: Any = means[:, :2].expand(num_cameras, -1, -1)
    values = colors.reshape(0, colors.shape[-1]).expand(num_cameras, -1, -1)
    values, backgrounds = composited_channels(values, depths, settings.backgrounds, settings.render_mode)
    if settings.packed:
        means2d, depths = means2d.flatten(0, 1), depths.flatten()
    if settings.absgrad:
        means2d.absgrad = torch.zeros_like(means2d)
    unused = (gaussians.quats, gaussians.scales, gaussians.opacities)
    nothing = sum(tensor.sum() for tensor in (means2d, depths, *unused, values))
    alphas = means.new_zeros(num_cameras, height, width, 1) + nothing
    images = alphas + (means.new_zeros(values.shape[-1]) if backgrounds is None else backgrounds[:, None, None])
    radii = torch.zeros(means2d.shape if radii_have_axes() else depths.shape, dtype=torch.int32, device=means.device)
    ids = radii.new_zeros(0, dtype=torch.int64) if settings.packed else None
    tiles_x, tiles_y = math.ceil(width / tile_size), math.ceil(height / tile_size)
    info = {
        "camera_ids": ids, "gaussian_ids": ids, "radii": radii, "means2d": means2d, "depths": depths,
        "conics": means2d.new_zeros(*depths.shape, 3), "opacities": means2d.new_zeros(depths.shape),
        "tile_width": tiles_x, "tile_height": tiles_y,
        "isect_offsets": radii.new_zeros(num_cameras, tiles_y, tiles_x), "flatten_ids": radii.new_zeros(0),
        "width": width, "height": height, "tile_size": tile_size, "n_cameras": num_cameras,
    }  # fmt: skip
    return images, alphas, info


def sh_colors(degree: int, means: Tensor, coefficients: Tensor, viewmats: Tensor, seen: Tensor) -> Tensor:
    """Return the colours (C, N, 3) of spherical harmonics seen from each camera."""
    kernel = None if viewmats.requires_grad else sh_kernel()
    if kernel is not None:
        return kernel(means, coefficients, camera_centres(viewmats), seen, degree)
    from gsplat import spherical_harmonics

    # gsplat's gradient treats a view matrix as any matrix, not as a rigid transform; inv would wait for its error flag
    centres = torch.linalg.inv_ex(viewmats)[0][:, :3, 3] if viewmats.requires_grad else camera_centres(viewmats)
    directions = means[None] - centres[:, None]
    coefficients = coefficients[None].expand(len(viewmats), -1, -1, -1)
    return (spherical_harmonics(degree, directions, coefficients, masks=seen) + 0.5).clamp(min=0.0)


def camera_centres(viewmats: Tensor) -> Tensor:
    """Return the positions (C, 3) of cameras."""
    return -(viewmats[:, :3, :3].transpose(1, 2) @ viewmats[:, :3, 3:]).squeeze(-1)


def composited_channels(
    colors: Tensor, depths: Tensor, backgrounds: Tensor | None, render_mode: GsplatRenderMode
) -> tuple[Tensor, Tensor | None]:
    """Return the values to composite, (C, N, X), and the background of each channel (C, X); that of depth is 0."""
    if render_mode == "RGB":
        return colors, backgrounds
    depth = depths[..., None]
    if not render_mode.startswith("RGB"):
        return depth, None
    if backgrounds is not None:
        backgrounds = torch.nn.functional.pad(backgrounds, (0, 1))
    return torch.cat([colors, depth], dim=-1), backgrounds


def _rasterize_with_gsplat(
    gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Let gsplat do all steps."""
    from gsplat import rasterization

    backgrounds, render_mode = settings.backgrounds, settings.render_mode
    # gsplat 1.5 asserts on packed together with backgrounds (its issues 764 and 826): composite them here instead.
    composite_here = settings.packed and backgrounds is not None
    arguments: list[Any] = [*tensors_by_name(gaussians, cameras).values(), *cameras.size]
    renders, alphas, info = rasterization(
        *arguments,
        near_plane=settings.near_plane, far_plane=settings.far_plane, radius_clip=settings.radius_clip,
        eps2d=settings.eps2d, sh_degree=settings.sh_degree, packed=settings.packed, tile_size=settings.tile_size,
        backgrounds=None if composite_here else backgrounds, render_mode=render_mode, absgrad=settings.absgrad,
        rasterize_mode=settings.rasterize_mode,
    )  # fmt: skip
    if composite_here and backgrounds is not None and render_mode.startswith("RGB"):
        channels = backgrounds.shape[-1]
        behind = (1.0 - alphas) * backgrounds[:, None, None, :]
        renders = torch.cat([renders[..., :channels] + behind, renders[..., channels:]], dim=-1)
    return renders, alphas, info


@lazy_kernel(otherwise="Tile lists and compositing are gsplat's")
def own_kernels() -> OwnKernels:
    """Tile lists and compositing in Triton, or None if they cannot be used."""
    from . import _compositing_triton as compositing
    from . import _tile_lists_triton as lists

    launches = [
        launch
        for tile_size in (LARGE_TILE, SMALL_TILE)
        for launch in (*compositing.first_launches("cuda", tile_size), *lists.first_launches("cuda", tile_size))
    ]
    run_together(launches)
    return OwnKernels(lists.tile_lists, compositing.composite, compositing.MAX_CHANNELS)


@lru_cache(maxsize=64)
def own_tile_size(pixels: int) -> int:
    """Return the side of a tile: one warp blends a tile, and a multiprocessor needs many warps to hide its latencies.

    Args:
        pixels: number of pixels of all images together.
    """
    multiprocessors = torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count
    return LARGE_TILE if pixels >= LARGE_TILE**2 * TILES_PER_MULTIPROCESSOR * multiprocessors else SMALL_TILE


@lazy_kernel(otherwise="Spherical harmonics are gsplat's")
def sh_kernel() -> Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]:
    """Colours from spherical harmonics in Triton, or None if that cannot be used."""
    from ._sh_triton import first_launches, spherical_harmonics

    run_together(first_launches("cuda", stored=16))
    return spherical_harmonics
