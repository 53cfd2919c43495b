"""Ground truth: the datamanager's images, masks, depths and normals, prepared for comparison with renders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from splatkit_ns.errors import SplatkitError


def ground_truth(image: Tensor, downscale: int) -> Tensor:
    """A photograph as floats at the resolution of this step; colours are averaged in proportion to their alpha.

    Args:
        image: (H, W, 3 or 4), uint8 in 0…255 or float in [0, 1].
        downscale: sides are divided by this and rounded down, averaging over squares.

    Returns:
        (H // downscale, W // downscale, 3 or 4) float in [0, 1].

    Raises:
        SplatkitError: no pixel would be left.
    """
    if min(image.shape[:2]) < downscale:
        raise SplatkitError(
            f"An image of {image.shape[1]}×{image.shape[0]} pixels cannot be made {downscale} times smaller, as "
            "--modules.resolution.max-downscale says. Lower it."
        )
    image = image if image.is_floating_point() else image / 255
    if downscale == 1:
        return image
    if image.shape[-1] == 4:
        image = torch.cat([image[..., :3] * image[..., 3:], image[..., 3:]], dim=-1)
    smaller = F.avg_pool2d(image.permute(2, 0, 1)[None], downscale)[0].permute(1, 2, 0)
    if image.shape[-1] != 4:
        return smaller
    color, alpha = smaller[..., :3], smaller[..., 3:]
    return torch.cat([torch.where(alpha > 0, color / alpha.clamp_min(1e-6), 0.0), alpha], dim=-1)


def valid_pixels(mask: Tensor, downscale: int) -> Tensor:
    """A mask at the resolution of this step; a pixel is valid if all pixels that it averages are valid.

    Args:
        mask: (H, W, 1), true where the pixel counts.
        downscale: as for `ground_truth`.

    Returns:
        (H // downscale, W // downscale) bool.
    """
    mask = mask[..., 0].bool()
    if downscale == 1:
        return mask
    invalid = (~mask).float()[None, None]
    return F.max_pool2d(invalid, downscale)[0, 0] == 0


def mean_depths(depths: Tensor, downscale: int) -> Tensor:
    """Depths at the resolution of this step; a pixel is unknown if one of the depths that it averages is unknown.

    Args:
        depths: (H, W, 1), NaN where unknown.
        downscale: as for `ground_truth`.

    Returns:
        (H // downscale, W // downscale, 1), NaN where unknown.
    """
    return depths if downscale == 1 else ground_truth(depths, downscale)


def mean_normals(normals: Tensor, downscale: int) -> Tensor:
    """Unit normals at the resolution of this step; see `mean_depths`.

    Args:
        normals: (H, W, 3), NaN where unknown.
        downscale: as for `ground_truth`.
    """
    return normals if downscale == 1 else F.normalize(ground_truth(normals, downscale), dim=-1)


def composite(image: Tensor, background: Tensor) -> Tensor:
    """Lay an RGBA image onto a background; RGB stays as it is.

    Args:
        image: (H, W, 3 or 4), colours not multiplied by alpha.
        background: (3,) or (H, W, 3).

    Returns:
        (H, W, 3).
    """
    if image.shape[-1] == 3:
        return image
    alpha = image[..., 3:]
    return alpha * image[..., :3] + (1 - alpha) * background


def evaluation_target(batch: Mapping[str, Any], background: Tensor) -> tuple[Tensor, Tensor | None]:
    """The ground truth of an evaluation image.

    Args:
        batch: the image and its mask, if it has one.
        background: the background of the render, (3,) or (H, W, 3).

    Returns:
        The image on the background, (H, W, 3), and where it is valid, (H, W) bool or None.
    """
    device = background.device
    mask = valid_pixels(batch["mask"].to(device), 1) if "mask" in batch else None
    return composite(ground_truth(batch["image"].to(device), 1), background), mask
