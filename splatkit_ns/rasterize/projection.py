"""Projection of 3D Gaussians on CUDA: by our kernels, or by gsplat's if the user chooses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from splatkit_ns.cameras import LensModel
from splatkit_ns.triton_kernels import LazyKernel, run_together

from .arguments import Gaussians, RasterCameras, RasterSettings
from .lens_models import NUM_COEFFICIENTS, lens_limits, padded_coefficients
from .lens_projection import project_with_lens
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


Projection: TypeAlias = Callable[[Gaussians, RasterCameras, RasterSettings], ProjectedGaussians]


def project_in_kernels(gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings) -> ProjectedGaussians:
    """Project float32 Gaussians, N > 0, by our kernels; unseen ones get zeros.

    A Gaussian covers the ellipse where its alpha is at least 1/255, as on the CPU; its radii are that ellipse's
    half-widths, rounded up. Gradients are for means, quats, scales, opacities, viewmats and Ks. They are the same in
    every run.
    """
    from ._projection_triton import LENS_KINDS, ProjectGaussians

    tensors = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, cameras.viewmats, cameras.Ks)
    contiguous = (tensor.contiguous() for tensor in tensors)
    lenses = _lens_numbers(cameras), LENS_KINDS[cameras.lens]
    projected = ProjectGaussians.apply(*contiguous, *lenses, cameras.size, settings, radii_have_axes())
    return ProjectedGaussians(*cast("tuple[Tensor, ...]", projected))


@torch.no_grad()
def _lens_numbers(cameras: RasterCameras) -> Tensor | None:
    """Return (C, LENS_NUMBERS): nine coefficients, `bend` and `cut` of `lens_models`; None for pinhole cameras."""
    if cameras.lens == "pinhole":
        return None
    coefficients = padded_coefficients(cameras.lens, cameras.distortion, cameras.Ks, len(cameras))
    limits = lens_limits(cameras.lens, coefficients, cameras.Ks, *cameras.size)
    spare = 9 - coefficients.shape[1]
    return torch.cat([torch.nn.functional.pad(coefficients, (0, spare)), limits.to(coefficients)], dim=1)


def project_through_lens(gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings) -> ProjectedGaussians:
    """Do the same as `project_in_kernels`, in PyTorch if that lens's kernels cannot be used; not for pinhole cameras.

    Without the kernels there is no gradient for Ks.
    """
    kernel = LENS_KERNELS[cameras.lens]()
    if kernel is not None:
        return kernel(gaussians, cameras, settings)
    found = project_with_lens(gaussians, cameras, settings)
    seen = found.radii.amax(-1) > 0
    opacities = gaussians.opacities.expand(len(cameras), -1)
    if settings.is_antialiased:
        opacities = opacities * found.compensations
    radii = found.radii if radii_have_axes() else found.radii.amax(-1)
    return ProjectedGaussians(radii, seen, found.means2d, found.depths, found.conics, opacities)


def _lens_kernel(lens: LensModel) -> LazyKernel[Projection]:
    def load() -> Projection:
        from ._projection_triton import first_launches

        run_together(first_launches("cuda", radii_have_axes(), lens))
        return project_in_kernels

    return LazyKernel(load, f"Projection through {lens} lenses runs without Triton")


LENS_KERNELS: dict[LensModel, LazyKernel[Projection]] = {lens: _lens_kernel(lens) for lens in NUM_COEFFICIENTS}
"""The kernels of each lens, or None if they cannot be used."""


def project_by_gsplat(gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings) -> ProjectedGaussians:
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
