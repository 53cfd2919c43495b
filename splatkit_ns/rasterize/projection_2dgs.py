"""Projection of discs on CUDA: by our kernel or in PyTorch, or by gsplat if the user chooses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from splatkit_ns.rotations import rotation_matrices
from splatkit_ns.triton_kernels import lazy_kernel

from .arguments import Gaussians, RasterCameras, RasterSettings
from .surfaces import densification_gradient
from .versions import gsplat_version, radii_have_axes

_FourTensors: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]


class Projected(NamedTuple):
    """The projection of N discs into C cameras, for compositing."""

    means2d: Tensor
    """(C, N, 2), pixels; arbitrary for discs that reach the plane of the camera within one standard deviation."""
    depths: Tensor
    """(C, N), world units."""
    ray_transforms: Tensor
    """(C, N, 3, 3): (u, v, 1) on the disc, in standard deviations, to (x z, y z, z) on the screen."""
    normals: Tensor
    """(C, N, 3), camera space."""
    probe: Tensor
    """(C, N, 2), a leaf: see `splatkit_ns.rasterize.surfaces.densification_gradient`."""


def project(gaussians: Gaussians, cameras: RasterCameras) -> Projected:
    """Project N discs into C cameras; see `splatkit_ns.rasterize.rasterization_2dgs` for the arguments.

    If cameras need gradients, PyTorch is used instead of our kernel.
    """
    fixed = not (cameras.viewmats.requires_grad or cameras.Ks.requires_grad)
    kernel = projection_kernel() if fixed and len(gaussians) > 0 else None
    if kernel is not None:
        return kernel(gaussians, cameras)
    return _with_probe(*project_in_torch(gaussians, cameras))


def project_by_gsplat(
    gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings
) -> tuple[Tensor, Projected]:
    """Do the same with gsplat's compiled code, and return its radii: (C, N), since 1.5 (C, N, 2); 0 for unseen discs.

    gsplat 1.4's backward has no gradient for the cameras, and a wrong one for means2d, so only its radii are used.
    """
    from gsplat import fully_fused_projection_2dgs

    if len(gaussians) == 0:  # gsplat 1.5 divides by the number of discs
        axes = (2,) if radii_have_axes() else ()
        radii = torch.zeros(len(cameras), 0, *axes, dtype=torch.int32, device=gaussians.means.device)
        return radii, project(gaussians, cameras)
    arguments = (
        gaussians.means, gaussians.quats, gaussians.scales, cameras.viewmats, cameras.Ks, *cameras.size,
        settings.eps2d,  # these kernels do not use it
        settings.near_plane, settings.far_plane, settings.radius_clip,
    )  # fmt: skip
    if gsplat_version() >= (1, 5, 3):
        radii, *values = fully_fused_projection_2dgs(*arguments)
        return radii, _with_probe(*cast("_FourTensors", values))
    with torch.no_grad():
        radii = fully_fused_projection_2dgs(*arguments)[0]
    return radii, project(gaussians, cameras)


def _with_probe(means2d: Tensor, depths: Tensor, ray_transforms: Tensor, normals: Tensor) -> Projected:
    ray_transforms, probe = densification_gradient(ray_transforms)
    return Projected(means2d, depths, ray_transforms, normals, probe)


def project_in_torch(gaussians: Gaussians, cameras: RasterCameras) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (means2d, depths, ray_transforms, normals) of `Projected` on any device; finite for unseen discs, too.

    means2d is the centre of the box around the projected disc of one standard deviation: 2DGS, appendix A.
    """
    means, viewmats = gaussians.means, cameras.viewmats
    turned = viewmats[:, None, :3, :3] @ rotation_matrices(gaussians.quats)
    centres = means @ viewmats[:, :3, :3].transpose(1, 2) + viewmats[:, None, :3, 3]
    tangents = turned[..., :2] * gaussians.scales[:, None, :2]
    ray_transforms = cameras.Ks[:, None] @ torch.cat([tangents, centres[..., None]], dim=-1)
    normals = turned[..., 2]
    normals = torch.where((normals * centres).sum(-1, keepdim=True) < 0, normals, -normals)
    signs = means.new_tensor([1.0, 1.0, -1.0])
    box = ray_transforms[..., 2:, :] * signs  # (C, N, 1, 3)
    scale = (box * ray_transforms[..., 2:, :]).sum(-1)
    scale = torch.where(scale < 0, scale, -1.0)  # else it reaches the plane of the camera
    means2d = (box * ray_transforms[..., :2, :]).sum(-1) / scale
    return means2d, centres[..., 2], ray_transforms, normals


@lazy_kernel(otherwise="The projection of 2D Gaussians runs without Triton")
def projection_kernel() -> Callable[..., Projected]:
    """The projection in two kernels, or None if they cannot be used."""
    probe = torch.ones(1, 4, device="cuda", requires_grad=True)
    eye = torch.eye(4, device="cuda")[None]
    disc = Gaussians(probe[:, :3], probe, probe[:, :3], probe[:, 0], probe[:, :3])
    projected = project_in_kernels(disc, RasterCameras(eye, eye[:, :3, :3], 8, 8))
    projected.means2d.sum().backward()
    return project_in_kernels


def project_in_kernels(gaussians: Gaussians, cameras: RasterCameras) -> Projected:
    """Do the same as `project`, for float32 on CUDA: N > 0, no gradient for viewmats and Ks."""
    from ._projection_2dgs_triton import ProjectDiscs

    discs = (tensor.contiguous() for tensor in (gaussians.means, gaussians.quats, gaussians.scales))
    probe = gaussians.means.new_zeros(len(cameras), len(gaussians), 2).requires_grad_()
    matrices = (cameras.viewmats.contiguous(), cameras.Ks.contiguous())
    return Projected(*cast("_FourTensors", ProjectDiscs.apply(*discs, probe, *matrices)), probe)
