"""Projection of 3D Gaussians through lenses in PyTorch, on any device; the conventions are those of the CPU kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from splatkit_ns.rotations import rotation_matrices

from .arguments import Gaussians, RasterCameras, RasterSettings
from .lens_models import lens_limits, padded_coefficients, project_points
from .limits import ALPHA_MIN, MAX_RADIUS


class ProjectedEllipses(NamedTuple):
    """N Gaussians on the screens of C cameras; zeros for those that are not seen."""

    means2d: Tensor
    """(C, N, 2), in pixels."""
    depths: Tensor
    """(C, N), in world units; see `splatkit_ns.rasterize.lens_models`."""
    conics: Tensor
    """(C, N, 3), the upper triangle of the inverse covariance, in 1/pixels²."""
    compensations: Tensor
    """(C, N), in [0, 1]: the share of the opacity that is left if eps2d is made up for."""
    radii: Tensor
    """(C, N, 2) int32, half the width and height of the ellipse where alpha falls to 1/255, in pixels."""


def project_with_lens(gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings) -> ProjectedEllipses:
    """Project Gaussians (EWA splatting) through the lens of the cameras, which is not that of a pinhole camera.

    Gradients reach means, quats, scales and viewmats.
    """
    (width, height), viewmats, Ks = cameras.size, cameras.viewmats, cameras.Ks
    coefficients = padded_coefficients(cameras.lens, cameras.distortion, Ks, len(cameras))
    limits = lens_limits(cameras.lens, coefficients, Ks, width, height)
    turns, shifts = viewmats[:, :3, :3], viewmats[:, :3, 3]
    points = gaussians.means @ turns.transpose(1, 2) + shifts[:, None]
    seen = project_points(cameras.lens, coefficients, limits, Ks, points)
    factors = seen.jacobians @ turns[:, None] @ (rotation_matrices(gaussians.quats) * gaussians.scales[:, None])[None]
    sharp = factors @ factors.transpose(-1, -2)
    xx, xy, yy = sharp[..., 0, 0], sharp[..., 0, 1], sharp[..., 1, 1]
    det_sharp = (xx * yy - xy * xy).clamp(min=0)
    wide_x, wide_y = xx + settings.eps2d, yy + settings.eps2d
    det = wide_x * wide_y - xy * xy
    in_range = (seen.depths >= settings.near_plane) & (seen.depths <= settings.far_plane) & seen.inside
    is_seen = in_range & (det > 0) & torch.isfinite(det)
    det = torch.where(is_seen, det, 1.0)
    ratio = torch.where(is_seen, det_sharp / det, 0.0)
    compensations = torch.where(ratio > 0, torch.where(ratio > 0, ratio, 1.0).sqrt(), 0.0)
    with torch.no_grad():
        opacities = gaussians.opacities.expand(len(cameras), -1)
        if settings.is_antialiased:
            opacities = opacities * compensations
        extent = (2 * (opacities / ALPHA_MIN).clamp(min=1).log()).sqrt()
        radius_x = (extent * wide_x.clamp(min=0).sqrt()).ceil().clamp(max=MAX_RADIUS)
        radius_y = (extent * wide_y.clamp(min=0).sqrt()).ceil().clamp(max=MAX_RADIUS)
        is_large = (radius_x > settings.radius_clip) | (radius_y > settings.radius_clip)
        x, y = seen.places.unbind(-1)
        reaches = (x + radius_x > 0) & (x - radius_x < width) & (y + radius_y > 0) & (y - radius_y < height)
        is_seen = is_seen & (opacities >= ALPHA_MIN) & is_large & reaches
        radii = torch.where(is_seen[..., None], torch.stack([radius_x, radius_y], -1), 0).int()
    conics = torch.stack([wide_y / det, -xy / det, wide_x / det], -1)
    shown = is_seen[..., None]
    return ProjectedEllipses(
        torch.where(shown, seen.places, 0.0),
        torch.where(is_seen, seen.depths, 0.0),
        torch.where(shown, conics, 0.0),
        torch.where(is_seen, compensations, 0.0),
        radii,
    )
