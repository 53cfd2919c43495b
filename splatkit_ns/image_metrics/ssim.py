"""Structural similarity (SSIM) of images, with the parameters of 3DGS: 11x11 Gaussian window, sigma 1.5, no padding.

Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004, equation 13.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from splatkit_ns.errors import SplatkitError
from splatkit_ns.image_metrics.ssim_window import C1, C2, WINDOW_SIZE, gaussian_window
from splatkit_ns.triton_kernels import lazy_kernel, run_together

MAX_NUMBERS = 2**31 // 5
"""The limit of numbers in a batch of images, from the kernels' 32-bit indices into five maps of that size."""

_STEPS = (1, 2, 4, 3)
"""Two runs of used pixels make a longer one, of 2, 4, 8, and, as they may overlap, of WINDOW_SIZE = 11."""


class ImageSizeError(SplatkitError, ValueError):
    """An error of images that are smaller than the window."""


def ssim(a: Tensor, b: Tensor, *, mask: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """Compute the mean SSIM of two batches of images with values in 0..1; differentiable in both.

    On CUDA Triton kernels of ours compute it, if neither b nor the weights need a gradient, on the CPU compiled ones,
    otherwise convolutions; the values agree to 1e-5.

    Args:
        a: (B, 3, H, W), H and W at least 11; the rendered images.
        b: the same shape; the targets.
        mask: (B, H, W) bool, True = use this pixel. Only windows whose 121 pixels are all used count, so no value
            outside the mask has any influence.
        weights: (B, H, W), at least 0; each window counts as much as the pixel at its centre. None for 1.

    Returns:
        A scalar. If no window counts: 1, with a gradient of zero.

    Raises:
        ValueError: shapes or dtypes do not fit, or an image is smaller than the window.
    """
    _check_images(a, b)
    counted = _window_weights(a, mask, weights)
    if mask is not None:  # pixels outside it may have any value, even NaN, and 0 * NaN would be NaN
        a, b = (torch.where(mask[:, None], image, image.new_zeros(())) for image in (a, b))
    window, fits = gaussian_window(a.dtype, a.device), _kernel_fits(a, b)
    if counted is None:
        kernel = _cuda_kernel() if fits else None
        return ssim_map(a, b).mean() if kernel is None else kernel(a, b, window, C1, C2)
    if fits and not counted.requires_grad and triton_kernel() is not None:
        from splatkit_ns.image_metrics._ssim_triton import weighted_ssim_sum

        total = weighted_ssim_sum(a, b, window, C1, C2, counted)
    else:
        total = (ssim_map(a, b) * counted[:, None]).sum()
    weight = counted.sum() * a.shape[1]
    return torch.where(weight > 0, total / weight.clamp(min=1e-12), total + 1)


def _window_weights(images: Tensor, mask: Tensor | None, weights: Tensor | None) -> Tensor | None:
    """Return what each window counts, (B, H - 10, W - 10); None if all count the same."""
    valid = None if mask is None else valid_windows(mask, images).to(images.dtype)
    if weights is None:
        return valid
    margin = WINDOW_SIZE // 2
    centres = weights[:, margin:-margin, margin:-margin].to(images.dtype)
    return centres if valid is None else centres * valid


def ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """Compute the SSIM of each window.

    Args:
        a: (B, 3, H, W), H and W at least 11.
        b: the same shape.

    Returns:
        (B, 3, H - 10, W - 10): the value at [y, x] is of the window whose centre is the pixel [y + 5, x + 5].

    Raises:
        ValueError: see `ssim`.
    """
    _check_images(a, b)
    window = gaussian_window(a.dtype, a.device)
    compiled = _compiled_ssim_map() if a.device.type == "cpu" and a.dtype in (torch.float32, torch.float64) else None
    if compiled is None:
        return ssim_map_by_convolution(a, b, window)
    return compiled(a.contiguous(), b.contiguous(), window, C1, C2)


def ssim_map_by_convolution(a: Tensor, b: Tensor, window: Tensor) -> Tensor:
    """Compute `ssim_map` on any device: each of its five maps is blurred by two 1-D convolutions."""
    maps = torch.cat([a, b, a * a, b * b, a * b], dim=1)
    groups = maps.shape[1]
    rows = window[None, None, None, :].expand(groups, 1, 1, -1).contiguous()
    blurred = F.conv2d(F.conv2d(maps, rows, groups=groups), rows.transpose(2, 3).contiguous(), groups=groups)
    mean_a, mean_b, mean_aa, mean_bb, mean_ab = blurred.chunk(5, dim=1)
    product, squares = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
    covariance, variances = mean_ab - product, mean_aa + mean_bb - squares
    return ((2 * product + C1) * (2 * covariance + C2)) / ((squares + C1) * (variances + C2))


def valid_windows(mask: Tensor, images: Tensor) -> Tensor:
    """Return (B, H - 10, W - 10) bool, the windows whose pixels are all in the mask (B, H, W) of images (B, 3, H, W).

    Raises:
        ValueError: the mask does not fit the images.
    """
    expected = (images.shape[0], *images.shape[2:])
    if mask.dtype != torch.bool or tuple(mask.shape) != expected:
        raise ValueError(
            f"the mask must be bool of shape {expected}, True = use this pixel; found {mask.dtype} of shape "
            f"{tuple(mask.shape)}."
        )
    valid = mask
    for dim in (1, 2):
        for step in _STEPS:
            length = valid.shape[dim] - step
            valid = valid.narrow(dim, 0, length) & valid.narrow(dim, step, length)
    return valid


def _check_images(a: Tensor, b: Tensor) -> None:
    if a.dim() != 4 or a.shape != b.shape:
        raise ValueError(
            f"SSIM needs two images of the same shape (B, 3, H, W), found {tuple(a.shape)} and {tuple(b.shape)}. "
            "Frames of shape (B, H, W, 3) get this shape by permute(0, 3, 1, 2)."
        )
    if not a.is_floating_point() or a.dtype != b.dtype:
        raise ValueError(f"SSIM needs floating-point images of one dtype, found {a.dtype} and {b.dtype}.")
    height, width = a.shape[2:]
    if min(height, width) < WINDOW_SIZE:
        raise ImageSizeError(
            f"SSIM compares windows of {WINDOW_SIZE} x {WINDOW_SIZE} pixels; images of {height} x {width} (height x "
            "width) hold none. Use larger images, or no SSIM in the loss: --pipeline.model.loss-fn.ssim-lambda 0"
        )


@lazy_kernel(otherwise="SSIM runs without Triton")
def triton_kernel() -> Callable[..., Tensor]:
    """The mean SSIM in Triton, or None if that cannot be used."""
    from splatkit_ns.image_metrics._ssim_triton import first_launches, mean_ssim

    window = gaussian_window(torch.float32, torch.device("cuda", torch.cuda.current_device()))
    run_together(first_launches(window, C1, C2))
    return mean_ssim


def _kernel_fits(a: Tensor, b: Tensor) -> bool:
    return a.is_cuda and a.dtype == torch.float32 and not b.requires_grad and a.numel() <= MAX_NUMBERS


def _cuda_kernel() -> Callable[..., Tensor] | None:
    """Return the mean SSIM on CUDA in few kernels: ours in Triton, else the package fused_ssim, else None."""
    return triton_kernel() or _fused_ssim()


@lru_cache(maxsize=1)
def _fused_ssim() -> Callable[..., Tensor] | None:
    try:
        from fused_ssim import fused_ssim  # type: ignore[reportMissingImports]
    except (ImportError, OSError):  # an extension built for another torch fails to load with OSError
        return None

    def mean_ssim(a: Tensor, b: Tensor, *_: Any) -> Tensor:
        train = torch.is_grad_enabled() and a.requires_grad
        return fused_ssim(a.contiguous(), b.contiguous(), padding="valid", train=train)

    return mean_ssim


@lru_cache(maxsize=1)
def _compiled_ssim_map() -> Callable[..., Tensor] | None:
    try:
        from splatkit_ns.image_metrics._ssim_cpu import SsimMap
    except (ImportError, RuntimeError):  # no numba, or no writable folder for its compiled code
        return None
    return SsimMap.apply
