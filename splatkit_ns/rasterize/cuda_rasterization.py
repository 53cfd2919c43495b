"""`rasterization` on CUDA, by kernels of our own in Triton.

gsplat's compiled code is used only if the user chooses it, for packed renders, and without a working Triton.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from splatkit_ns.triton_kernels import lazy_kernel, run_together

from .arguments import Gaussians, RasterCameras, RasterSettings, tensors_by_name
from .channels import composited_channels, with_expected_depth
from .color_gradients import taken_for
from .cuda import BackendUnavailableError, gsplat_need, require_gsplat
from .projection import Projection, project_by_gsplat, project_in_kernels, project_through_lens
from .unscented import lens_depths, rasterize_unscented, require_unscented_transform
from .versions import radii_have_axes


def rasterize_on_cuda(
    gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """See `splatkit_ns.rasterize.rasterization`. Waits for the GPU only to learn how long the tile lists are."""
    check_float32(gaussians.means)
    with torch.cuda.device_of(gaussians.means):
        if len(gaussians) == 0:
            return _render_backgrounds(gaussians.with_joined_colors(), cameras, settings)
        if settings.backend == "gsplat" and cameras.lens != "pinhole":
            require_unscented_transform()
        need = gsplat_need(settings.backend, settings.packed)
        if need is not None:
            require_gsplat(need)
        if settings.packed:
            return rasterize_with_gsplat(gaussians, cameras, settings)
        if settings.backend == "gsplat" and cameras.lens != "pinhole":
            return _rasterize_through_lens_with_gsplat(gaussians, cameras, settings)
        kernels = own_kernels()
        if kernels is None and cameras.lens != "pinhole":
            raise BackendUnavailableError(
                f"Views through lenses of the model {cameras.lens} are drawn on a GPU by our kernels. "
                f"{own_kernels.failure}. Undistort the images, or render on the CPU."
            )
        if kernels is None:
            require_gsplat(f"{own_kernels.failure}, so that gsplat would have to render.")
            return rasterize_with_gsplat(gaussians, cameras, settings)
        return rasterize_with_own_kernels(kernels, gaussians, cameras, settings)


def check_float32(means: Tensor) -> None:
    """Raise ValueError for another type: the kernels have one."""
    if means.dtype != torch.float32:
        raise ValueError(f"means: expected torch.float32 on CUDA, found {means.dtype}")


LARGE_TILE, SMALL_TILE = 16, 8
TILES_PER_MULTIPROCESSOR = 20
"""Least number of large tiles for each multiprocessor: images with fewer get small tiles. An H200 has 132
multiprocessors, so that the limit is 0.7 megapixels."""


class OwnKernels(NamedTuple):
    """The rasterisation steps that our kernels replace."""

    tile_lists: Callable[..., Any]
    composite: Callable[..., tuple[Tensor, Tensor]]
    project: Projection


def rasterize_with_own_kernels(
    kernels: OwnKernels, gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Project, evaluate spherical harmonics, list the Gaussians on each tile, and composite."""
    width, height = cameras.size
    num_cameras = len(cameras)
    if settings.backend == "gsplat":
        projected = project_by_gsplat(gaussians, cameras, settings)
    elif cameras.lens != "pinhole":
        projected = project_through_lens(gaussians, cameras, settings)
    else:
        projected = kernels.project(gaussians, cameras, settings)
    radii, seen, means2d, depths, conics, opacities = projected
    values, backgrounds = composited_values(gaussians, cameras, settings, depths, seen)
    tile_size = own_tile_size(num_cameras * width * height)
    tiles_x, tiles_y = math.ceil(width / tile_size), math.ceil(height / tile_size)
    lists = kernels.tile_lists(
        means2d, conics, opacities, seen, depths, tiles_x, tiles_y, tile_size, settings.list_space
    )
    images, alphas = kernels.composite(
        means2d, conics, values, opacities, backgrounds, width, height, tile_size, lists, settings.absgrad
    )
    info = {
        "camera_ids": None, "gaussian_ids": None, "radii": radii, "means2d": means2d, "depths": depths,
        "conics": conics, "opacities": opacities, "tile_width": tiles_x, "tile_height": tiles_y,
        "isect_offsets": lists.offsets, "flatten_ids": lists.ids, "width": width, "height": height,
        "tile_size": tile_size, "n_cameras": num_cameras,
    }  # fmt: skip
    return with_expected_depth(images, alphas, settings.render_mode), alphas, info


