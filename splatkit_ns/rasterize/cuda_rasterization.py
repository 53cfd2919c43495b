"""`rasterization` on CUDA: gsplat's kernels, with its versions' differences handled, and tile lists of our own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from splatkit_ns.triton_kernels import lazy_kernel, run_together

from .checks import RenderMode
from .cuda import check_cuda_backend


def rasterize_on_cuda(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, viewmats: Tensor, Ks: Tensor,
    width: int, height: int, *, packed: bool, **settings: Any,
) -> tuple[Tensor, Tensor, dict[str, Any]]:  # fmt: skip
    """See `splatkit_ns.rasterize.rasterization`. Waits for the GPU nowhere that gsplat does not."""
    check_cuda_backend()
    arguments = (means, quats, scales, opacities, colors, viewmats, Ks, width, height)
    tile_lists = None if packed or len(means) == 0 else tile_lists_kernel()
    if tile_lists is None:
        return _by_gsplat(*arguments, packed=packed, **settings)
    return _with_own_lists(tile_lists, *arguments, **settings)


def _with_own_lists(
    tile_lists: Callable[..., tuple[Tensor, Tensor]],
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, viewmats: Tensor, Ks: Tensor,
    width: int, height: int, *, sh_degree: int | None, tile_size: int, backgrounds: Tensor | None,
    render_mode: RenderMode, absgrad: bool, rasterize_mode: str, **projection: Any,
) -> tuple[Tensor, Tensor, dict[str, Any]]:  # fmt: skip
    """gsplat's projection, spherical harmonics and compositing, with shorter lists of Gaussians between them."""
    from gsplat import fully_fused_projection, rasterize_to_pixels

    radii, means2d, depths, conics, compensations = fully_fused_projection(
        means, None, quats, scales, viewmats, Ks, width, height,
        calc_compensations=rasterize_mode == "antialiased", **projection,
    )  # fmt: skip
    num_cameras = len(viewmats)
    seen = (radii > 0).all(-1) if radii.dim() == 3 else radii > 0
    opacities = opacities.expand(num_cameras, -1)
    if rasterize_mode == "antialiased":
        opacities = opacities * compensations
    if sh_degree is not None:
        colors = sh_colors(sh_degree, means, colors, viewmats, seen)
    elif colors.dim() == 2:
        colors = colors.expand(num_cameras, -1, -1)
    colors, backgrounds = composited_channels(colors, depths, backgrounds, render_mode)
    tiles_x, tiles_y = math.ceil(width / tile_size), math.ceil(height / tile_size)
    offsets, ids = tile_lists(means2d, conics, opacities, seen, depths, tiles_x, tiles_y, tile_size)
    images, alphas = rasterize_to_pixels(
        means2d, conics, colors, opacities, width, height, tile_size, offsets, ids,
        backgrounds=backgrounds, absgrad=absgrad,
    )  # fmt: skip
    if "ED" in render_mode:
        images = torch.cat([images[..., :-1], images[..., -1:] / alphas.clamp(min=1e-10)], dim=-1)
    info = {
        "camera_ids": None, "gaussian_ids": None, "radii": radii, "means2d": means2d, "depths": depths,
        "conics": conics, "opacities": opacities, "tile_width": tiles_x, "tile_height": tiles_y,
        "isect_offsets": offsets, "flatten_ids": ids, "width": width, "height": height, "tile_size": tile_size,
        "n_cameras": num_cameras,
    }  # fmt: skip
    return images, alphas, info


def sh_colors(degree: int, means: Tensor, coefficients: Tensor, viewmats: Tensor, seen: Tensor) -> Tensor:
    """Colours (C, N, 3) of spherical harmonics seen from each camera."""
    from gsplat import spherical_harmonics

    if viewmats.requires_grad:  # gsplat's gradient takes a view matrix for any matrix, not for a rigid transform
        centres = torch.linalg.inv(viewmats)[:, :3, 3]
    else:
        centres = -(viewmats[:, :3, :3].transpose(1, 2) @ viewmats[:, :3, 3:]).squeeze(-1)
    directions = means[None] - centres[:, None]
    coefficients = coefficients[None].expand(len(viewmats), -1, -1, -1)
    return (spherical_harmonics(degree, directions, coefficients, masks=seen) + 0.5).clamp(min=0.0)


def composited_channels(
    colors: Tensor, depths: Tensor, backgrounds: Tensor | None, render_mode: RenderMode
) -> tuple[Tensor, Tensor | None]:
    """What is composited, (C, N, X), and the background of each channel (C, X); that of depth is 0."""
    if render_mode == "RGB":
        return colors, backgrounds
    depth = depths[..., None]
    if not render_mode.startswith("RGB"):
        return depth, None
    if backgrounds is not None:
        backgrounds = torch.nn.functional.pad(backgrounds, (0, 1))
    return torch.cat([colors, depth], dim=-1), backgrounds


def _by_gsplat(
    *arguments: Any, packed: bool, backgrounds: Tensor | None, render_mode: RenderMode, **settings: Any
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """gsplat from end to end."""
    from gsplat import rasterization

    # gsplat 1.5 asserts on packed together with backgrounds (its issues 764 and 826): composite them here instead.
    composite_here = packed and backgrounds is not None
    renders, alphas, info = rasterization(
        *arguments, packed=packed, backgrounds=None if composite_here else backgrounds, render_mode=render_mode,
        **settings,
    )  # fmt: skip
    if composite_here and backgrounds is not None and render_mode.startswith("RGB"):
        channels = backgrounds.shape[-1]
        behind = (1.0 - alphas) * backgrounds[:, None, None, :]
        renders = torch.cat([renders[..., :channels] + behind, renders[..., channels:]], dim=-1)
    return renders, alphas, info


@lazy_kernel(otherwise="Tile lists are gsplat's")
def tile_lists_kernel() -> Callable[..., tuple[Tensor, Tensor]]:
    """Tile lists in Triton, or None where that cannot be used."""
    from ._tile_lists_triton import first_launches, tile_lists

    run_together(first_launches("cuda"))
    return tile_lists
