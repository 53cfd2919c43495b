"""Rotations as quaternions and as matrices, in PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rotation_matrices(quats: Tensor) -> Tensor:
    """Return rotation matrices (N, 3, 3) of quaternions (N, 4) in wxyz order, of any length; of zeros the identity."""
    return matrices_of_unit(F.normalize(quats, dim=-1))


def matrices_of_unit(quats: Tensor) -> Tensor:
    """Return rotation matrices (N, 3, 3) of unit quaternions (N, 4) in wxyz order; of zeros the identity."""
    w, x, y, z = quats.unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def quaternions(rotations: Tensor) -> Tensor:
    """Return unit quaternions (N, 4) in wxyz order of rotation matrices (N, 3, 3).

    Each is the longest of the four that Shepperd's method (1978) offers, which never divides by a small number.
    """
    m = rotations
    xx, yy, zz = m[:, 0, 0], m[:, 1, 1], m[:, 2, 2]
    x, y, z = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    xy, xz, yz = m[:, 0, 1] + m[:, 1, 0], m[:, 0, 2] + m[:, 2, 0], m[:, 1, 2] + m[:, 2, 1]
    candidates = torch.stack(
        [
            torch.stack([1 + xx + yy + zz, x, y, z], dim=1),
            torch.stack([x, 1 + xx - yy - zz, xy, xz], dim=1),
            torch.stack([y, xy, 1 - xx + yy - zz, yz], dim=1),
            torch.stack([z, xz, yz, 1 - xx - yy + zz], dim=1),
        ],
        dim=1,
    )
    longest = candidates.diagonal(dim1=1, dim2=2).argmax(dim=1)
    chosen = candidates[torch.arange(len(m), device=m.device), longest]
    return chosen / chosen.norm(dim=1, keepdim=True)
