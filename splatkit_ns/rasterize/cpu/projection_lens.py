"""Projection of 3D Gaussians through lenses, forward; see `projection` for pinhole cameras."""

# Kernel arguments are scalars and arrays whose types numba infers; their shapes are in the docstrings.
# pyright: reportMissingParameterType=false

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from .lens_point import OPENCV, fisheye_point, opencv_point
from .projection import image_factor, rotation_of, write_ellipse
from .scalar_math import FUSED


@numba.njit(cache=True, inline="always", error_model="numpy")
def point_of(view: Any, mean: Any, point: Any) -> None:
    """Write the mean (3,) in camera axes."""
    for i in range(3):
        point[i] = view[i, 0] * mean[0] + view[i, 1] * mean[1] + view[i, 2] * mean[2] + view[i, 3]


@numba.njit(cache=True, inline="always", error_model="numpy")
def seen_depth(kind: int, point: Any, cut: float) -> float:
    """Return the depth of a point (3,) in camera axes; -1 if the lens has no place for it."""
    x, y, z = point[0], point[1], point[2]
    across = math.sqrt(x * x + y * y)
    if kind == OPENCV:
        return z if z > 0.0 and across <= cut * z else -1.0
    distance = math.sqrt(across * across + z * z)
    return distance if distance > 0.0 and math.atan2(across, z) <= cut else -1.0


@numba.njit(cache=True, inline="always", error_model="numpy")
def lens_frame(
    kind: int, view: Any, K: Any, k: Any, bend: float, point: Any, place: Any, jacobian: Any, frame: Any, ratio: Any,
    factor: Any,
) -> None:  # fmt: skip
    """Write the pixel (2,) of a point, the Jacobian J (2, 3) in pixels, and A = J W (2, 3), for world offsets."""
    if kind == OPENCV:
        opencv_point(k, bend, point, place, jacobian)
    else:
        fisheye_point(k, bend, point, place, jacobian, ratio, factor)
    for row in range(2):
        focal = K[row, row]
        place[row] = focal * place[row] + K[row, 2]
        for i in range(3):
            jacobian[row, i] *= focal
    for row in range(2):
        for i in range(3):
            frame[row, i] = (
                jacobian[row, 0] * view[0, i] + jacobian[row, 1] * view[1, i] + jacobian[row, 2] * view[2, i]
            )


@numba.njit(cache=True, nogil=True, fastmath=FUSED, error_model="numpy")
def project_lens(
    first, last, camera, kind, coefficients, limits, means, quats, scales, opacities, viewmats, Ks, width, height, near,
    far, radius_clip, eps2d, antialiased, means2d, depths, conics, compensations, radii,
):  # fmt: skip
    """Project Gaussians first to last of N into one of C cameras with a lens of this kind.

    Coefficients (C, K) and limits (C, 2) are float64, see `rasterize.lens_models`; the rest is as in
    `projection.project`.
    """
    rotation, frame, factor, point = np.empty((3, 3)), np.empty((2, 3)), np.empty((2, 3)), np.empty(3)
    place, jacobian, ratio, polynomial = np.empty(2), np.empty((2, 3)), np.empty(3), np.empty(3)
    view, K = viewmats[camera].astype(np.float64), Ks[camera].astype(np.float64)
    k, bend, cut = coefficients[camera], limits[camera, 0], limits[camera, 1]
    for g in range(first, last):
        point_of(view, means[g], point)
        depth = seen_depth(kind, point, cut)
        if not (depth >= near and depth <= far and depth > 0.0):
            continue
        rotation_of(quats[g], rotation)
        lens_frame(kind, view, K, k, bend, point, place, jacobian, frame, ratio, polynomial)
        xx, xy, yy = image_factor(frame, rotation, scales[g], factor)
        if write_ellipse(
            xx, xy, yy, place[0], place[1], float(opacities[g]), width, height, radius_clip, eps2d, antialiased,
            means2d[camera, g], conics[camera, g], radii[camera, g], compensations[camera, g : g + 1],
        ):  # fmt: skip
            depths[camera, g] = depth
