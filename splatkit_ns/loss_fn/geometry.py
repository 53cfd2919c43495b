"""Terms of losses that use alpha, depth and normals.

All of them are means over the pixels that count, so that neither the image's size nor a mask changes their weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.rasterize.lens_models import rays_of_pixels
from splatkit_ns.triton_kernels import lazy_kernel

DepthKind = Literal["z", "ray", "inverse"]
"""Depth along the camera's viewing axis (depth cameras, renderers), along each pixel's ray (lidars), or the inverse of
depth with an unknown scale and shift (networks that look at one photograph)."""
NormalAxes = Literal["opencv", "opengl"]
"""Axes of the camera in which normals are stored: x right, y down, z forward; or x right, y up, z backward."""

LEAST_COSINE = math.cos(math.radians(80.0))
"""The cosine of the angle from a fisheye's axis up to which its inverse depth is compared: 1 / z is boundless at 90
degrees."""
EXPLAINED = 0.05
"""The largest difference of colours, in any channel, at which one image explains another."""
NEIGHBOURHOOD = 0.05
"""The side of the square around a pixel that has to be explained, too, as a share of the image's shorter side.
Gaussians at the edge of what stands before the sky are broad."""


def masked_mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """Compute the mean of the values (C, H, W) of the pixels in ``valid`` (C, H, W) bool; 0 if it has none.

    None counts all pixels. Other values have no influence, even if they are NaN.
    """
    if valid is None:
        return values.mean()
    return torch.where(valid, values, values.new_zeros(())).sum() / valid.sum().clamp(min=1)


def alpha_error(alphas: Tensor, targets: Tensor, valid: Tensor | None) -> Tensor:
    """Compute the mean absolute error of alpha, both (C, H, W, 1), over the pixels in ``valid`` (C, H, W) bool."""
    return masked_mean((alphas - targets).abs()[..., 0], valid)


def is_explained(images: Tensor, targets: Tensor) -> Tensor:
    """Return where two images (C, H, W, 3) differ by at most `EXPLAINED` all around a pixel, (C, H, W) bool.

    The square around it, a `NEIGHBOURHOOD` wide, leaves out edges and what has the same colour by chance.
    """
    differences = (images - targets).abs().amax(-1)[:, None]
    radius = max(1, round(min(differences.shape[2:]) * NEIGHBOURHOOD / 2))
    for across in ((2 * radius + 1, 1), (1, 2 * radius + 1)):
        differences = F.max_pool2d(differences, across, stride=1, padding=(across[0] // 2, across[1] // 2))
    return differences[:, 0] <= EXPLAINED


def interior(valid: Tensor) -> Tensor:
    """Return the pixels of a mask (C, H, W) whose four neighbours are in it, too; none at the image's border.

    A normal from depth differences at a pixel depends on these neighbours.
    """
    inner = torch.zeros_like(valid)
    inner[:, 1:-1, 1:-1] = (
        valid[:, 1:-1, 1:-1]
        & valid[:, :-2, 1:-1]
        & valid[:, 2:, 1:-1]
        & valid[:, 1:-1, :-2]
        & valid[:, 1:-1, 2:]
    )  # fmt: skip
    return inner


def pixel_rays(view: View) -> Tensor:
    """Return the points at depth 1 of the pixels' centres in the camera's OpenCV axes, (C, H, W, 3).

    They have z = 1, but for opencv_fisheye, whose depth is the distance from the camera, they are of length 1. Zeros
    where a lens sees nothing.
    """
    Ks = view.Ks
    if view.lens != "pinhole":
        return rays_of_pixels(view.lens, view.distortion, Ks, view.width, view.height)
    x = torch.arange(view.width, device=Ks.device) + 0.5
    y = torch.arange(view.height, device=Ks.device) + 0.5
    x = (x - Ks[:, 0, 2, None]) / Ks[:, 0, 0, None]
    y = (y - Ks[:, 1, 2, None]) / Ks[:, 1, 1, None]
    shape = (len(Ks), view.height, view.width)
    return torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape), x.new_ones(()).expand(shape)], dim=-1)


def z_depths(depths: Tensor, kind: DepthKind, view: View) -> Tensor:
    """Convert depths (C, H, W, 1) of the kinds z and ray in a view into depths as renderers draw them.

    Those are along the viewing axis, and for opencv_fisheye from the camera. They are NaN where a lens sees nothing, or
    sees no point in front of the camera.
    """
    if view.lens == "opencv_fisheye":
        if kind == "ray":
            return depths
        z = pixel_rays(view)[..., 2:]
        return torch.where(z > 1e-3, depths / z.clamp(min=1e-3), torch.nan)
    if kind == "z":
        return depths
    length = pixel_rays(view).norm(dim=-1, keepdim=True)
    return torch.where(length > 0, depths / length, torch.nan)


def axis_depths(depths: Tensor, view: View) -> Tensor:
    """Convert depths (C, H, W, 1) as renderers draw them in a view into depths along the viewing axis; differentiable.

    They are 0 where the angle from the axis of a fisheye is larger than that of `LEAST_COSINE`.
    """
    if view.lens != "opencv_fisheye":
        return depths
    cosines = pixel_rays(view)[..., 2:]
    return torch.where(cosines > LEAST_COSINE, depths * cosines, 0.0)


def normal_error(normals: Tensor, references: Tensor, alphas: Tensor, valid: Tensor) -> Tensor:
    """Compute the error of blended normals against a reference: the mean of a (a - n · r) over the valid pixels.

    For the normals n = sum of w_i n_i with blend weights w_i that sum up to a, this is a times equation 14 of the 2DGS
    paper, the sum of w_i (1 - n_i · r): 0 if all agree, and 0 in empty pixels. As in the authors' code, a has no
    gradient, so that a surface cannot lower the error by becoming transparent.

    Args:
        normals: sum of the weighted unit normals, (C, H, W, 3).
        references: unit normals in the same axes, (C, H, W, 3).
        alphas: sum of the weights, (C, H, W, 1).
        valid: pixels that count, (C, H, W) bool.
    """
    if _kernel_fits(normals, references, alphas) and (kernel := normal_error_kernel()) is not None:
        return kernel(normals, references, alphas.detach(), valid)
    a = alphas.detach()[..., 0]
    references = torch.where(valid[..., None], references, references.new_zeros(()))  # 0 * NaN would be NaN
    return masked_mean(a * (a - (normals * references).sum(-1)), valid)


def _kernel_fits(*images: Tensor) -> bool:
    return all(image.is_cuda and image.dtype == torch.float32 and image.numel() < 2**30 for image in images)


@lazy_kernel(otherwise="The error of normals runs without Triton")
def normal_error_kernel() -> Callable[..., Tensor]:
    """`normal_error` in one kernel per direction, or None if it cannot be used."""
    from splatkit_ns.loss_fn._normal_error_triton import NormalError

    normals = torch.ones(1, 1, 1, 3, device="cuda", requires_grad=True)
    alphas = torch.ones(1, 1, 1, 1, device="cuda")
    NormalError.apply(normals, normals, alphas, alphas[..., 0] > 0).backward()
    return NormalError.apply


def depth_error(depths: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Compute the mean absolute error of depths (C, H, W, 1) over valid pixels whose target is finite and above 0.

    Args:
        depths: rendered depths.
        targets: depths of the data; NaN, infinity and values up to 0 mean unknown.
        valid: pixels that count, (C, H, W) bool.
    """
    counts = valid & torch.isfinite(targets[..., 0]) & (targets[..., 0] > 0)
    difference = torch.where(counts, (depths - targets)[..., 0], depths.new_zeros(()))
    return difference.abs().sum() / counts.sum().clamp(min=1)


