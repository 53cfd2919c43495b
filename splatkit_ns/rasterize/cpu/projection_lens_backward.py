"""Gradients of `projection_lens.project_lens`, derived by hand; see `projection_backward` for pinhole cameras."""

# Kernel arguments are scalars and arrays whose types numba infers; their shapes are in the docstrings.
# pyright: reportMissingParameterType=false

from __future__ import annotations

import math

import numba
import numpy as np

from .lens_point import OPENCV, fisheye_gradient, opencv_gradient
from .projection import image_factor, rotation_of
from .projection_backward import covariance_gradient, frame_gradient, rotation_gradient
from .projection_lens import lens_frame, point_of
from .scalar_math import FUSED


@numba.njit(cache=True, fastmath=FUSED, error_model="numpy")
def _backward_range(
    first, last, camera, kind, coefficients, limits, means, quats, scales, viewmats, Ks, eps2d, radii,
    v_means2d, v_depths, v_conics, v_compensations, v_means, v_quats, v_scales, v_view,
):  # fmt: skip
    rotation, frame, factor, point = np.empty((3, 3)), np.empty((2, 3)), np.empty((2, 3)), np.empty(3)
    place, jacobian, ratio, polynomial = np.empty(2), np.empty((2, 3)), np.empty(3), np.empty(3)
    v_rot, v_frame, v_factor, v_point = np.empty((3, 3)), np.empty((2, 3)), np.empty((2, 3)), np.empty(3)
    v_place, v_jacobian = np.empty(2), np.empty((2, 3))
    view, K = viewmats[camera].astype(np.float64), Ks[camera].astype(np.float64)
    k, bend = coefficients[camera], limits[camera, 0]
    for g in range(first, last):
        if radii[camera, g, 0] == 0 and radii[camera, g, 1] == 0:
            continue
        norm = rotation_of(quats[g], rotation)
        point_of(view, means[g], point)
        lens_frame(kind, view, K, k, bend, point, place, jacobian, frame, ratio, polynomial)
        xx, xy, yy = image_factor(frame, rotation, scales[g], factor)
        gxx, gxy, gyy = covariance_gradient(xx, xy, yy, eps2d, v_conics[camera, g], float(v_compensations[camera, g]))
        frame_gradient(gxx, gxy, gyy, frame, rotation, factor, scales[g], v_scales[g], v_factor, v_rot, v_frame)
        if norm > 0.0:
            rotation_gradient(quats[g], norm, v_rot, v_quats[g])
        for row in range(2):
            focal = K[row, row]
            v_place[row] = focal * v_means2d[camera, g, row]
            for i in range(3):
                v_jacobian[row, i] = focal * (
                    v_frame[row, 0] * view[i, 0] + v_frame[row, 1] * view[i, 1] + v_frame[row, 2] * view[i, 2]
                )
        v_depth = float(v_depths[camera, g])
        if kind == OPENCV:
            opencv_gradient(k, bend, point, v_place, v_jacobian, v_point)
            v_point[2] += v_depth
        else:
            fisheye_gradient(k, bend, point, v_place, v_jacobian, ratio, polynomial, v_point)
            distance = math.sqrt(point[0] * point[0] + point[1] * point[1] + point[2] * point[2])
            for i in range(3):
                v_point[i] += v_depth * point[i] / distance
        for i in range(3):
            v_means[g, i] += view[0, i] * v_point[0] + view[1, i] * v_point[1] + view[2, i] * v_point[2]
            # W acts twice: on the mean, and as A = J W on the covariance
            for row in range(3):
                v_view[row, i] += (
                    v_point[row] * means[g, i] + jacobian[0, row] * v_frame[0, i] + jacobian[1, row] * v_frame[1, i]
                )
            v_view[i, 3] += v_point[i]


@numba.njit(cache=True, nogil=True, fastmath=FUSED, error_model="numpy")
def project_lens_backward(
    first_block, last_block, blocks, kind, coefficients, limits, means, quats, scales, viewmats, Ks, eps2d, radii,
    v_means2d, v_depths, v_conics, v_compensations, v_means, v_quats, v_scales, v_view_partial,
):  # fmt: skip
    """Add the gradients of means, quats, scales and view matrices; see `projection_backward.project_backward`."""
    n = means.shape[0]
    for block in range(first_block, last_block):
        for camera in range(viewmats.shape[0]):
            _backward_range(
                block * n // blocks, (block + 1) * n // blocks, camera, kind, coefficients, limits, means, quats,
                scales, viewmats, Ks, eps2d, radii, v_means2d, v_depths, v_conics, v_compensations, v_means, v_quats,
                v_scales, v_view_partial[block, camera],
            )  # fmt: skip
