"""Projection of discs on CUDA: by gsplat if its gradients are right, else by our kernel or in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from splatkit_ns.triton_kernels import lazy_kernel

from .arguments import Gaussians, RasterCameras, RasterSettings
from .surfaces import densification_gradient
from .versions import gsplat_version, radii_have_axes

_FiveTensors: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class Projected(NamedTuple):
    """The projection of N discs into C cameras, for compositing."""

    radii: Tensor
    """int32, pixels, 0 for unseen discs: (C, N), or (C, N, 2) with one per axis, depending on gsplat's version."""
    means2d: Tensor
    """(C, N, 2), pixels."""
    depths: Tensor
    """(C, N), world units."""
    ray_transforms: Tensor
    """(C, N, 3, 3): (u, v, 1) on the disc, in standard deviations, to (x z, y z, z) on the screen."""
    normals: Tensor
    """(C, N, 3), camera space."""
    probe: Tensor
    """(C, N, 2), a leaf: see `splatkit_ns.rasterize.surfaces.densification_gradient`."""

    @property
    def seen(self) -> Tensor:
        """(C, N) bool."""
        return _seen(self.radii)


def project(gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings) -> Projected:
    """Project N discs into C cameras; see `splatkit_ns.rasterize.rasterization_2dgs` for the arguments.

    gsplat 1.4's backward has no gradient for the cameras, and a wrong one for means2d, so only its radii are used. Our
    kernel does not even use these; if cameras need gradients, PyTorch is used instead.
    """
    from gsplat import fully_fused_projection_2dgs

    if len(gaussians) == 0:  # gsplat 1.5 divides by the number of discs
        axes = (2,) if radii_have_axes() else ()
        radii = torch.zeros(len(cameras), 0, *axes, dtype=torch.int32, device=gaussians.means.device)
        return _with_probe(radii, *project_in_torch(gaussians, cameras, _seen(radii)))
    arguments = (
        gaussians.means, gaussians.quats, gaussians.scales, cameras.viewmats, cameras.Ks, *cameras.size,
        settings.eps2d,  # these kernels do not use it
        settings.near_plane, settings.far_plane, settings.radius_clip,
    )  # fmt: skip
    if gsplat_version() >= (1, 5, 3):
        return _with_probe(*cast("_FiveTensors", fully_fused_projection_2dgs(*arguments)))
    fixed = not (cameras.viewmats.requires_grad or cameras.Ks.requires_grad)
    kernel = projection_kernel() if fixed and gsplat_version() < (1, 5, 0) else None
    if kernel is not None:
        return kernel(gaussians, cameras, settings)
    with torch.no_grad():
        radii = fully_fused_projection_2dgs(*arguments)[0]
    return _with_probe(radii, *project_in_torch(gaussians, cameras, _seen(radii)))


def _with_probe(radii: Tensor, means2d: Tensor, depths: Tensor, ray_transforms: Tensor, normals: Tensor) -> Projected:
    ray_transforms, probe = densification_gradient(ray_transforms)
    return Projected(radii, means2d, depths, ray_transforms, normals, probe)


def _seen(radii: Tensor) -> Tensor:
    """Return (C, N) bool; gsplat 1.5 has a radius for each axis."""
    return (radii > 0).all(-1) if radii.dim() == 3 else radii > 0


def project_in_torch(
    gaussians: Gaussians, cameras: RasterCameras, seen: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (means2d, depths, ray_transforms, normals) of `Projected` on any device; finite for unseen discs, too.

    means2d is the centre of the box around the projected disc of one standard deviation: 2DGS, appendix A.
    """
    means, viewmats = gaussians.means, cameras.viewmats
    w, x, y, z = torch.nn.functional.normalize(gaussians.quats, dim=-1).unbind(-1)
    rotations = torch.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ], dim=-1,
    ).view(-1, 3, 3)  # fmt: skip
    turned = viewmats[:, None, :3, :3] @ rotations
    centres = means @ viewmats[:, :3, :3].transpose(1, 2) + viewmats[:, None, :3, 3]
    tangents = turned[..., :2] * gaussians.scales[:, None, :2]
    ray_transforms = cameras.Ks[:, None] @ torch.cat([tangents, centres[..., None]], dim=-1)
    normals = turned[..., 2]
    normals = torch.where((normals * centres).sum(-1, keepdim=True) < 0, normals, -normals)
    signs = means.new_tensor([1.0, 1.0, -1.0])
    box = ray_transforms[..., 2:, :] * signs  # (C, N, 1, 3)
    scale = torch.where(seen[..., None], (box * ray_transforms[..., 2:, :]).sum(-1), -1.0)
    means2d = (box * ray_transforms[..., :2, :]).sum(-1) / scale
    return means2d, centres[..., 2], ray_transforms, normals


@lazy_kernel(otherwise="The projection of 2D Gaussians runs without Triton")
def projection_kernel() -> Callable[..., Projected]:
    """The projection in two kernels, or None if they cannot be used."""
    probe = torch.ones(1, 4, device="cuda", requires_grad=True)
    eye = torch.eye(4, device="cuda")[None]
    disc = Gaussians(probe[:, :3], probe, probe[:, :3], probe[:, 0], probe[:, :3])
    projected = project_in_kernels(disc, RasterCameras(eye, eye[:, :3, :3], 8, 8), RasterSettings())
    projected.means2d.sum().backward()
    return project_in_kernels


def project_in_kernels(gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings) -> Projected:
    """Do the same as `project`, for float32 on CUDA: N > 0, radii (C, N), no gradient for viewmats and Ks."""
    from ._projection_2dgs_triton import ProjectDiscs

    discs = (tensor.contiguous() for tensor in (gaussians.means, gaussians.quats, gaussians.scales))
    probe = gaussians.means.new_zeros(len(cameras), len(gaussians), 2).requires_grad_()
    matrices = (cameras.viewmats.contiguous(), cameras.Ks.contiguous())
    projected = ProjectDiscs.apply(*discs, probe, *matrices, cameras.size, settings)
    return Projected(*cast("_FiveTensors", projected), probe)
