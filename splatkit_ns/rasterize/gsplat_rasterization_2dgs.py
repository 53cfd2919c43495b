"""`rasterization_2dgs` on CUDA by the kernels of either gsplat version, with workarounds for their faults.

Cameras are composited one at a time: with several at once gsplat 1.4 writes the normals, distortion and median
depth of all of them over those of the first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .arguments import Gaussians, RasterCameras, RasterSettings
from .cuda_rasterization import composited_values
from .info_2dgs import Images2DGS, info_of
from .projection_2dgs import project_by_gsplat

CHANNELS = (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512)
"""The numbers of channels that gsplat's kernels are compiled for."""


def rasterize_2dgs_by_gsplat(gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings) -> Images2DGS:
    """Do the same as `cuda_rasterization_2dgs.rasterize_2dgs_on_cuda` for N > 0 with gsplat's compiled code.

    Raises:
        ValueError: absgrad is wanted of several cameras.
    """
    num_cameras, tile_size = len(cameras), settings.tile_size
    if settings.absgrad and num_cameras > 1:
        raise ValueError(f"absgrad: expected one camera with gsplat's 2D Gaussians, found {num_cameras}")
    radii, projected = project_by_gsplat(gaussians, cameras, settings)
    means2d, depths = projected.means2d, projected.depths
    seen = (radii > 0).all(-1) if radii.dim() == 3 else radii > 0
    values, backgrounds = composited_values(gaussians, cameras, settings, depths, seen)
    values, backgrounds, padding = _pad(values, backgrounds)
    opacities = gaussians.opacities.expand(num_cameras, -1)
    tiles = math.ceil(cameras.width / tile_size), math.ceil(cameras.height / tile_size)
    info = info_of(projected, radii, opacities, cameras.size, tile_size)
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

    _, keys, ids = isect_tiles(means2d, radii, depths, tile_size, *tiles)
    offsets = isect_offset_encode(keys, 1, *tiles)
    unused = torch.zeros_like(means2d)  # would get gsplat's own gradient for densification
    return rasterize_to_pixels_2dgs(
        means2d, ray_transforms, values, opacities, normals, unused, *size, tile_size, offsets, ids,
        backgrounds=background, absgrad=absgrad,
    )  # fmt: skip
