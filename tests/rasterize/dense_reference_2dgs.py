"""An independent dense reference of 2DGS: every disc at every pixel in float64 PyTorch, gradients by autograd.

Written from the paper (Huang et al. 2024, arXiv 2403.17888) and gsplat's conventions; shares no code with the kernels.
It defines what `rasterization_2dgs` means. Memory is N x H x W.
"""

from __future__ import annotations

from typing import Any

import torch
from dense_reference import legendre_sh, rotations_of
from torch import Tensor

OPTIONS = {"near_plane": 0.01, "far_plane": 1e10, "sh_degree": None, "backgrounds": None, "render_mode": "RGB",
           "depth_mode": "expected", "mean_shifts": None, "ray_shifts": None}  # fmt: skip


def depth_normals(depth: Tensor, K: Tensor) -> Tensor:
    """Camera-space normals (H, W, 3) of a depth image (H, W): derivative of the points downwards x to the right."""
    height, width = depth.shape
    normals = torch.zeros(height, width, 3, dtype=depth.dtype)
    if height < 3 or width < 3:
        return normals + 0 * depth[..., None]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], -1).to(depth) @ torch.linalg.inv(K).T
    down, right = torch.gradient(rays * depth[..., None], dim=(0, 1))
    normals[1:-1, 1:-1] = torch.linalg.cross(down, right)[1:-1, 1:-1]
    length = normals.norm(dim=-1, keepdim=True)
    return torch.where(length > 0, normals / torch.where(length > 0, length, torch.ones_like(length)), normals)


def _disc_to_screen(means, quats, scales, viewmat, K):
    """M (N, 3, 3), camera-space centres and normals: M (u, v, 1) = z (x, y, 1), equations 4 to 8."""
    rotation = viewmat[:3, :3]
    axes = rotation @ rotations_of(quats)
    centres = means @ rotation.T + viewmat[:3, 3]
    frame = torch.stack([axes[:, :, 0] * scales[:, :1], axes[:, :, 1] * scales[:, 1:2], centres], -1)
    away = (axes[:, :, 2] * centres).sum(-1, keepdim=True) >= 0
    return K @ frame, centres, torch.where(away, -axes[:, :, 2], axes[:, :, 2])


def box_centres(M: Tensor) -> Tensor:
    """Middle of the extreme pixels of the disc of one standard deviation, from its dual conic M diag(1, 1, -1) M^T."""
    dual = M @ torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=M.dtype)) @ M.transpose(1, 2)
    return dual[:, :2, 2] / dual[:, 2:, 2]


def _weights(M, z, opacity, viewable, o, width, height):
    """Compositing weights (V, P) front to back, transmittance (V + 1, P), and the order (V,)."""
    crosses = M[:, 2, 0] ** 2 + M[:, 2, 1] ** 2 >= M[:, 2, 2] ** 2  # the plane of the camera
    seen = viewable & ~crosses & (torch.linalg.det(M) != 0) & (opacity >= 1 / 255)
    order = torch.argsort(z.detach(), stable=True)
    order = order[seen[order]]
    grid_y, grid_x = torch.meshgrid(
        torch.arange(height, dtype=M.dtype) + 0.5, torch.arange(width, dtype=M.dtype) + 0.5, indexing="ij"
    )
    pixels = torch.stack([grid_x.flatten(), grid_y.flatten(), torch.ones(width * height, dtype=M.dtype)])
    rays = M[order] if o["ray_shifts"] is None else M[order] + o["ray_shifts"][order]
    hit = torch.linalg.inv(rays) @ pixels  # (V, 3, P): (u, v, 1) / z of the plane's point
    in_front = hit[:, 2] > 0
    along = torch.where(in_front, hit[:, 2], torch.ones_like(hit[:, 2]))
    on_disc = (hit[:, 0] ** 2 + hit[:, 1] ** 2) / along**2
    on_disc = torch.where(in_front, on_disc, torch.full_like(on_disc, torch.inf))
    offset = pixels[:2] - box_centres(M[order])[:, :, None]
    if o["mean_shifts"] is not None:
        offset = offset - o["mean_shifts"][order]
    on_screen = 2 * (offset**2).sum(1)  # variance 1/2 pixels²
    power = torch.where(on_disc <= on_screen, on_disc, on_screen)
    alpha = (opacity[order][:, None] * torch.exp(-0.5 * power)).clamp(max=0.999)
    alpha = torch.where(alpha >= 1 / 255, alpha, torch.zeros_like(alpha))
    with torch.no_grad():  # a pixel ends at the first Gaussian that would leave 1e-4 or less
        alive = torch.cumprod(1 - alpha, 0) > 1e-4
    alpha = alpha * alive
    light = torch.cumprod(torch.cat([alpha.new_ones(1, width * height), 1 - alpha]), 0)
    return alpha * light[:-1], light, order


