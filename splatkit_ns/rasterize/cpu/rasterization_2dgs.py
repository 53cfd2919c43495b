"""`rasterization_2dgs` on the CPU: for now dense PyTorch, every Gaussian at every pixel; kernels are to follow."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ..checks import check_finite
from ..cuda_rasterization_2dgs import project_in_torch
from ..surfaces import densification_gradient
from ..versions import radii_have_axes
from .autograd import ShColours
from .scalar_math import ALPHA_MAX, ALPHA_MIN, TRANSMITTANCE_MIN
from .tiles import TILE


def rasterize_2dgs_on_cpu(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, viewmats: Tensor, Ks: Tensor,
    width: int, height: int, *, near_plane: float, far_plane: float, radius_clip: float, sh_degree: int | None,
    tile_size: int, backgrounds: Tensor | None, render_mode: str, absgrad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:  # fmt: skip
    """See `splatkit_ns.rasterize.rasterization_2dgs`, whose arguments have been checked before."""
    for name, tensor in (
        ("means", means), ("quats", quats), ("scales", scales), ("opacities", opacities), ("colors", colors),
        ("viewmats", viewmats), ("Ks", Ks), ("backgrounds", backgrounds),
    ):  # fmt: skip
        if tensor is not None:
            check_finite(name, tensor)
    cameras, n = len(viewmats), len(means)
    everything = torch.ones(cameras, n, dtype=torch.bool)
    means2d, depths, transforms, normals = project_in_torch(means, quats, scales, viewmats, Ks, everything)
    row = transforms[..., 2, :].detach()
    box = (row * row * row.new_tensor([1.0, 1.0, -1.0])).sum(-1)
    dual = (transforms.detach()[..., :2, :] ** 2 * row.new_tensor([1.0, 1.0, -1.0])).sum(-1) / box[..., None]
    extent = (means2d.detach() ** 2 - dual).clamp(min=1e-4).sqrt()
    radii = (3.33 * extent).ceil().clamp(max=2.0**24).nan_to_num(0.0).int()
    seen = (depths >= near_plane) & (depths <= far_plane) & (box < 0) & (opacities >= ALPHA_MIN)
    seen &= (radii > radius_clip).any(-1)
    seen &= ((means2d + radii > 0) & (means2d - radii < means2d.new_tensor([width, height]))).all(-1)
    radii = radii * seen[..., None]
    colors = colors.expand(cameras, -1, -1) if sh_degree is None else _sh(means, viewmats, colors, radii, sh_degree)
    ray_transforms, probe = densification_gradient(transforms)
    images = [
        _camera(
            means2d[c], ray_transforms[c], opacities, colors[c], normals[c], depths[c], seen[c], width, height,
            render_mode, None if backgrounds is None else backgrounds[c],
        )
        for c in range(cameras)
    ]  # fmt: skip
    renders, alphas, normal_images, distortion, median = (torch.stack(parts) for parts in zip(*images, strict=True))
    info = {
        "camera_ids": None, "gaussian_ids": None, "radii": radii if radii_have_axes() else radii.amax(-1),
        "means2d": means2d, "depths": depths, "ray_transforms": ray_transforms,
        "opacities": opacities.expand(cameras, -1), "normals": normals, "tile_width": -(-width // TILE),
        "tile_height": -(-height // TILE), "width": width, "height": height, "tile_size": TILE, "n_cameras": cameras,
        "gradient_2dgs": probe,
    }  # fmt: skip
    return renders, alphas, normal_images, distortion, median, info


def _sh(means: Tensor, viewmats: Tensor, colors: Tensor, radii: Tensor, degree: int) -> Tensor:
    return cast("Tensor", ShColours.apply(means, torch.inverse(viewmats)[:, :3, 3], colors, radii, degree))


def _camera(means2d, transforms, opacities, colors, normals, depths, seen, width, height, mode, background):  # pyright: ignore[reportMissingParameterType]
    order = depths.detach().argsort(stable=True)
    order = order[seen[order]]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([x.flatten(), y.flatten()]).to(means2d)
    h_u = pixels[0][None, :, None] * transforms[order, 2][:, None] - transforms[order, 0][:, None]
    h_v = pixels[1][None, :, None] * transforms[order, 2][:, None] - transforms[order, 1][:, None]
    cross = torch.linalg.cross(h_u, h_v)
    hit = (cross[..., 2] != 0) & (cross[..., 2].sign() == torch.linalg.det(transforms[order]).sign()[:, None])
    below = torch.where(hit, cross[..., 2], 1.0)
    on_disc = torch.where(hit, (cross[..., 0] / below) ** 2 + (cross[..., 1] / below) ** 2, torch.inf)
    on_screen = 2 * ((pixels - means2d[order][..., None]) ** 2).sum(1)
    power = torch.where(on_disc <= on_screen, on_disc, on_screen)
    alpha = (opacities[order][:, None] * torch.exp(-0.5 * power)).clamp(max=ALPHA_MAX)
    alpha = torch.where(alpha >= ALPHA_MIN, alpha, 0.0)
    alpha = alpha * (torch.cumprod(1 - alpha.detach(), 0) > TRANSMITTANCE_MIN)
    light = torch.cumprod(torch.cat([torch.ones_like(pixels[:1]), 1 - alpha]), 0)
    weights, left, z = alpha * light[:-1], light[-1:], depths[order]
    image = weights.T @ colors[order]
    if background is not None:
        image = image + left.T * background
    image = {"RGB": [image], "D": [], "ED": []}.get(mode, [image])
    image = torch.cat([*image, *([] if mode == "RGB" else [(z @ weights)[:, None]])], -1)
    shares = weights * z[:, None]
    before = torch.cumsum(shares, 0) - shares
    distortion = 2 * (shares * (1 - light[:-1]) - weights * before).sum(0)
    places = torch.arange(1, len(order) + 1)[:, None] * ((weights > 0) & (light[:-1] > 0.5))
    last = places.amax(0) if len(order) else torch.zeros(width * height, dtype=torch.long)
    median = torch.where(last > 0, torch.cat([z.new_zeros(1), z])[last], 0.0)
    shape = (height, width, -1)
    return tuple(t.reshape(shape) for t in (image, 1 - left.T, weights.T @ normals[order], distortion, median))
