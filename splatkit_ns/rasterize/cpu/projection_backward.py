"""Gradients of `projection.project`, derived by hand.

With A = J W (2x3), U = A R and Q = U S, the 2D covariance is Q Q^T; so a gradient G on the covariance gives 2 G Q on Q,
and from there the chain rule walks back to scales, rotation, Jacobian and view matrix.
"""

# Kernel arguments are scalars and arrays whose types numba infers; their shapes are in the docstrings.
# pyright: reportMissingParameterType=false

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .projection import clamped_slope, image_factor, image_frame, rotation_of
from .scalar_math import FUSED


@numba.njit(cache=True, inline="always", error_model="numpy")
def rotation_gradient(quat: Any, norm: float, v_rot: Any, v_quat: Any) -> None:
    """Add to v_quat (4,) the gradient that v_rot (3x3) sends through the normalised quaternion's rotation."""
    w, x, y, z = quat[0] / norm, quat[1] / norm, quat[2] / norm, quat[3] / norm
    vw = 2.0 * (x * (v_rot[2, 1] - v_rot[1, 2]) + y * (v_rot[0, 2] - v_rot[2, 0]) + z * (v_rot[1, 0] - v_rot[0, 1]))
    vx = 2.0 * (
        -2.0 * x * (v_rot[1, 1] + v_rot[2, 2])
        + y * (v_rot[1, 0] + v_rot[0, 1])
        + z * (v_rot[2, 0] + v_rot[0, 2])
        + w * (v_rot[2, 1] - v_rot[1, 2])
    )
    vy = 2.0 * (
        x * (v_rot[1, 0] + v_rot[0, 1])
        - 2.0 * y * (v_rot[0, 0] + v_rot[2, 2])
        + z * (v_rot[2, 1] + v_rot[1, 2])
        + w * (v_rot[0, 2] - v_rot[2, 0])
    )
    vz = 2.0 * (
        x * (v_rot[2, 0] + v_rot[0, 2])
        + y * (v_rot[2, 1] + v_rot[1, 2])
        - 2.0 * z * (v_rot[0, 0] + v_rot[1, 1])
        + w * (v_rot[1, 0] - v_rot[0, 1])
    )
    along = vw * w + vx * x + vy * y + vz * z  # normalisation removes the part along the quaternion
    v_quat[0] += (vw - along * w) / norm
    v_quat[1] += (vx - along * x) / norm
    v_quat[2] += (vy - along * y) / norm
    v_quat[3] += (vz - along * z) / norm


@numba.njit(cache=True, inline="always", error_model="numpy")
def covariance_gradient(
    xx: float, xy: float, yy: float, eps2d: float, v_conic: Any, v_compensation: float
) -> tuple[float, float, float]:
    """Return the gradient (xx, xy, yy), entries of a symmetric 2x2 matrix, of the covariance before the blur."""
    bx, by = xx + eps2d, yy + eps2d
    det = bx * by - xy * xy
    # C = blurred covariance^-1: dL/dcov = -C V C with V = [[v0, v1/2], [v1/2, v2]].
    c0, c1, c2 = by / det, -xy / det, bx / det
    v0, v1, v2 = float(v_conic[0]), 0.5 * float(v_conic[1]), float(v_conic[2])
    t00, t01 = c0 * v0 + c1 * v1, c0 * v1 + c1 * v2
    t10, t11 = c1 * v0 + c2 * v1, c1 * v1 + c2 * v2
    gxx = -(t00 * c0 + t01 * c1)
    gxy = -(t00 * c1 + t01 * c2)
    gyy = -(t10 * c1 + t11 * c2)
    if v_compensation != 0.0:
        # r = sqrt(det_sharp / det): dr = (d det_sharp - r² d det) / (2 r det), and d det(M) = adj(M)
        ratio = max(0.0, (xx * yy - xy * xy) / det)
        if ratio > 0.0:
            half = 0.5 * v_compensation / (np.sqrt(ratio) * det)
            gxx += half * (yy - ratio * by)
            gxy -= half * (xy - ratio * xy)
            gyy += half * (xx - ratio * bx)
    return gxx, gxy, gyy


@numba.njit(cache=True, inline="always", error_model="numpy")
def frame_gradient(
    gxx: float, gxy: float, gyy: float, frame: Any, rotation: Any, factor: Any, scale: Any,
    v_scale: Any, v_factor: Any, v_rot: Any, v_frame: Any,
) -> None:  # fmt: skip
    """Walk back from the covariance to the scales, whose gradient is added, the rotation (3x3) and A (2x3)."""
    for k in range(3):
        s = float(scale[k])
        v_q0 = 2.0 * (gxx * factor[0, k] + gxy * factor[1, k]) * s
        v_q1 = 2.0 * (gxy * factor[0, k] + gyy * factor[1, k]) * s
        v_scale[k] += v_q0 * factor[0, k] + v_q1 * factor[1, k]
        v_factor[0, k], v_factor[1, k] = v_q0 * s, v_q1 * s
    for i in range(3):
        for k in range(3):
            v_rot[i, k] = frame[0, i] * v_factor[0, k] + frame[1, i] * v_factor[1, k]
        for row in range(2):
            v_frame[row, i] = (
                v_factor[row, 0] * rotation[i, 0]
                + v_factor[row, 1] * rotation[i, 1]
                + v_factor[row, 2] * rotation[i, 2]
            )


