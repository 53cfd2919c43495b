"""`rasterization` on the CPU: the kernels put together as gsplat puts its own together."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ..checks import check_finite
from ..versions import radii_have_axes
from .autograd import Composite, Project, ShColours
from .tiles import TILE


def rasterize_on_cpu(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, viewmats: Tensor, Ks: Tensor,
    width: int, height: int, *, near_plane: float, far_plane: float, radius_clip: float, eps2d: float,
    sh_degree: int | None, packed: bool, tile_size: int, backgrounds: Tensor | None, render_mode: str, absgrad: bool,
    rasterize_mode: str, list_space: object = None,
) -> tuple[Tensor, Tensor, dict[str, Any]]:  # fmt: skip
    """See `splatkit_ns.rasterize.rasterization`, whose arguments have been checked before.

    One geometry whatever gsplat is installed: a Gaussian covers exactly the ellipse where its alpha is at least 1/255,
    and its radii are that ellipse's half-widths along x and y, rounded up (as gsplat 1.5 has them). gsplat 1.4 has
    squares of 3 standard deviations instead: where a tile ends they cut a rim (alpha up to 0.011) off opaque Gaussians,
    and they list faint ones in many tiles for nothing.
    """
    if packed:
        raise ValueError("packed: expected False on the CPU, found True (packing is a memory layout of gsplat on CUDA)")
    check_all_finite(means, quats, scales, opacities, colors, viewmats, Ks, backgrounds)
    cameras = viewmats.shape[0]
    means2d, depths, conics, compensations, radii = cast(
        "tuple[Tensor, ...]",
        Project.apply(
            means, quats, scales, opacities, viewmats, Ks, width, height, float(near_plane), float(far_plane),
            float(radius_clip), float(eps2d), rasterize_mode == "antialiased",
        ),
    )  # fmt: skip
    view_opacities = opacities.expand(cameras, -1)
    if rasterize_mode == "antialiased":
        view_opacities = view_opacities * compensations
    channels, backgrounds = composited_channels(
        means, colors, viewmats, depths, radii, sh_degree, backgrounds, render_mode
    )
    renders, alphas = cast(
        "tuple[Tensor, Tensor]",
        Composite.apply(means2d, conics, view_opacities, channels, backgrounds, depths, radii, width, height, absgrad),
    )
    if render_mode.endswith("ED"):
        renders = torch.cat([renders[..., :-1], renders[..., -1:] / alphas.clamp(min=1e-10)], dim=-1)
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
        "n_cameras": cameras,
        "n_batches": 1,
        "tile_size": TILE,
        "tile_width": -(-width // TILE),
        "tile_height": -(-height // TILE),
    }
    return renders, alphas, info


def check_all_finite(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, viewmats: Tensor, Ks: Tensor,
    backgrounds: Tensor | None,
) -> None:  # fmt: skip
    """Raise ValueError naming the first argument with a NaN or infinity."""
    for name, tensor in (
        ("means", means), ("quats", quats), ("scales", scales), ("opacities", opacities), ("colors", colors),
        ("viewmats", viewmats), ("Ks", Ks), ("backgrounds", backgrounds),
    ):  # fmt: skip
        if tensor is not None:
            check_finite(name, tensor)


def composited_channels(
    means: Tensor, colors: Tensor, viewmats: Tensor, depths: Tensor, radii: Tensor, sh_degree: int | None,
    backgrounds: Tensor | None, render_mode: str,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """What is composited, (C, N, X), and its background (C, X): colours, depths or both."""
    if render_mode in ("D", "ED"):
        return depths[..., None], None
    if sh_degree is None:
        values = colors.expand(viewmats.shape[0], -1, -1)
    else:
        centres = torch.inverse(viewmats)[:, :3, 3]
        values = cast("Tensor", ShColours.apply(means, centres, colors, radii, sh_degree))
    if render_mode == "RGB":
        return values, backgrounds
    if backgrounds is not None:
        backgrounds = torch.nn.functional.pad(backgrounds, (0, 1))
    return torch.cat([values, depths[..., None]], dim=-1), backgrounds