def inverse_depth_error(depths: Tensor, targets: Tensor, alphas: Tensor, valid: Tensor) -> Tensor:
    """Compute the mean absolute error of inverse depth against a reference of unknown scale and shift.

    Both are found anew for each image and step, by least squares in closed form: the s of at least 0 and the t that
    bring s times the reference plus t nearest to the inverse of the rendered depth. They have no gradient. The error is
    relative to the mean of the inverse depth, so that the size of the scene does not matter. The fit is that of MiDaS
    (Ranftl et al., 2020, https://arxiv.org/abs/1907.01341).

    Args:
        depths: rendered depths, (1, H, W, 1).
        targets: the reference, (1, H, W, 1), larger for what is nearer; NaN and infinity mean unknown.
        alphas: (1, H, W, 1); pixels that are less than half covered do not count.
        valid: pixels that count, (1, H, W) bool.

    Returns:
        A scalar; 0 if fewer than two pixels count.
    """
    reference = targets[..., 0]
    counts = valid & torch.isfinite(reference) & (alphas[..., 0] > 0.5) & (depths[..., 0] > 0)
    zero = depths.new_zeros(())
    inverse = torch.where(counts, 1 / torch.where(counts, depths[..., 0], zero + 1), zero)
    reference = torch.where(counts, reference, zero)
    with torch.no_grad():
        number = counts.sum().clamp(min=1)
        mean, reference_mean = inverse.sum() / number, reference.sum() / number
        from_mean = torch.where(counts, reference - reference_mean, zero)
        scale = ((from_mean * inverse).sum() / from_mean.square().sum().clamp(min=1e-12)).clamp(min=0)
        fitted = torch.where(counts, mean + scale * from_mean, zero)
    return (inverse - fitted).abs().sum() / (number * mean.clamp(min=1e-12))
