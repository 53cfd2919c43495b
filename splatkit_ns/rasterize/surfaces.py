"""What 2DGS needs around its kernels on any device: densification's gradient, and normals of a depth image."""

# torch declares Function.backward in a way that no `once_differentiable` method matches.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Probe(torch.autograd.Function):
    """(ray_transforms, probe) -> ray_transforms, unchanged; see `densification_gradient`."""

    @staticmethod
    def forward(ctx: Any, ray_transforms: Tensor, probe: Tensor) -> Tensor:
        ctx.save_for_backward(ray_transforms)
        return ray_transforms.view_as(ray_transforms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_ray_transforms: Tensor) -> tuple[Tensor, Tensor]:
        (ray_transforms,) = ctx.saved_tensors
        v_centre = v_ray_transforms[..., :2, 2]
        # of Gaussians that are not seen gsplat leaves the transforms unset, maybe NaN
        v_probe = torch.where(v_centre == 0, 0.0, v_centre * ray_transforms[..., 2, 2:])
        return v_ray_transforms, v_probe


def densification_gradient(ray_transforms: Tensor) -> tuple[Tensor, Tensor]:
    """The ray transforms (C, N, 3, 3) to composite with, and a leaf (C, N, 2) that gets densification's gradient.

    The last column of a ray transform is (x z, y z, z) for the projected centre (x, y), in pixels, at depth z: so z
    times the gradient of its first two entries is that of the centre on the screen. gsplat's kernel fills in the same
    (`gradient_2dgs`), but reads sums that other threads have not finished.
    """
    cameras, n = ray_transforms.shape[:2]
    probe = ray_transforms.new_zeros(cameras, n, 2).requires_grad_()
    return cast("Tensor", _Probe.apply(ray_transforms, probe)), probe


def to_world(normals: Tensor, viewmats: Tensor) -> Tensor:
    """Turn camera-space vectors (C, H, W, 3) into world space."""
    return (normals.flatten(1, 2) @ viewmats[:, :3, :3]).view_as(normals)


def normals_of_depth(depths: Tensor, Ks: Tensor) -> Tensor:
    """Camera-space unit normals (C, H, W, 3) of depth images (C, H, W, 1), facing the camera.

    Central differences of the unprojected depth: 2DGS (arXiv 2403.17888), equation 15. Zero on the image's border and
    where the neighbours' depths are all 0.
    """
    height, width = depths.shape[1:3]
    if height < 3 or width < 3:
        return depths.new_zeros(*depths.shape[:3], 3) + 0.0 * depths
    x = torch.arange(width, dtype=depths.dtype, device=depths.device) + 0.5
    y = torch.arange(height, dtype=depths.dtype, device=depths.device) + 0.5
    slope_x = (x - Ks[:, 0, 2, None]) / Ks[:, 0, 0, None]
    slope_y = (y - Ks[:, 1, 2, None]) / Ks[:, 1, 1, None]
    z = depths[..., 0]
    points = torch.stack([slope_x[:, None, :] * z, slope_y[:, :, None] * z, z], dim=-1)
    right = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    down = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    normals = torch.nn.functional.normalize(torch.linalg.cross(down, right), dim=-1)
    return torch.nn.functional.pad(normals, (0, 0, 1, 1, 1, 1))
