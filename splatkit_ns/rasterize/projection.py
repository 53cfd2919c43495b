"""Projection of 3D Gaussians on CUDA: by our kernels, or by gsplat's if the user chooses them."""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import Tensor

from .arguments import Gaussians, PinholeCameras, RasterSettings
from .versions import radii_have_axes


class ProjectedGaussians(NamedTuple):
    """The projection of N Gaussians into C cameras, for compositing."""

    radii: Tensor
    """int32, pixels, 0 for unseen Gaussians: (C, N), or (C, N, 2) with one per axis, depending on gsplat's version."""
    seen: Tensor
    """(C, N) bool."""
    means2d: Tensor
    """(C, N, 2), pixels."""
    depths: Tensor
    """(C, N), world units."""
    conics: Tensor
    """(C, N, 3), upper triangle of the inverse covariance, 1/pixels²."""
    opacities: Tensor
    """(C, N), as they are composited: lowered to make up for eps2d if the settings are antialiased."""


def project_in_kernels(gaussians: Gaussians, cameras: PinholeCameras, settings: RasterSettings) -> ProjectedGaussians:
    """Project float32 Gaussians, N > 0, by our kernels; unseen ones get zeros.

    A Gaussian covers the ellipse where its alpha is at least 1/255, as on the CPU; its radii are that ellipse's
    half-widths, rounded up. Gradients are for means, quats, scales, opacities, viewmats and Ks. They are the same in
    every run.
    """
    from ._projection_triton import ProjectGaussians

    tensors = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, cameras.viewmats, cameras.Ks)
    contiguous = (tensor.contiguous() for tensor in tensors)
    projected = ProjectGaussians.apply(*contiguous, cameras.size, settings, radii_have_axes())
    return ProjectedGaussians(*cast("tuple[Tensor, ...]", projected))


def project_by_gsplat(gaussians: Gaussians, cameras: PinholeCameras, settings: RasterSettings) -> ProjectedGaussians:
    """Project float32 Gaussians by gsplat's compiled code; unseen ones have arbitrary values."""
    from gsplat import fully_fused_projection

    radii, means2d, depths, conics, compensations = fully_fused_projection(
        gaussians.means, None, gaussians.quats, gaussians.scales, cameras.viewmats, cameras.Ks, *cameras.size,
        near_plane=settings.near_plane, far_plane=settings.far_plane, radius_clip=settings.radius_clip,
        eps2d=settings.eps2d, calc_compensations=settings.is_antialiased,
    )  # fmt: skip
    seen = (radii > 0).all(-1) if radii.dim() == 3 else radii > 0
    opacities = gaussians.opacities.expand(len(cameras), -1)
    if settings.is_antialiased:
        opacities = opacities * compensations
    return ProjectedGaussians(radii, seen, means2d, depths, conics, opacities)