def _render_camera(means, quats, scales, opacities, colors, viewmat, K, width, height, o: dict[str, Any], background):
    M, centres, normals = _disc_to_screen(means, quats, scales, viewmat, K)
    z = centres[:, 2]
    viewable = (z >= o["near_plane"]) & (z <= o["far_plane"])
    weights, light, order = _weights(M, z, opacities, viewable, o, width, height)
    if o["sh_degree"] is not None:
        direction = torch.nn.functional.normalize(means - torch.inverse(viewmat)[:3, 3], dim=-1)
        basis = legendre_sh(o["sh_degree"], direction)
        colors = ((basis[:, :, None] * colors[:, : basis.shape[1]]).sum(1) + 0.5).clamp(min=0.0)
    total, mode = 1 - light[-1], o["render_mode"]
    image = weights.T @ colors[order]
    if background is not None:
        image = image + light[-1][:, None] * background
    depth = weights.T @ z[order]
    expected = depth / total.clamp(min=1e-10) if mode.endswith("ED") else depth
    shown = {"RGB": [image], "D": [expected[:, None]], "ED": [expected[:, None]]}
    image = torch.cat(shown.get(mode, [image, expected[:, None]]), -1).reshape(height, width, -1)
    normal = (weights.T @ normals[order]) @ viewmat[:3, :3]
    outputs = {"renders": image, "alphas": total.reshape(height, width, 1), "normals": normal.reshape(height, width, 3)}
    if mode == "RGB":
        return outputs
    # every pair of Gaussians: weight * weight * difference of depths, each pair from both sides
    apart = (z[order][:, None] - z[order][None]).abs()
    distortion = (weights * (apart @ weights)).sum(0)
    blends = (weights.detach() > 0) & (light[:-1].detach() > 0.5)
    places = torch.arange(len(order))[:, None].expand_as(blends)
    last = torch.where(blends, places, -1).max(0).values if len(order) else torch.full((width * height,), -1)
    median = torch.where(last >= 0, z[order][last.clamp(min=0)] if len(order) else total, torch.zeros_like(total))
    outputs["distortion"] = distortion.reshape(height, width, 1)
    outputs["median_depth"] = median.reshape(height, width, 1)
    surface = median if o["depth_mode"] == "median" else expected
    outputs["normals_from_depth"] = depth_normals(surface.reshape(height, width), K) @ viewmat[:3, :3]
    return outputs


def render(means, quats, scales, opacities, colors, viewmats, Ks, width, height, **options) -> dict[str, Tensor]:
    """Images (C, H, W, ...) by the names of `Rasterization2DGS`, float64, options as `rasterization_2dgs`'s.

    `mean_shifts` (C, N, 2, H * W) and `ray_shifts` (C, N, 3, 3), leaves of zeros, receive the gradients of the
    screen-space Gaussian's centre at each pixel and of the ray transforms.
    """
    o = {**OPTIONS, **options}
    cameras = []
    for camera in range(len(viewmats)):
        per_camera = colors[camera] if o["sh_degree"] is None and colors.dim() == 3 else colors
        background = None if o["backgrounds"] is None else o["backgrounds"][camera]
        shifts = {name: None if o[name] is None else o[name][camera] for name in ("mean_shifts", "ray_shifts")}
        cameras.append(
            _render_camera(
                means, quats, scales, opacities, per_camera, viewmats[camera], Ks[camera], width, height,
                {**o, **shifts}, background,
            )
        )  # fmt: skip
    return {name: torch.stack([images[name] for images in cameras]) for name in cameras[0]}