@numba.njit(cache=True, inline="always", error_model="numpy")
def _point_gradient(
    view: Any, K: Any, width: int, height: int, frame: Any, v_frame: Any, v_mean2d: Any, v_depth: float, v_point: Any
) -> None:
    """Write the gradient of the camera-space mean (3,), through the projected mean, the Jacobian and the depth."""
    x, y, z = frame[2, 0], frame[2, 1], frame[2, 2]
    tx, ty = frame[3, 0], frame[3, 1]
    fx, fy = K[0, 0], K[1, 1]
    rz = 1.0 / z
    v_j00 = v_j02 = v_j11 = v_j12 = 0.0
    for k in range(3):
        v_j00 += v_frame[0, k] * view[0, k]
        v_j02 += v_frame[0, k] * view[2, k]
        v_j11 += v_frame[1, k] * view[1, k]
        v_j12 += v_frame[1, k] * view[2, k]
    v_x = fx * rz * v_mean2d[0]
    v_y = fy * rz * v_mean2d[1]
    v_z = -(fx * x * v_mean2d[0] + fy * y * v_mean2d[1]) * rz * rz + v_depth
    v_z += -(fx * v_j00 + fy * v_j11) * rz * rz + 2.0 * (fx * tx * v_j02 + fy * ty * v_j12) * rz * rz * rz
    if clamped_slope(x * rz, fx, K[0, 2], float(width)) == x * rz:
        v_x -= fx * rz * rz * v_j02
    else:  # tx = z * limit moves with z only
        v_z -= fx * tx * rz * rz * rz * v_j02
    if clamped_slope(y * rz, fy, K[1, 2], float(height)) == y * rz:
        v_y -= fy * rz * rz * v_j12
    else:
        v_z -= fy * ty * rz * rz * rz * v_j12
    v_point[0], v_point[1], v_point[2] = v_x, v_y, v_z


@numba.njit(cache=True, fastmath=FUSED, error_model="numpy")
def _backward_range(
    first, last, camera, means, quats, scales, viewmats, Ks, width, height, eps2d, radii,
    v_means2d, v_depths, v_conics, v_compensations, v_means, v_quats, v_scales, v_view,
):  # fmt: skip
    rotation, frame, factor = np.empty((3, 3)), np.empty((4, 3)), np.empty((2, 3))
    v_rot, v_frame, v_factor, v_point = np.empty((3, 3)), np.empty((2, 3)), np.empty((2, 3)), np.empty(3)
    view, K = viewmats[camera].astype(np.float64), Ks[camera].astype(np.float64)
    for g in range(first, last):
        if radii[camera, g, 0] == 0 and radii[camera, g, 1] == 0:
            continue
        norm = rotation_of(quats[g], rotation)
        image_frame(view, K, width, height, means[g], frame)
        xx, xy, yy = image_factor(frame, rotation, scales[g], factor)
        gxx, gxy, gyy = covariance_gradient(xx, xy, yy, eps2d, v_conics[camera, g], float(v_compensations[camera, g]))
        frame_gradient(gxx, gxy, gyy, frame, rotation, factor, scales[g], v_scales[g], v_factor, v_rot, v_frame)
        if norm > 0.0:
            rotation_gradient(quats[g], norm, v_rot, v_quats[g])
        _point_gradient(
            view, K, width, height, frame, v_frame, v_means2d[camera, g], float(v_depths[camera, g]), v_point
        )
        rz = 1.0 / frame[2, 2]
        fx, fy = K[0, 0] * rz, K[1, 1] * rz
        for k in range(3):
            v_means[g, k] += view[0, k] * v_point[0] + view[1, k] * v_point[1] + view[2, k] * v_point[2]
            # W acts twice: on the mean, and as A = J W on the covariance
            v_view[0, k] += v_point[0] * means[g, k] + fx * v_frame[0, k]
            v_view[1, k] += v_point[1] * means[g, k] + fy * v_frame[1, k]
            v_view[2, k] += (
                v_point[2] * means[g, k] - fx * frame[3, 0] * rz * v_frame[0, k] - fy * frame[3, 1] * rz * v_frame[1, k]
            )
            v_view[k, 3] += v_point[k]


@numba.njit(cache=True, nogil=True, fastmath=FUSED, error_model="numpy")
def project_backward(
    first_block, last_block, blocks, means, quats, scales, viewmats, Ks, width, height, eps2d, radii,
    v_means2d, v_depths, v_conics, v_compensations, v_means, v_quats, v_scales, v_view_partial,
):  # fmt: skip
    """Add the gradients of means, quats and scales, of some of the blocks that N is cut into, to v_means ... v_scales.

    v_view_partial (blocks, C, 4, 4) float64 gets each block's sum for the view matrices: with a number of blocks that
    depends on N only, the total does not depend on threads.
    """
    n = means.shape[0]
    for block in range(first_block, last_block):
        for camera in range(viewmats.shape[0]):
            _backward_range(
                block * n // blocks, (block + 1) * n // blocks, camera, means, quats, scales, viewmats, Ks, width,
                height, eps2d, radii, v_means2d, v_depths, v_conics, v_compensations, v_means, v_quats, v_scales,
                v_view_partial[block, camera],
            )  # fmt: skip
