"""Depth between the pixels' centres."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from splatkit_ns.mesh.views import DepthView

REFINEMENT = 2
"""The number of samples per pixel's side. A fusion reads the nearest sample, so a slanted surface shows steps."""


def refined(view: DepthView, max_step: float, factor: int = REFINEMENT) -> DepthView:
    """The view with `factor` times as many pixels a side.

    Inverse depth is interpolated linearly, which is exact on planes. If neighbouring pixels differ by more than
    `max_step`, or one shows no surface, there is an edge, and depth stays that of the nearest pixel.

    Args:
        view: at least one pixel.
        max_step: in world units.
        factor: 1 changes nothing.
    """
    depth = torch.from_numpy(view.depth)[None, None]
    inverse = torch.where(depth > 0, 1 / depth.clamp(min=1e-12), 0)
    smooth = 1 / F.interpolate(inverse, scale_factor=factor, mode="bilinear", align_corners=False)
    nearest = F.interpolate(depth, scale_factor=factor, mode="nearest")
    padded = F.pad(depth, (1, 1, 1, 1), mode="replicate")
    farthest, closest = F.max_pool2d(padded, 2, stride=1), -F.max_pool2d(-padded, 2, stride=1)
    flat = (closest > 0) & (farthest - closest <= max_step)
    rows, columns = (_quad_of_sample(size, factor) for size in view.depth.shape)
    fine = torch.where(flat[..., rows, :][..., columns], smooth, nearest)
    K = view.K.copy()
    K[:2] *= factor
    color: NDArray[np.float32] = view.color.repeat(factor, axis=0).repeat(factor, axis=1)
    return replace(view, depth=fine[0, 0].numpy(), color=color, K=K)


def _quad_of_sample(size: int, factor: int) -> Tensor:
    """For each fine sample along an axis, the pair of pixels that it lies between; pair i is of pixels i - 1 and i."""
    return torch.floor((torch.arange(size * factor) + 0.5) / factor + 0.5).long()
