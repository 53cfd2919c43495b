"""`rasterization_2dgs` on CUDA: the kernels of either gsplat version, with workarounds for their faults.

Cameras are composited one at a time: with several at once gsplat 1.4 writes the normals, distortion and median
depth of all of them over those of the first.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .arguments import Gaussians, RasterCameras, RasterSettings
from .cuda import check_cuda_backend
from .cuda_rasterization import composited_channels, sh_colors
from .projection_2dgs import Projected, project

CHANNELS = (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512)
"""The numbers of channels that gsplat's kernels are compiled for."""


def rasterize_2dgs_on_cuda(
    gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
    """See `splatkit_ns.rasterize.rasterization_2dgs`, whose arguments have been checked before.

    Returns images with depth accumulated, alphas, normals in camera space, distortion, median depth and the info dict.
    """
    check_cuda_backend()
    num_cameras, tile_size = len(cameras), settings.tile_size
    if settings.absgrad and num_cameras > 1:
        raise ValueError(f"absgrad: expected one camera with 2D Gaussians on CUDA, found {num_cameras}")
    projected = project(gaussians, cameras, settings)
    radii, means2d, depths = projected.radii, projected.means2d, projected.depths
    colors = gaussians.colors
    if len(gaussians) == 0:
        colors = colors.reshape(0, colors.shape[-1]).expand(num_cameras, -1, -1)
    elif settings.sh_degree is not None:
        colors = sh_colors(settings.sh_degree, gaussians.means, colors, cameras.viewmats, projected.seen)
    elif colors.dim() == 2:
        colors = colors.expand(num_cameras, -1, -1)
    values, backgrounds = composited_channels(colors, depths, settings.backgrounds, settings.render_mode)
    values, backgrounds, padding = _pad(values, backgrounds)
    opacities = gaussians.opacities.expand(num_cameras, -1)
    tiles = math.ceil(cameras.width / tile_size), math.ceil(cameras.height / tile_size)
    info = _info(projected, opacities, *cameras.size, tile_size)
    per_camera = (radii, means2d, depths, projected.ray_transforms, values, opacities, projected.normals)
    images = [
        _composite(
            *(_camera_slice(tensor, c) for tensor in per_camera),
            background=None if backgrounds is None else _camera_slice(backgrounds, c),
            size=cameras.size, tile_size=tile_size, tiles=tiles, absgrad=settings.absgrad,
        )
        for c in range(num_cameras)
    ]  # fmt: skip
    renders, alphas, normals, distortion, median = (
        torch.cat(parts) if num_cameras > 1 else parts[0] for parts in zip(*images, strict=True)
    )
    if padding:
        renders = torch.cat([renders[..., : -1 - padding], renders[..., -1:]], dim=-1)
    return renders, alphas, normals, distortion, median, info


def _camera_slice(tensor: Tensor, camera: int) -> Tensor:
    """Return (1, ...) of (C, ...); for C = 1 the tensor itself, because gsplat stores `absgrad` on its argument."""
    return tensor if len(tensor) == 1 else tensor[camera : camera + 1]


def _pad(values: Tensor, backgrounds: Tensor | None) -> tuple[Tensor, Tensor | None, int]:
    """Pad with zeros before the last channel, the depth, up to a number of channels in `CHANNELS`; return their number.

    gsplat's own padding is uninitialised memory, and 1.4 uses its last channel as the depth.
    """
    channels = values.shape[-1]
    padding = min((c for c in CHANNELS if c >= channels), default=channels) - channels
    if padding:
        zeros = values.new_zeros(*values.shape[:2], padding)
        values = torch.cat([values[..., :-1], zeros, values[..., -1:]], dim=-1)
        if backgrounds is not None:
            zeros = backgrounds.new_zeros(len(backgrounds), padding)
            backgrounds = torch.cat([backgrounds[:, :-1], zeros, backgrounds[:, -1:]], dim=-1)
    return values, backgrounds, padding


def _composite(
    radii: Tensor, means2d: Tensor, depths: Tensor, ray_transforms: Tensor, values: Tensor, opacities: Tensor,
    normals: Tensor, *, background: Tensor | None, size: tuple[int, int], tile_size: int, tiles: tuple[int, int],
    absgrad: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Return image, alpha, normals, distortion and median depth of one camera; the arguments' first dimension is 1."""
    from gsplat import isect_offset_encode, isect_tiles, rasterize_to_pixels_2dgs

    if means2d.shape[1] == 0:
        empty = (tensor.sum() for tensor in (means2d, ray_transforms, values, opacities, normals))
        blank = (means2d.new_zeros(()) + sum(empty)).expand(1, size[1], size[0], 1)
        image = blank + (values.new_zeros(values.shape[-1]) if background is None else background[0])
        return image, blank, blank.expand(-1, -1, -1, 3), blank, blank
    _, keys, ids = isect_tiles(means2d, radii, depths, tile_size, *tiles)
    offsets = isect_offset_encode(keys, 1, *tiles)
    unused = torch.zeros_like(means2d)  # would get gsplat's own gradient for densification
    return rasterize_to_pixels_2dgs(
        means2d, ray_transforms, values, opacities, normals, unused, *size, tile_size, offsets, ids,
        backgrounds=background, absgrad=absgrad,
    )  # fmt: skip


def _info(projected: Projected, opacities: Tensor, width: int, height: int, tile_size: int) -> dict[str, Any]:
    return {
        "camera_ids": None, "gaussian_ids": None, "radii": projected.radii, "means2d": projected.means2d,
        "depths": projected.depths, "ray_transforms": projected.ray_transforms, "opacities": opacities,
        "normals": projected.normals, "tile_width": math.ceil(width / tile_size),
        "tile_height": math.ceil(height / tile_size), "width": width, "height": height, "tile_size": tile_size,
        "n_cameras": len(opacities), "gradient_2dgs": projected.probe,
    }  # fmt: skip
