"""An independent dense reference: every Gaussian at every pixel in float64 PyTorch, gradients by autograd.

Written from the 3DGS paper and gsplat's documented conventions; shares no code with the kernels. Memory is N x H x W.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def rotations_of(quats: Tensor) -> Tensor:
    """(N, 4) wxyz -> (N, 3, 3), by rotating the basis vectors: v' = v + 2 w (u x v) + 2 u x (u x v)."""
    q = quats / quats.norm(dim=-1, keepdim=True)
    w, u = q[:, :1, None], q[:, None, 1:].expand(-1, 3, -1)
    basis = torch.eye(3, dtype=q.dtype).expand(len(q), 3, 3)
    first = torch.linalg.cross(u, basis)
    return (basis + 2 * w * first + 2 * torch.linalg.cross(u, first)).transpose(1, 2)


def legendre_sh(degree: int, d: Tensor) -> Tensor:
    """Real SH basis (N, (degree+1)²) with Condon-Shortley phase, from associated Legendre polynomials in z."""
    x, y, z = d.unbind(-1)
    p = {(0, 0): torch.ones_like(z)}  # P_l^m / (sin theta)^m
    for m in range(degree + 1):
        if m:
            p[m, m] = -(2 * m - 1) * p[m - 1, m - 1]
        if m < degree:
            p[m + 1, m] = (2 * m + 1) * z * p[m, m]
        for n in range(m + 2, degree + 1):
            p[n, m] = ((2 * n - 1) * z * p[n - 1, m] - (n + m - 1) * p[n - 2, m]) / (n - m)
    cos, sin = [torch.ones_like(z)], [torch.zeros_like(z)]  # sin(theta)^m cos(m phi), sin(theta)^m sin(m phi)
    for _ in range(degree):
        cos.append(cos[-1] * x - sin[-1] * y)
        sin.append(sin[-1] * x + cos[-2] * y)
    values = []
    for n in range(degree + 1):
        for m in range(-n, n + 1):
            a = abs(m)
            norm = math.sqrt((2 * n + 1) / (4 * math.pi) * math.factorial(n - a) / math.factorial(n + a))
            trig = cos[a] if m >= 0 else sin[a]
            values.append((math.sqrt(2) if m else 1.0) * norm * p[n, a] * trig)
    return torch.stack(values, -1)


