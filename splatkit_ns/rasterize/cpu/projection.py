"""Perspective projection of 3D Gaussians to image-plane Gaussians, forward (EWA splatting).

Zwicker et al., "EWA Volume Splatting" (2001), and Ye et al., "Mathematical Supplement for the gsplat Library"
(arXiv 2312.02121). The arithmetic is float64 for tensors of any type: the determinant of a thin Gaussian's
covariance cancels badly in float32, and projection is a small part of a frame.
"""

# Kernel arguments are scalars and arrays whose types numba infers; their shapes are in the docstrings.
# pyright: reportMissingParameterType=false

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from splatkit_ns.rasterize.limits import ALPHA_MIN, MAX_RADIUS

from .scalar_math import FUSED


@numba.njit(cache=True, inline="always", error_model="numpy")
def rotation_of(quat: Any, rotation: Any) -> float:
    """Write the 3x3 rotation of a wxyz quaternion of any length; returns that length (0: identity was written)."""
    w, x, y, z = float(quat[0]), float(quat[1]), float(quat[2]), float(quat[3])
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    if norm < 1e-12:
        w, x, y, z, norm = 1.0, 0.0, 0.0, 0.0, 0.0
    else:
        w, x, y, z = w / norm, x / norm, y / norm, z / norm
    rotation[0, 0] = 1.0 - 2.0 * (y * y + z * z)
    rotation[0, 1] = 2.0 * (x * y - w * z)
    rotation[0, 2] = 2.0 * (x * z + w * y)
    rotation[1, 0] = 2.0 * (x * y + w * z)
    rotation[1, 1] = 1.0 - 2.0 * (x * x + z * z)
    rotation[1, 2] = 2.0 * (y * z - w * x)
    rotation[2, 0] = 2.0 * (x * z - w * y)
    rotation[2, 1] = 2.0 * (y * z + w * x)
    rotation[2, 2] = 1.0 - 2.0 * (x * x + y * y)
    return norm


@numba.njit(cache=True, inline="always", error_model="numpy")
def clamped_slope(u: float, focal: float, centre: float, size: float) -> float:
    """Clamp the slope x/z (or y/z) to 15% beyond the image on each side.

    The local affine approximation of the projection explodes far outside the view; the supplement's section 3 clamps
    the point at which the Jacobian is evaluated, not the projected mean.
    """
    margin = 0.3 * 0.5 * size / focal
    return min((size - centre) / focal + margin, max(-centre / focal - margin, u))


@numba.njit(cache=True, inline="always", error_model="numpy")
def image_frame(view: Any, K: Any, width: int, height: int, mean: Any, frame: Any) -> None:
    """Write A = J W (2x3), the affine map from world to image offsets at a mean, into `frame`.

    `frame` is (4, 3): rows 0-1 are A, row 2 is the mean in camera space, row 3 is (tx, ty, unused), the clamped mean at
    which the Jacobian J of the projection was taken.
    """
    for i in range(3):
        frame[2, i] = view[i, 0] * mean[0] + view[i, 1] * mean[1] + view[i, 2] * mean[2] + view[i, 3]
    x, y, z = frame[2, 0], frame[2, 1], frame[2, 2]
    fx, fy = float(K[0, 0]), float(K[1, 1])
    tx = z * clamped_slope(x / z, fx, float(K[0, 2]), float(width))
    ty = z * clamped_slope(y / z, fy, float(K[1, 2]), float(height))
    frame[3, 0], frame[3, 1] = tx, ty
    for k in range(3):
        frame[0, k] = fx / z * view[0, k] - fx * tx / (z * z) * view[2, k]
        frame[1, k] = fy / z * view[1, k] - fy * ty / (z * z) * view[2, k]


@numba.njit(cache=True, inline="always", error_model="numpy")
def image_factor(frame: Any, rotation: Any, scale: Any, factor: Any) -> tuple[float, float, float]:
    """Write U = A R (2x3) into `factor`; returns (xx, xy, yy) of the 2D covariance (U S)(U S)^T in pixels²."""
    xx = xy = yy = 0.0
    for k in range(3):
        u0 = frame[0, 0] * rotation[0, k] + frame[0, 1] * rotation[1, k] + frame[0, 2] * rotation[2, k]
        u1 = frame[1, 0] * rotation[0, k] + frame[1, 1] * rotation[1, k] + frame[1, 2] * rotation[2, k]
        factor[0, k], factor[1, k] = u0, u1
        s2 = float(scale[k]) * float(scale[k])
        xx += u0 * u0 * s2
        xy += u0 * u1 * s2
        yy += u1 * u1 * s2
    return xx, xy, yy