def _rasterize_through_lens_with_gsplat(
    gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Evaluate spherical harmonics, and let gsplat do the rest with its unscented transform."""
    depths = lens_depths(gaussians.means, cameras)
    values, backgrounds = composited_values(gaussians, cameras, settings, depths, depths >= settings.near_plane)
    images, alphas, info = rasterize_unscented(gaussians, cameras, settings, values, backgrounds)
    return with_expected_depth(images, alphas, settings.render_mode), alphas, {**info, "depths": depths}


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


def composited_values(
    gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings, depths: Tensor, seen: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return the values to composite, (C, N, X), and their background (C, X): colours, depths or both."""
    colors = gaussians.colors
    if settings.sh_degree is not None:
        colors = sh_colors(settings.sh_degree, gaussians, cameras.viewmats, seen)
    elif colors.dim() == 2:
        colors = colors.expand(len(cameras), -1, -1)
    return composited_channels(colors, depths, settings.backgrounds, settings.render_mode)


def sh_colors(degree: int, gaussians: Gaussians, viewmats: Tensor, seen: Tensor) -> Tensor:
    """Return the colours (C, N, 3) of Gaussians with spherical harmonics, seen from each camera."""
    means = gaussians.means
    # the gradient treats a view matrix as any matrix, not as a rigid transform; inv would wait for its error flag
    centres = torch.linalg.inv_ex(viewmats)[0][:, :3, 3] if viewmats.requires_grad else camera_centres(viewmats)
    kernel = sh_kernel()
    if kernel is not None:
        kept = taken_for(gaussians.colors, gaussians.sh_rest, viewmats)
        return kernel(means, gaussians.colors, gaussians.sh_rest, centres, seen, degree, kept)
    require_gsplat(f"{sh_kernel.failure}, so that gsplat would have to evaluate spherical harmonics.")
    from gsplat import spherical_harmonics

    directions = means[None] - centres[:, None]
    coefficients = gaussians.with_joined_colors().colors.expand(len(viewmats), -1, -1, -1)
    return (spherical_harmonics(degree, directions, coefficients, masks=seen) + 0.5).clamp(min=0.0)


def camera_centres(viewmats: Tensor) -> Tensor:
    """Return the positions (C, 3) of cameras."""
    return -(viewmats[:, :3, :3].transpose(1, 2) @ viewmats[:, :3, 3:]).squeeze(-1)


def rasterize_with_gsplat(
    gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Let gsplat do all steps."""
    from gsplat import rasterization

    backgrounds, render_mode = settings.backgrounds, settings.render_mode
    # gsplat 1.5 asserts on packed together with backgrounds (its issues 764 and 826): composite them here instead.
    composite_here = settings.packed and backgrounds is not None
    tensors = tensors_by_name(gaussians.with_joined_colors(), cameras)
    arguments: list[Any] = [*tensors.values(), *cameras.size]
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


@lazy_kernel(otherwise="Projection, tile lists and compositing are gsplat's")
def own_kernels() -> OwnKernels:
    """Projection, tile lists and compositing in Triton, or None if they cannot be used."""
    from . import _compositing_triton as compositing
    from . import _projection_triton as projection
    from . import _tile_lists_triton as lists

    launches = [
        launch
        for tile_size in (LARGE_TILE, SMALL_TILE)
        for launch in (*compositing.first_launches("cuda", tile_size), *lists.first_launches("cuda", tile_size))
    ]
    run_together([*launches, *projection.first_launches("cuda", radii_have_axes())])
    return OwnKernels(lists.tile_lists, compositing.composite, project_in_kernels)


@lru_cache(maxsize=64)
def own_tile_size(pixels: int) -> int:
    """Return the side of a tile: one warp blends a tile, and a multiprocessor needs many warps to hide its latencies.

    Args:
        pixels: number of pixels of all images together.
    """
    multiprocessors = torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count
    return LARGE_TILE if pixels >= LARGE_TILE**2 * TILES_PER_MULTIPROCESSOR * multiprocessors else SMALL_TILE


@lazy_kernel(otherwise="Spherical harmonics are gsplat's")
def sh_kernel() -> Callable[..., Tensor]:
    """Colours from spherical harmonics in Triton, or None if that cannot be used."""
    from ._sh_triton import first_launches, spherical_harmonics

    run_together(first_launches("cuda", stored=16))
    return spherical_harmonics