def _render_camera(means, quats, scales, opacities, colors, viewmat, K, width, height, o: dict[str, Any], background):
    rotation, translation = viewmat[:3, :3], viewmat[:3, 3]
    camera = means @ rotation.T + translation
    x, y, z = camera.unbind(-1)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    in_range = (z >= o["near_plane"]) & (z <= o["far_plane"])
    z_safe = torch.where(in_range, z, torch.ones_like(z))
    spread = rotations_of(quats) * scales[:, None, :]
    covariance = rotation @ spread @ spread.transpose(1, 2) @ rotation.T
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    slope_x = torch.clamp(x / z_safe, min=-cx / fx - margin_x, max=(width - cx) / fx + margin_x)
    slope_y = torch.clamp(y / z_safe, min=-cy / fy - margin_y, max=(height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [fx / z_safe, zero, -fx * slope_x / z_safe, zero, fy / z_safe, -fy * slope_y / z_safe], -1
    ).reshape(-1, 2, 3)
    cov2d = jacobian @ covariance @ jacobian.transpose(1, 2)
    blurred = cov2d + o["eps2d"] * torch.eye(2, dtype=means.dtype)
    mean2d = torch.stack([fx * x / z_safe + cx, fy * y / z_safe + cy], -1)
    if o["seen"] is not None:
        seen = o["seen"](camera)
        jacobian, mean2d, z = seen.jacobians[0], seen.places[0], seen.depths[0]
        in_range = seen.inside[0] & (z >= o["near_plane"]) & (z <= o["far_plane"])
        cov2d = jacobian @ covariance @ jacobian.transpose(1, 2)
        blurred = cov2d + o["eps2d"] * torch.eye(2, dtype=means.dtype)
    opacity = opacities
    if o["rasterize_mode"] == "antialiased":
        opacity = opacities * torch.sqrt((torch.linalg.det(cov2d) / torch.linalg.det(blurred)).clamp(min=1e-12))
    if o["sh_degree"] is not None:
        centre = torch.inverse(viewmat)[:3, 3]  # as gsplat: this also defines the gradient off the rotations' manifold
        direction = torch.nn.functional.normalize(means - centre, dim=-1)
        basis = legendre_sh(o["sh_degree"], direction)
        colors = ((basis[:, :, None] * colors[:, : basis.shape[1]]).sum(1) + 0.5).clamp(min=0.0)
    mode = o["render_mode"]
    values = {"RGB": [colors], "D": [], "ED": []}.get(mode, [colors]) + ([] if mode == "RGB" else [z[:, None]])
    values = torch.cat(values, -1)

    seen = in_range & (opacity.detach() >= 1 / 255)
    order = torch.argsort(z.detach(), stable=True)
    order = order[seen[order]]
    grid_y, grid_x = torch.meshgrid(
        torch.arange(height, dtype=means.dtype) + 0.5, torch.arange(width, dtype=means.dtype) + 0.5, indexing="ij"
    )
    pixels = torch.stack([grid_x, grid_y], -1).reshape(-1, 2)
    offset = pixels[None] - mean2d[order][:, None]  # (V, P, 2)
    if o["mean_shifts"] is not None:
        offset = offset - o["mean_shifts"][order]
    sigma = 0.5 * (offset @ torch.linalg.inv(blurred[order]) * offset).sum(-1)
    alpha = (opacity[order][:, None] * torch.exp(-sigma)).clamp(max=0.999)
    alpha = torch.where(alpha >= 1 / 255, alpha, torch.zeros_like(alpha))
    with torch.no_grad():  # a pixel ends at the first Gaussian that would leave 1e-4 or less
        after = torch.cumprod(1 - alpha, 0)
        # zero alphas behind the end do not reopen it: `after` only falls
        alive = after > 1e-4
    alpha = alpha * alive
    light = torch.cumprod(torch.cat([torch.ones_like(alpha[:1]), 1 - alpha]), 0)
    weights = alpha * light[:-1]
    image = weights.T @ values[order]
    total = 1 - light[-1]
    if background is not None:
        if mode in ("D", "ED"):
            background = background.new_zeros(1)
        elif mode != "RGB":
            background = torch.cat([background, background.new_zeros(1)])
        image = image + light[-1][:, None] * background
    if mode.endswith("ED"):
        image = torch.cat([image[:, :-1], image[:, -1:] / total[:, None].clamp(min=1e-10)], -1)
    return image.reshape(height, width, -1), total.reshape(height, width, 1)


def render(means, quats, scales, opacities, colors, viewmats, Ks, width, height, **options):
    """(renders (C, H, W, X), alphas (C, H, W, 1)), float64, options as `rasterization`'s.

    `seen` maps points (N, 3) in camera axes to `LensPoints` of one camera; None is a pinhole camera.
    `mean_shifts` (C, N, H * W, 2), a leaf of zeros, receives each pixel's gradient of the projected means.
    """
    o = {"near_plane": 0.01, "far_plane": 1e10, "eps2d": 0.3, "sh_degree": None, "backgrounds": None,
         "render_mode": "RGB", "rasterize_mode": "classic", "mean_shifts": None, "seen": None, **options}  # fmt: skip
    images, totals = [], []
    for camera in range(len(viewmats)):
        per_camera = colors[camera] if o["sh_degree"] is None and colors.dim() == 3 else colors
        background = None if o["backgrounds"] is None else o["backgrounds"][camera]
        mean_shifts = None if o["mean_shifts"] is None else o["mean_shifts"][camera]
        image, total = _render_camera(
            means, quats, scales, opacities, per_camera, viewmats[camera], Ks[camera], width, height,
            {**o, "mean_shifts": mean_shifts}, background,
        )  # fmt: skip
        images.append(image)
        totals.append(total)
    return torch.stack(images), torch.stack(totals)
