"""Gradients of `projection_2dgs.project_2dgs`, derived by hand."""

# Kernel arguments are scalars and arrays whose types numba infers; their shapes are in the docstrings.
# pyright: reportMissingParameterType=false

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .projection import rotation_of
from .projection_2dgs import disc_frame, normal_sign, ray_transform
from .projection_backward import rotation_gradient


@numba.njit(cache=True, inline="always", error_model="numpy")
def _box_centre_gradient(transform: Any, v_x: float, v_y: float, v_transform: Any) -> None:
    """Add the gradient that means2d sends to M.

    With g = (1, 1, -1) and s_ij the sum of g_k M_ik M_jk, means2d is (s_02, s_12) / s_22.
    """
    s_02 = transform[0, 0] * transform[2, 0] + transform[0, 1] * transform[2, 1] - transform[0, 2] * transform[2, 2]
    s_12 = transform[1, 0] * transform[2, 0] + transform[1, 1] * transform[2, 1] - transform[1, 2] * transform[2, 2]
    s_22 = transform[2, 0] ** 2 + transform[2, 1] ** 2 - transform[2, 2] ** 2
    x, y = s_02 / s_22, s_12 / s_22
    for k in range(3):
        g = (1.0 if k < 2 else -1.0) / s_22
        v_transform[0, k] += g * v_x * transform[2, k]
        v_transform[1, k] += g * v_y * transform[2, k]
        v_transform[2, k] += g * (
            v_x * (transform[0, k] - 2.0 * x * transform[2, k]) + v_y * (transform[1, k] - 2.0 * y * transform[2, k])
        )


@numba.njit(cache=True, error_model="numpy")
def _backward_range(
    first, last, camera, means, quats, scales, viewmats, Ks, radii, v_means2d, v_depths, v_transforms, v_normals,
    v_means, v_quats, v_scales, v_view,
):  # fmt: skip
    rotation, frame, transform = np.empty((3, 3)), np.empty((3, 4)), np.empty((3, 3))
    v_transform, v_frame, v_rotation = np.empty((3, 3)), np.empty((3, 4)), np.empty((3, 3))
    view, K = viewmats[camera].astype(np.float64), Ks[camera].astype(np.float64)
    for g in range(first, last):
        if radii[camera, g, 0] == 0:
            continue
        norm = rotation_of(quats[g], rotation)
        disc_frame(view, means[g], rotation, frame)
        ray_transform(K, scales[g], frame, transform)
        for i in range(3):
            for k in range(3):
                v_transform[i, k] = v_transforms[camera, g, i, k]
        _box_centre_gradient(transform, float(v_means2d[camera, g, 0]), float(v_means2d[camera, g, 1]), v_transform)
        sign = normal_sign(frame)
        for i in range(3):
            v_frame[i, 2] = sign * v_normals[camera, g, i]
        for k in range(3):  # the columns of M are K times the scaled axes, and K times the centre
            x, y = K[0, 0] * v_transform[0, k], K[1, 1] * v_transform[1, k]
            z = K[0, 2] * v_transform[0, k] + K[1, 2] * v_transform[1, k] + v_transform[2, k]
            if k < 2:
                s = float(scales[g, k])
                v_scales[g, k] += x * frame[0, k] + y * frame[1, k] + z * frame[2, k]
                v_frame[0, k], v_frame[1, k], v_frame[2, k] = s * x, s * y, s * z
            else:
                v_frame[0, 3], v_frame[1, 3], v_frame[2, 3] = x, y, z + v_depths[camera, g]
        for i in range(3):
            v_means[g, i] += view[0, i] * v_frame[0, 3] + view[1, i] * v_frame[1, 3] + view[2, i] * v_frame[2, 3]
            v_view[i, 3] += v_frame[i, 3]
            for k in range(3):
                v_rotation[i, k] = view[0, i] * v_frame[0, k] + view[1, i] * v_frame[1, k] + view[2, i] * v_frame[2, k]
                v_view[i, k] += v_frame[i, 3] * means[g, k] + (
                    v_frame[i, 0] * rotation[k, 0] + v_frame[i, 1] * rotation[k, 1] + v_frame[i, 2] * rotation[k, 2]
                )
        if norm > 0.0:
            rotation_gradient(quats[g], norm, v_rotation, v_quats[g])


@numba.njit(cache=True, nogil=True, error_model="numpy")
def project_2dgs_backward(
    first_block, last_block, blocks, means, quats, scales, viewmats, Ks, radii, v_means2d, v_depths, v_transforms,
    v_normals, v_means, v_quats, v_scales, v_view_partial,
):  # fmt: skip
    """Add the gradients of means, quats and scales, of some of the blocks that N is cut into, to v_means ... v_scales.

    v_view_partial (blocks, C, 4, 4) float64 gets each block's sum, as in `projection_backward.project_backward`.
    """
    n = means.shape[0]
    for block in range(first_block, last_block):
        for camera in range(viewmats.shape[0]):
            _backward_range(
                block * n // blocks, (block + 1) * n // blocks, camera, means, quats, scales, viewmats, Ks, radii,
                v_means2d, v_depths, v_transforms, v_normals, v_means, v_quats, v_scales, v_view_partial[block, camera],
            )  # fmt: skip
