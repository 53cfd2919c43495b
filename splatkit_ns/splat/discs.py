"""Flat Gaussians: discs with a normal, as in 2D Gaussian Splatting (https://arxiv.org/abs/2403.17888)."""

from __future__ import annotations

import torch
from torch import Tensor

from splatkit_ns.formats.gaussians import LOG_THICKNESS
from splatkit_ns.splat.rows import Params

__all__ = ["LOG_THICKNESS", "disc_log_scales", "flatten"]

# A third of a turn about (1, 1, 1), by which axis 0 or 1 of a Gaussian becomes its third one: wxyz.
_TO_THIRD = ((0.5, 0.5, 0.5, 0.5), (0.5, -0.5, -0.5, -0.5), (1.0, 0.0, 0.0, 0.0))


@torch.no_grad()
def flatten(params: Params) -> None:
    """Turn Gaussians into discs, in place: the thinnest axis of each becomes its third one and gets `LOG_THICKNESS`.

    Discs stay as they are, and round Gaussians keep their axes.

    Args:
        params: raw parameters, see `schema.KEYS`.
    """
    scales, quats = params["scales"].data, params["quats"].data
    thinnest = scales.argmin(dim=1)
    keeps = (scales[:, 2] <= scales.amin(dim=1)) | (scales[:, 2] <= LOG_THICKNESS)
    thinnest[keeps] = 2
    quats.copy_(torch.where(keeps[:, None], quats, _product(quats, quats.new_tensor(_TO_THIRD)[thinnest])))
    # the turn takes axes (0, 1, 2) to (1, 2, 0) or (2, 0, 1)
    order = torch.stack([(thinnest + 1) % 3, (thinnest + 2) % 3, thinnest], dim=1)
    scales.copy_(scales.gather(1, order))
    scales[:, 2] = LOG_THICKNESS


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Return the Hamilton product of quaternions (N, 4), wxyz: the rotation b, then a."""
    w = a[:, :1] * b[:, :1] - (a[:, 1:] * b[:, 1:]).sum(1, keepdim=True)
    xyz = a[:, :1] * b[:, 1:] + b[:, :1] * a[:, 1:] + torch.linalg.cross(a[:, 1:], b[:, 1:])
    return torch.cat([w, xyz], dim=1)


def disc_log_scales(log_scales: Tensor) -> Tensor:
    """Return log scales (N, 3) with the thickness of a disc in the third column, through which no gradient passes."""
    return torch.cat([log_scales[:, :2], torch.full_like(log_scales[:, 2:], LOG_THICKNESS)], dim=1)
