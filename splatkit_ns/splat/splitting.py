"""Splitting a Gaussian into two: samples of itself, as in 3DGS, or halves of its longest axis."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from splatkit_ns.rotations import rotation_matrices
from splatkit_ns.splat.rows import Params

NUM_SAMPLES = 2
SHRINK = 1.6
"""The factor by which samples are smaller: 0.8 * NUM_SAMPLES, the value of the 3DGS code."""
LONG_AXIS_OFFSET = 0.45
"""Distance of the halves' centres from that of the whole, in units of three standard deviations of its longest axis."""
LONG_AXIS_SHRINK = 0.55
"""Length of a half, relative to the whole; the other axes shrink to sqrt(1 - 0.45²)."""
LONG_AXIS_OPACITY = 0.6
"""Opacity of a half, relative to the whole."""


@torch.no_grad()
def split_rows(params: Params, selected: Tensor, revised_opacity: bool = False) -> dict[str, Tensor]:
    """Make the parameters of the Gaussians that replace the selected ones.

    The means are drawn from the selected Gaussians (section 5.2 of 3DGS, arXiv:2308.04079), the standard deviations
    are divided by 1.6, everything else is copied.

    Args:
        params: the parameters of all N Gaussians.
        selected: (M,) int64 indices.
        revised_opacity: give the samples the opacity 1 - sqrt(1 - o), which keeps the density of the pair near that of
            the whole (arXiv:2404.06109), instead of o.

    Returns:
        name -> (2 M, ...): all first samples, then all second ones.
    """
    rows = {name: param.detach()[selected] for name, param in params.items()}
    rotations = rotation_matrices(rows["quats"])
    new_rows = {name: value.repeat(NUM_SAMPLES, *[1] * (value.dim() - 1)) for name, value in rows.items()}
    local = torch.randn_like(new_rows["means"]) * torch.exp(new_rows["scales"])
    new_rows["means"] += torch.einsum("nij,snj->sni", rotations, local.view(NUM_SAMPLES, -1, 3)).reshape(-1, 3)
    new_rows["scales"] -= torch.log(new_rows["scales"].new_tensor(SHRINK))
    if revised_opacity:
        # logit(1 - sqrt(1 - sigmoid(x))) without rounding to 0 or 1 on the way
        half_log = 0.5 * F.logsigmoid(-new_rows["opacities"])
        new_rows["opacities"] = torch.log(-torch.expm1(half_log)) - half_log
    return new_rows


@torch.no_grad()
def long_axis_rows(params: Params, selected: Tensor) -> dict[str, Tensor]:
    """Make two Gaussians in place of each selected one, side by side along its longest axis; return their parameters.

    The long-axis split of Improved-GS (arXiv:2508.12313), with its constants; nothing is drawn at random.

    Args:
        params: the parameters of all N Gaussians.
        selected: (M,) int64 indices.

    Returns:
        name -> (2 M, ...): all halves in the direction of the axis, then all others.
    """
    rows = {name: param.detach()[selected] for name, param in params.items()}
    longest, axis = rows["scales"].max(-1)
    directions = rotation_matrices(rows["quats"]).gather(2, axis[:, None, None].expand(-1, 3, 1))[..., 0]
    offsets = 3 * LONG_AXIS_OFFSET * longest.exp()[:, None] * directions
    is_longest = F.one_hot(axis, 3).bool()
    rows["scales"] += torch.where(is_longest, math.log(LONG_AXIS_SHRINK), 0.5 * math.log(1 - LONG_AXIS_OFFSET**2))
    # logit(0.6 sigmoid(x)), finite for any x
    lowered = LONG_AXIS_OPACITY * torch.sigmoid(rows["opacities"])
    rows["opacities"] = math.log(LONG_AXIS_OPACITY) + F.logsigmoid(rows["opacities"]) - torch.log1p(-lowered)
    new_rows = {name: value.repeat(NUM_SAMPLES, *[1] * (value.dim() - 1)) for name, value in rows.items()}
    new_rows["means"] += torch.cat([offsets, -offsets])
    return new_rows
