"""`rasterization_2dgs` on CUDA: gsplat's kernels, with its versions' differences and faults handled.

Cameras are composited one at a time: with several at once gsplat 1.4 writes all of them over the first one's normals,
distortion and median depth.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .checks import RenderMode
from .cuda import check_cuda_backend
from .cuda_rasterization import composited_channels, sh_colors
from .surfaces import densification_gradient
from .versions import gsplat_version

CHANNELS = (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512)
"""What gsplat's kernels are compiled for."""


class _Projected(NamedTuple):
    """gsplat's projection: radii as the version has them, means2d (C, N, 2), depths (C, N), ..."""

    radii: Tensor
    means2d: Tensor
    depths: Tensor
    ray_transforms: Tensor
    """(C, N, 3, 3): (u, v, 1) on the disc, in standard deviations, to (x z, y z, z) on the screen."""
    normals: Tensor
    """(C, N, 3), camera space."""


def rasterize_2dgs_on_cuda(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, viewmats: Tensor, Ks: Tensor,
    width: int, height: int, *, near_plane: float, far_plane: float, radius_clip: float, sh_degree: int | None,
    tile_size: int, backgrounds: Tensor | None, render_mode: RenderMode, absgrad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:  # fmt: skip
    """See `splatkit_ns.rasterize.rasterization_2dgs`, whose arguments have been checked before.

    Returns images with depth accumulated, alphas, normals in camera space, distortion, median depth and the info dict.
    """
    check_cuda_backend()
    num_cameras = len(viewmats)
    if absgrad and num_cameras > 1:
        raise ValueError(f"absgrad: expected one camera with 2D Gaussians on CUDA, found {num_cameras}")
    projected = _project(means, quats, scales, viewmats, Ks, width, height, near_plane, far_plane, radius_clip)
    radii, means2d, depths = projected.radii, projected.means2d, projected.depths
    if len(means) == 0:
        colors = colors.reshape(0, colors.shape[-1]).expand(num_cameras, -1, -1)
    elif sh_degree is not None:
        colors = sh_colors(sh_degree, means, colors, viewmats, _seen(radii))
    elif colors.dim() == 2:
        colors = colors.expand(num_cameras, -1, -1)
    values, backgrounds = composited_channels(colors, depths, backgrounds, render_mode)
    values, backgrounds, padding = _pad(values, backgrounds)
    ray_transforms, probe = densification_gradient(projected.ray_transforms)
    opacities = opacities.expand(num_cameras, -1)
    tiles = math.ceil(width / tile_size), math.ceil(height / tile_size)
    info = _info(radii, means2d, depths, ray_transforms, opacities, projected.normals, probe, width, height, tile_size)
    per_camera = (radii, means2d, depths, ray_transforms, values, opacities, projected.normals)
    images = [
        _composite(
            *(_of_camera(tensor, c) for tensor in per_camera),
            background=None if backgrounds is None else _of_camera(backgrounds, c),
            size=(width, height), tile_size=tile_size, tiles=tiles, absgrad=absgrad,
        )
        for c in range(num_cameras)
    ]  # fmt: skip
    renders, alphas, normals, distortion, median = (torch.cat(parts) for parts in zip(*images, strict=True))
    if padding:
        renders = torch.cat([renders[..., : -1 - padding], renders[..., -1:]], dim=-1)
    return renders, alphas, normals, distortion, median, info


def _of_camera(tensor: Tensor, camera: int) -> Tensor:
    """(1, ...) of (C, ...). A single camera's tensor itself, for gsplat leaves `absgrad` on what it was given."""
    return tensor if len(tensor) == 1 else tensor[camera : camera + 1]


def _seen(radii: Tensor) -> Tensor:
    """(C, N) bool: gsplat 1.5 has radii for each axis."""
    return (radii > 0).all(-1) if radii.dim() == 3 else radii > 0


def _project(
    means: Tensor, quats: Tensor, scales: Tensor, viewmats: Tensor, Ks: Tensor, width: int, height: int,
    near_plane: float, far_plane: float, radius_clip: float,
) -> _Projected:  # fmt: skip
    from gsplat import fully_fused_projection_2dgs

    if len(means) == 0:  # gsplat 1.5 divides by their number
        axes = (2,) if gsplat_version() >= (1, 5, 0) else ()
        radii = torch.zeros(len(viewmats), 0, *axes, dtype=torch.int32, device=means.device)
        return _Projected(radii, *project_in_torch(means, quats, scales, viewmats, Ks, _seen(radii)))
    # 0.3: eps2d, which these kernels do not use
    arguments = (means, quats, scales, viewmats, Ks, width, height, 0.3, near_plane, far_plane, radius_clip)
    if gsplat_version() >= (1, 5, 3):
        return _Projected._make(fully_fused_projection_2dgs(*arguments))
    # gsplat 1.4's backward has no gradient for the cameras, and a wrong one for means2d
    with torch.no_grad():
        radii = fully_fused_projection_2dgs(*arguments)[0]
    return _Projected(radii, *project_in_torch(means, quats, scales, viewmats, Ks, _seen(radii)))


def project_in_torch(
    means: Tensor, quats: Tensor, scales: Tensor, viewmats: Tensor, Ks: Tensor, seen: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(means2d, depths, ray_transforms, normals) of `_Projected`, on any device; finite where `seen` (C, N) is not set.

    means2d is the centre of the box around the projected disc of one standard deviation: 2DGS, appendix A.
    """
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rotations = torch.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ], dim=-1,
    ).view(-1, 3, 3)  # fmt: skip
    turned = viewmats[:, None, :3, :3] @ rotations
    centres = means @ viewmats[:, :3, :3].transpose(1, 2) + viewmats[:, None, :3, 3]
    tangents = turned[..., :2] * scales[:, None, :2]
    ray_transforms = Ks[:, None] @ torch.cat([tangents, centres[..., None]], dim=-1)
    normals = turned[..., 2]
    normals = torch.where((normals * centres).sum(-1, keepdim=True) < 0, normals, -normals)
    signs = means.new_tensor([1.0, 1.0, -1.0])
    box = ray_transforms[..., 2:, :] * signs  # (C, N, 1, 3)
    scale = torch.where(seen[..., None], (box * ray_transforms[..., 2:, :]).sum(-1), -1.0)
    means2d = (box * ray_transforms[..., :2, :]).sum(-1) / scale
    return means2d, centres[..., 2], ray_transforms, normals


def _pad(values: Tensor, backgrounds: Tensor | None) -> tuple[Tensor, Tensor | None, int]:
    """Zeros before the last channel, the depth, up to a number of channels that gsplat has; how many were put there.

    gsplat's own padding is uninitialised memory, and 1.4 takes its last channel for the depth.
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
    """Image, alpha, normals, distortion and median depth of one camera; all arguments have a first dimension of 1."""
    from gsplat import isect_offset_encode, isect_tiles, rasterize_to_pixels_2dgs

    if means2d.shape[1] == 0:
        empty = (tensor.sum() for tensor in (means2d, ray_transforms, values, opacities, normals))
        blank = (means2d.new_zeros(()) + sum(empty)).expand(1, size[1], size[0], 1)
        image = blank + (values.new_zeros(values.shape[-1]) if background is None else background[0])
        return image, blank, blank.expand(-1, -1, -1, 3), blank, blank
    _, keys, ids = isect_tiles(means2d, radii, depths, tile_size, *tiles)
    offsets = isect_offset_encode(keys, 1, *tiles)
    unused = torch.zeros_like(means2d)  # gsplat's own gradient for densification
    return rasterize_to_pixels_2dgs(
        means2d, ray_transforms, values, opacities, normals, unused, *size, tile_size, offsets, ids,
        backgrounds=background, absgrad=absgrad,
    )  # fmt: skip


def _info(
    radii: Tensor, means2d: Tensor, depths: Tensor, ray_transforms: Tensor, opacities: Tensor, normals: Tensor,
    probe: Tensor, width: int, height: int, tile_size: int,
) -> dict[str, Any]:  # fmt: skip
    return {
        "camera_ids": None, "gaussian_ids": None, "radii": radii, "means2d": means2d, "depths": depths,
        "ray_transforms": ray_transforms, "opacities": opacities, "normals": normals,
        "tile_width": math.ceil(width / tile_size), "tile_height": math.ceil(height / tile_size), "width": width,
        "height": height, "tile_size": tile_size, "n_cameras": len(means2d), "gradient_2dgs": probe,
    }  # fmt: skip
