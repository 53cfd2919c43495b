"""Additions to the kernels of 2DGS on any device: the gradient for densification, and normals of a depth image."""

# torch declares Function.backward in a way that no `once_differentiable` method matches.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from splatkit_ns.triton_kernels import lazy_kernel


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
        # gsplat leaves the transforms of unseen Gaussians unset: they may be NaN
        v_probe = torch.where(v_centre == 0, 0.0, v_centre * ray_transforms[..., 2, 2:])
        return v_ray_transforms, v_probe


def densification_gradient(ray_transforms: Tensor) -> tuple[Tensor, Tensor]:
    """Return ray transforms (C, N, 3, 3) to composite with, and a leaf (C, N, 2) for densification's gradient.

    The last column of a ray transform is (x z, y z, z) for the projected centre (x, y), in pixels, at depth z: so z
    times the gradient of its first two entries is that of the centre on the screen. gsplat's kernel computes the
    same (`gradient_2dgs`), but reads sums that other threads have not finished.
    """
    cameras, n = ray_transforms.shape[:2]
    probe = ray_transforms.new_zeros(cameras, n, 2).requires_grad_()
    return cast("Tensor", _Probe.apply(ray_transforms, probe)), probe


def to_world(normals: Tensor, viewmats: Tensor) -> Tensor:
    """Turn camera-space vectors (C, H, W, 3) into world space."""
    if _kernels_fit(normals, viewmats) and (kernels := surface_kernels()) is not None:
        return cast("Tensor", kernels.Turn.apply(normals, viewmats.contiguous(), True))
    return (normals.flatten(1, 2) @ viewmats[:, :3, :3]).view_as(normals)


def normals_of_depth(depths: Tensor, Ks: Tensor, viewmats: Tensor | None = None, rays: Tensor | None = None) -> Tensor:
    """Compute unit normals (C, H, W, 3) of depth images (C, H, W, 1), facing the camera.

    They come from central differences of the unprojected depth: 2DGS (arXiv 2403.17888), equation 15. They are zero on
    the image's border, and if the neighbours' depths are all 0.

    Args:
        depths: along the camera's viewing axis, or as the rays say.
        Ks: (C, 3, 3) in pixels.
        viewmats: (C, 4, 4), world to camera; if given, the normals are in the world's axes, else in the camera's.
        rays: (C, H, W, 3), the points of the pixels at depth 1 if the lens is not that of a pinhole camera: see
            `splatkit_ns.rasterize.lens_models.rays_of_pixels`.
    """
    if rays is not None:
        normals = _normals_of_points(depths * rays)
        return normals if viewmats is None else to_world(normals, viewmats)
    matrices = (Ks,) if viewmats is None else (Ks, viewmats)
    if _kernels_fit(depths, *matrices) and (kernels := surface_kernels()) is not None:
        return cast("Tensor", kernels.NormalsOfDepth.apply(depths, *(m.contiguous() for m in matrices)))
    if viewmats is not None:
        return to_world(normals_of_depth(depths, Ks), viewmats)
    return _normals_in_torch(depths, Ks)


def _normals_in_torch(depths: Tensor, Ks: Tensor) -> Tensor:
    """Compute the normals of `normals_of_depth` in PyTorch.

    With r(x, y) = (x, y, 1) along a pixel's ray, and the depths of the four neighbours, `normal` is
    (right r(x + dx, y) - left r(x - dx, y)) x (below r(x, y + dy) - above r(x, y - dy)), up to the sign.
    """
    height, width = depths.shape[1:3]
    if height < 3 or width < 3:
        return depths.new_zeros(*depths.shape[:3], 3) + 0.0 * depths
    x = torch.arange(1, width - 1, dtype=depths.dtype, device=depths.device) + 0.5
    y = torch.arange(1, height - 1, dtype=depths.dtype, device=depths.device) + 0.5
    fx, fy, cx, cy = (Ks[:, i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    z = depths[..., 0]
    right, left, below, above = z[:, 1:-1, 2:], z[:, 1:-1, :-2], z[:, 2:, 1:-1], z[:, :-2, 1:-1]
    wide, high = (right + left) / fx, (below + above) / fy
    normal_x, normal_y = (right - left) * high, (below - above) * wide
    normal_z = -(wide * high + (x - cx) / fx * normal_x + (y[:, None] - cy) / fy * normal_y)
    normals = torch.nn.functional.normalize(torch.stack([normal_x, normal_y, normal_z], dim=-1), dim=-1)
    return torch.nn.functional.pad(normals, (0, 0, 1, 1, 1, 1))


def _normals_of_points(points: Tensor) -> Tensor:
    """Compute the normals of the points (C, H, W, 3) of an image's pixels; zero at the border, and where a neighbour is
    the camera itself."""
    if min(points.shape[1:3]) < 3:
        return torch.zeros_like(points) + 0.0 * points
    right, left = points[:, 1:-1, 2:], points[:, 1:-1, :-2]
    below, above = points[:, 2:, 1:-1], points[:, :-2, 1:-1]
    is_there = torch.stack([(side != 0).any(-1) for side in (right, left, below, above)]).all(0)
    normals = torch.linalg.cross(below - above, right - left)
    normals = torch.nn.functional.normalize(torch.where(is_there[..., None], normals, 0.0), dim=-1)
    return torch.nn.functional.pad(normals, (0, 0, 1, 1, 1, 1))


def _kernels_fit(image: Tensor, *matrices: Tensor) -> bool:
    """Whether the kernels fit: CUDA, no gradients for the matrices, and at most 2^31 numbers of normals."""
    on_cuda = image.is_cuda and image.dtype == torch.float32 and not any(m.requires_grad for m in matrices)
    return on_cuda and 0 < image[..., 0].numel() < 2**29


@lazy_kernel(otherwise="Normals of depth images are made without Triton")
def surface_kernels() -> ModuleType:
    """Normals of depth images, and their rotation, in kernels, or None if they cannot be used."""
    from . import _surfaces_triton as kernels

    depths = torch.ones(1, 3, 3, 1, device="cuda", requires_grad=True)
    eye = torch.eye(4, device="cuda")[None]
    normals = kernels.NormalsOfDepth.apply(depths, eye[:, :3, :3].contiguous(), eye)
    kernels.Turn.apply(normals, eye, True).sum().backward()
    return kernels
