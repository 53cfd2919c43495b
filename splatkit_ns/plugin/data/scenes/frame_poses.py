"""Poses of the frames of transforms.json: read, without a scale of their own, and near the origin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.reporting.console import report_once

Doubles = NDArray[np.float64]

FAR = 100.0
"""Scenes whose centre is farther from the origin than this many times their size are moved there; single precision
would round the positions of cameras visibly."""
ROUNDING = 1e-3
"""Files round their numbers: a scale that differs less from 1, and an entry that differs less from 0, is none."""


def pose_of(frame: Mapping[str, Any], where: str) -> Doubles:
    """The pose of a frame, (4, 4), in double precision.

    Raises:
        DataError: it is no matrix of finite numbers, or has the position in its last row.
    """
    pose = frame.get("transform_matrix")
    try:
        matrix = torch.tensor(pose, dtype=torch.float64).numpy()
    except (TypeError, ValueError, RuntimeError):
        matrix = np.zeros(0)
    if matrix.shape not in ((4, 4), (3, 4)):
        raise DataError(f"{where}: 'transform_matrix' must be a 4×4 matrix of numbers, found {str(pose)[:80]}.")
    if not np.isfinite(matrix).all():
        raise DataError(
            f"{where}: 'transform_matrix' holds NaN or infinity. Remove the frame, or compute its pose again."
        )
    if matrix.shape == (4, 4) and np.abs(matrix[3, :3]).max() > ROUNDING:
        raise DataError(
            f"{where}: the last row of 'transform_matrix' is {matrix[3].tolist()}, expected 0, 0, 0, 1, and the "
            "position in the last column. Are rows and columns exchanged?"
        )
    return np.concatenate([matrix[:3], [[0.0, 0.0, 0.0, 1.0]]])


def without_scale(poses: Doubles, path: Path) -> Doubles:
    """Poses whose rotations have columns of length 1 if they had another length, the same for all three.

    Programs write the scale of a camera as an object, or of the scene; it changes nothing of what the camera sees.

    Args:
        poses: (F, 4, 4).
        path: the file, for a note.
    """
    lengths = np.linalg.norm(poses[:, :3, :3], axis=1)
    scales = lengths.mean(1)
    is_scaled = (np.ptp(lengths, axis=1) < ROUNDING * scales) & (np.abs(scales - 1) > ROUNDING)
    if is_scaled.any():
        first = float(scales[is_scaled][0])
        report_once(
            f"{path}: the rotations of {is_scaled.sum()} of {len(poses)} poses have a scale, such as {first:.4g}. It "
            "is taken off; positions stay as they are."
        )
        poses[is_scaled, :3, :3] /= scales[is_scaled, None, None]
    return poses


def far_offset(centres: Doubles) -> Doubles | None:
    """The position (3,), in whole units, that is to be taken off a scene far from the origin; None if it is near.

    Args:
        centres: (C, 3), the positions of the cameras.
    """
    middle = centres.mean(0)
    extent = float(np.abs(centres - middle).max())
    distance = float(np.abs(middle).max())
    return np.rint(middle) if distance > FAR * extent and distance > FAR else None