@numba.njit(cache=True, inline="always", error_model="numpy")
def in_depth_range(view: Any, mean: Any, near: float, far: float) -> bool:
    """Whether the mean lies between the near and the far plane (both in world units along the optical axis)."""
    z = view[2, 0] * mean[0] + view[2, 1] * mean[1] + view[2, 2] * mean[2] + view[2, 3]
    return z >= near and z <= far


@numba.njit(cache=True, inline="always", error_model="numpy")
def write_ellipse(
    xx, xy, yy, mx, my, opacity, width, height, radius_clip, eps2d, antialiased, mean2d, conic, radius, compensation
):  # fmt: skip
    """Write a projected Gaussian if it is seen, and return whether it is.

    Its 2D covariance (xx, xy, yy) is in pixels², its centre (mx, my) in pixels; the outputs are (2,), (3,), (2,) and
    (1,), see `project`.
    """
    det_sharp = xx * yy - xy * xy
    xx += eps2d
    yy += eps2d
    det = xx * yy - xy * xy
    if not (det > 0.0) or math.isinf(det):
        return False
    share = math.sqrt(max(0.0, det_sharp / det))
    if antialiased:
        opacity *= share
    if opacity < ALPHA_MIN:
        return False
    # The ellipse where alpha falls to 1/255 (Radl et al., arXiv 2402.00525, appendix B.2), per axis.
    extent = math.sqrt(2.0 * math.log(opacity / ALPHA_MIN))
    radius_x = min(math.ceil(extent * math.sqrt(xx)), MAX_RADIUS)
    radius_y = min(math.ceil(extent * math.sqrt(yy)), MAX_RADIUS)
    if radius_x <= radius_clip and radius_y <= radius_clip:
        return False
    if mx + radius_x <= 0 or mx - radius_x >= width or my + radius_y <= 0 or my - radius_y >= height:
        return False
    radius[0], radius[1] = radius_x, radius_y
    mean2d[0], mean2d[1] = mx, my
    conic[0], conic[1], conic[2] = yy / det, -xy / det, xx / det
    compensation[0] = share
    return True


@numba.njit(cache=True, nogil=True, fastmath=FUSED, error_model="numpy")
def project(
    first, last, camera, means, quats, scales, opacities, viewmats, Ks, width, height, near, far, radius_clip,
    eps2d, antialiased, means2d, depths, conics, compensations, radii,
):  # fmt: skip
    """Project Gaussians first to last of N into one of C cameras.

    Inputs are as in `splatkit_ns.rasterize.rasterization`. Outputs, zero-filled by the caller and left at zero for
    unseen Gaussians, are means2d (C, N, 2) pixels, depths (C, N) world units, conics (C, N, 3) upper triangle
    of the inverse covariance in 1/pixels², compensations (C, N) in [0, 1], radii (C, N, 2) int32 pixels.
    """
    rotation, frame, factor = np.empty((3, 3)), np.empty((4, 3)), np.empty((2, 3))
    view, K = viewmats[camera].astype(np.float64), Ks[camera].astype(np.float64)
    for g in range(first, last):
        if not in_depth_range(view, means[g], near, far):
            continue
        rotation_of(quats[g], rotation)
        image_frame(view, K, width, height, means[g], frame)
        xx, xy, yy = image_factor(frame, rotation, scales[g], factor)
        z = frame[2, 2]
        mx = K[0, 0] * frame[2, 0] / z + K[0, 2]
        my = K[1, 1] * frame[2, 1] / z + K[1, 2]
        if write_ellipse(
            xx, xy, yy, mx, my, float(opacities[g]), width, height, radius_clip, eps2d, antialiased,
            means2d[camera, g], conics[camera, g], radii[camera, g], compensations[camera, g : g + 1],
        ):  # fmt: skip
            depths[camera, g] = z
