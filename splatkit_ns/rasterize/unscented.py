"""Lenses by gsplat's compiled code: the unscented transform of 3DGUT (https://arxiv.org/abs/2412.12507).

Seven points of each Gaussian are seen through the lens to find its place in the image. Its alpha in a pixel is that of
the pixel's ray in space, so that nothing about the lens is linearised.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from splatkit_ns.errors import SplatkitError

from .arguments import Gaussians, RasterCameras, RasterSettings
from .cuda import BackendUnavailableError
from .versions import gsplat_version

FIRST_VERSION = (1, 5, 3)
"""The first version of gsplat whose unscented transform is used."""
CHANNELS = 3
"""The number of channels that its compositing takes; with any other it ends the process by an assertion."""


def has_unscented_transform() -> bool:
    """Whether the installed gsplat has the unscented transform, compiled or not."""
    try:
        return gsplat_version() >= FIRST_VERSION
    except ModuleNotFoundError:
        return False


def require_unscented_transform() -> None:
    """Raise BackendUnavailableError if the installed gsplat is too old for it."""
    if has_unscented_transform():
        return
    try:
        found = ".".join(map(str, gsplat_version()))
    except ModuleNotFoundError:
        found = "none"
    raise BackendUnavailableError(
        "Lenses with the backend gsplat need the unscented transform of gsplat "
        f"{'.'.join(map(str, FIRST_VERSION))} or newer, found {found}. Choose the backend splatkit, which needs "
        "nothing of gsplat, or undistort the images."
    )


def rasterize_unscented(
    gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings, colors: Tensor, backgrounds: Tensor | None
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Composite channels with lenses by gsplat's code, which has been loaded, three at a time.

    Gradients are for means, quats, scales, opacities, channels and backgrounds. Places on the screen have none. Centres
    beside or behind the camera are not seen, and with opencv_fisheye, too, ``near_plane`` and ``far_plane`` are along
    the optical axis.

    Args:
        gaussians: float32, N > 0; their colours are not used.
        cameras: C cameras with a lens.
        settings: the options.
        colors: the channels of each Gaussian, (C, N, X).
        backgrounds: (C, X); None for 0.

    Returns:
        images (C, H, W, X), alphas (C, H, W, 1), and gsplat's info.

    Raises:
        SplatkitError: a gradient is wanted that this does not have, or a lens has nerfstudio's fourth radial term.
    """
    from gsplat import rasterization

    if cameras.viewmats.requires_grad or settings.absgrad:
        wanted = "absolute gradients (absgrad)" if settings.absgrad else "gradients of camera poses"
        raise SplatkitError(f"gsplat's unscented transform has no {wanted}. Choose the backend splatkit for lenses.")
    options: dict[str, Any] = {"with_ut": True, "with_eval3d": True, **_lens_arguments(cameras)}
    quats = torch.nn.functional.normalize(gaussians.quats, dim=-1)
    number = colors.shape[-1]
    groups = _in_threes(colors)
    behind = [None] * len(groups) if backgrounds is None else _in_threes(backgrounds)
    drawn = [
        rasterization(
            gaussians.means, quats, gaussians.scales, gaussians.opacities, group, cameras.viewmats, cameras.Ks,
            *cameras.size, near_plane=settings.near_plane, far_plane=settings.far_plane,
            radius_clip=settings.radius_clip, eps2d=settings.eps2d, packed=False, tile_size=settings.tile_size,
            backgrounds=background, rasterize_mode=settings.rasterize_mode, **options,
        )
        for group, background in zip(groups, behind, strict=True)
    ]  # fmt: skip
    images = torch.cat([images for images, _, _ in drawn], dim=-1)[..., :number]
    return images, drawn[0][1], drawn[0][2]


def _in_threes(channels: Tensor) -> list[Tensor]:
    """Groups of `CHANNELS` of the channels in the last axis, the last group filled up with zeros."""
    missing = -channels.shape[-1] % CHANNELS
    return [group.contiguous() for group in torch.nn.functional.pad(channels, (0, missing)).split(CHANNELS, dim=-1)]


def lens_depths(means: Tensor, cameras: RasterCameras) -> Tensor:
    """The depths (C, N) of centres (N, 3) as our kernels have them: along the axis, or from a fisheye."""
    points = means @ cameras.viewmats[:, :3, :3].transpose(1, 2) + cameras.viewmats[:, None, :3, 3]
    return points.norm(dim=-1) if cameras.lens == "opencv_fisheye" else points[..., 2]


def _lens_arguments(cameras: RasterCameras) -> dict[str, Any]:
    """gsplat's arguments for a lens: an opencv lens is a pinhole camera with coefficients."""
    distortion = cameras.distortion
    camera_model = "fisheye" if cameras.lens == "opencv_fisheye" else "pinhole"
    if distortion is None:
        return {"camera_model": camera_model}
    wanted = 4 if camera_model == "fisheye" else 9
    k = torch.nn.functional.pad(distortion, (0, wanted - distortion.shape[1])).contiguous()
    if camera_model == "fisheye":
        return {"camera_model": camera_model, "radial_coeffs": k}
    if bool((k[:, 8] != 0).any()):
        raise SplatkitError(
            "A lens has a fourth radial term (k4), which gsplat's unscented transform does not have. Choose the "
            "backend splatkit, or undistort the images."
        )
    return {
        "camera_model": camera_model,
        "radial_coeffs": k[:, [0, 1, 4, 5, 6, 7]].contiguous(),
        "tangential_coeffs": k[:, 2:4].contiguous(),
    }
