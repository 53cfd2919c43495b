"""Projection of 2D Gaussians (flat discs), forward: the quantities from which 2DGS intersects discs with rays.

Huang et al. 2024 (arXiv 2403.17888). The disc's plane has coordinates (u, v) in standard deviations; M maps (u, v, 1)
to (x z, y z, z) on the screen (equation 8). A pixel's (u, v) is that of M^-1 (x, y, 1). With dx and dy the pixel's
distance from the disc's projected centre it is

    u = (A dx + B dy) / w,    v = (C dx + D dy) / w,    w = 1 + E dx + F dy,

where w is the centre's depth over the depth of the point, so above 0 in front of the camera. The arithmetic is float64
for tensors of any type, as in `projection`.
"""

# Kernel arguments are scalars and arrays whose types numba infers; their shapes are in the docstrings.
# pyright: reportMissingParameterType=false

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from splatkit_ns.rasterize.limits import ALPHA_MIN, DISC_COEFFICIENT_MAX, DISC_SIGMAS, DISC_VARIANCE_MIN, MAX_RADIUS

from .projection import in_depth_range, rotation_of
from .scalar_math import LOG2_E

SCREEN_PRECISION = 2.0
"""Inverse variance, in 1/pixels², of the screen-space Gaussian that keeps discs visible: 2DGS, equation 11."""

# Columns of the record that compositing reads. A to D are scaled so that u² + v² is the exponent of 2^-x.
CENTRE_X, CENTRE_Y, A, B, C, D, E, F, OFFSET_X, OFFSET_Y, LOG2_OPACITY = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
RECORD = 12
PLANE_SCALE = math.sqrt(0.5 * LOG2_E)


@numba.njit(cache=True, inline="always", error_model="numpy")
def disc_frame(view: Any, mean: Any, rotation: Any, frame: Any) -> None:
    """Write into `frame` (3x4) the disc's axes and normal (columns 0 to 2) and its centre (column 3), camera space."""
    for i in range(3):
        for k in range(3):
            frame[i, k] = view[i, 0] * rotation[0, k] + view[i, 1] * rotation[1, k] + view[i, 2] * rotation[2, k]
        frame[i, 3] = view[i, 0] * mean[0] + view[i, 1] * mean[1] + view[i, 2] * mean[2] + view[i, 3]


@numba.njit(cache=True, inline="always", error_model="numpy")
def normal_sign(frame: Any) -> float:
    """Return 1.0, or -1.0 if the normal has to be turned to face the camera."""
    return 1.0 if frame[0, 2] * frame[0, 3] + frame[1, 2] * frame[1, 3] + frame[2, 2] * frame[2, 3] < 0.0 else -1.0


@numba.njit(cache=True, inline="always", error_model="numpy")
def ray_transform(K: Any, scale: Any, frame: Any, transform: Any) -> None:
    """Write M (3x3) into `transform`."""
    for k in range(3):
        column, s = (k, float(scale[k])) if k < 2 else (3, 1.0)
        x, y, z = s * frame[0, column], s * frame[1, column], s * frame[2, column]
        transform[0, k] = K[0, 0] * x + K[0, 2] * z
        transform[1, k] = K[1, 1] * y + K[1, 2] * z
        transform[2, k] = z


@numba.njit(cache=True, inline="always", error_model="numpy")
def _from_centre(transform: Any, centred: Any) -> None:
    """Write the first two columns of M for a screen whose origin is the projected centre (3x2) into `centred`."""
    z = transform[2, 2]
    for k in range(2):
        centred[0, k] = transform[0, k] - transform[0, 2] / z * transform[2, k]
        centred[1, k] = transform[1, k] - transform[1, 2] / z * transform[2, k]
        centred[2, k] = transform[2, k]


@numba.njit(cache=True, inline="always", error_model="numpy")
def _outline(centred: Any, z: float, k2: float, outline: Any) -> bool:
    """Write centre (2) and shape xx, xy, yy of the ellipse that the disc of k standard deviations has on the screen.

    The ellipse holds p with (p - centre)^T shape^-1 (p - centre) <= 1; its half-widths are the roots of xx and yy. They
    come from the dual conic M diag(k², k², -1) M^T. Returns False, and writes nothing, if that disc reaches the plane
    of the camera.
    """
    p0, p1, q0, q1, r0, r1 = centred[0, 0], centred[0, 1], centred[1, 0], centred[1, 1], centred[2, 0], centred[2, 1]
    below = z * z - k2 * (r0 * r0 + r1 * r1)
    if not below > 0.0:
        return False
    factor = k2 / below
    x, y = -factor * (p0 * r0 + p1 * r1), -factor * (q0 * r0 + q1 * r1)
    outline[0], outline[1] = x, y
    outline[2] = x * x + factor * (p0 * p0 + p1 * p1)
    outline[3] = x * y + factor * (p0 * q0 + p1 * q1)
    outline[4] = y * y + factor * (q0 * q0 + q1 * q1)
    return True


@numba.njit(cache=True, inline="always", error_model="numpy")
def _write_footprint(
    centred: Any, transform: Any, offset_x: float, offset_y: float, opacity: float, width: int, height: int,
    outline: Any, footprint: Any,
) -> bool:  # fmt: skip
    """Write an ellipse around all pixels with alpha >= 1/255; returns whether it meets the image.

    `footprint` (5) has its centre and the conic a, b, c, as in `tiles.build_tile_lists`: the ellipse is the set of
    points with a dx² + 2 b dx dy + c dy² <= 2 ln(255 opacity). It holds the disc's outline and the screen-space
    Gaussian's circle.
    """
    t = max(2.0 * math.log(opacity / ALPHA_MIN), 1e-6)
    whole = 0.25 * (width * width + height * height) + 1.0
    x, y, xx, xy, yy = 0.5 * width, 0.5 * height, whole, 0.0, whole  # a circle around the image
    if _outline(centred, transform[2, 2], t, outline):
        apart = math.sqrt((outline[0] - offset_x) ** 2 + (outline[1] - offset_y) ** 2)
        reach = math.sqrt(t / SCREEN_PRECISION) + apart
        wide, high = outline[2] + reach * reach, outline[4] + reach * reach
        if wide + high < 1e4 * whole:  # otherwise, or if NaN, the disc is about to cross the plane of the camera
            x, y = transform[0, 2] / transform[2, 2] + outline[0], transform[1, 2] / transform[2, 2] + outline[1]
            xx, xy, yy = wide, outline[3], high
    half_x, half_y = math.sqrt(xx), math.sqrt(yy)
    det = xx * yy - xy * xy
    footprint[0], footprint[1] = x, y
    footprint[2], footprint[3], footprint[4] = t * yy / det, -t * xy / det, t * xx / det
    return x + half_x > 0.0 and x - half_x < width and y + half_y > 0.0 and y - half_y < height


@numba.njit(cache=True, inline="always", error_model="numpy")
def _write_record(
    centred: Any, transform: Any, offset_x: float, offset_y: float, opacity: float, values: Any, record: Any
) -> bool:
    """Write the record of a disc, from float64 `values` (6) for A to F; returns False if the disc is seen edge-on."""
    z = transform[2, 2]
    factor = z / (centred[0, 0] * centred[1, 1] - centred[0, 1] * centred[1, 0])
    values[0], values[1] = factor * centred[1, 1], -factor * centred[0, 1]
    values[2], values[3] = -factor * centred[1, 0], factor * centred[0, 0]
    values[4] = -(centred[2, 0] * values[0] + centred[2, 1] * values[2]) / z
    values[5] = -(centred[2, 0] * values[1] + centred[2, 1] * values[3]) / z
    for k in range(6):
        if not abs(values[k]) < DISC_COEFFICIENT_MAX:
            return False
        record[A + k] = PLANE_SCALE * values[k] if k < 4 else values[k]
    record[CENTRE_X], record[CENTRE_Y] = transform[0, 2] / z, transform[1, 2] / z
    record[OFFSET_X], record[OFFSET_Y] = offset_x, offset_y
    record[LOG2_OPACITY] = math.log2(opacity)
    return True


@numba.njit(cache=True, nogil=True, error_model="numpy")
def project_2dgs(
    first, last, camera, means, quats, scales, opacities, viewmats, Ks, width, height, near, far, radius_clip,
    means2d, depths, transforms, normals, radii, footprints, records,
):  # fmt: skip
    """Project discs first to last of N into one of C cameras.

    Inputs are as in `splatkit_ns.rasterize.rasterization_2dgs`. Outputs, zero-filled by the caller and left at zero for
    unseen discs, are means2d (C, N, 2) pixels, the middle of the box around the disc of one standard deviation;
    depths (C, N) world units; transforms (C, N, 3, 3), M above; normals (C, N, 3), camera space, facing the camera;
    radii (C, N, 2) int32 pixels; footprints (C, N, 5) float64, see `_write_footprint`; records (C, N, RECORD). A
    disc that reaches the plane of the camera within one standard deviation is left out.
    """
    rotation, frame, transform, centred = np.empty((3, 3)), np.empty((3, 4)), np.empty((3, 3)), np.empty((3, 2))
    outline, coefficients = np.empty(5), np.empty(6)
    view, K = viewmats[camera].astype(np.float64), Ks[camera].astype(np.float64)
    for g in range(first, last):
        opacity = float(opacities[g])
        if opacity < ALPHA_MIN or not in_depth_range(view, means[g], near, far):
            continue
        rotation_of(quats[g], rotation)
        disc_frame(view, means[g], rotation, frame)
        ray_transform(K, scales[g], frame, transform)
        _from_centre(transform, centred)
        z = transform[2, 2]
        if not _outline(centred, z, 1.0, outline):
            continue
        offset_x, offset_y = outline[0], outline[1]
        radius_x = min(math.ceil(DISC_SIGMAS * math.sqrt(max(DISC_VARIANCE_MIN, outline[2]))), MAX_RADIUS)
        radius_y = min(math.ceil(DISC_SIGMAS * math.sqrt(max(DISC_VARIANCE_MIN, outline[4]))), MAX_RADIUS)
        if radius_x <= radius_clip and radius_y <= radius_clip:
            continue
        if not _write_record(centred, transform, offset_x, offset_y, opacity, coefficients, records[camera, g]):
            continue
        if not _write_footprint(
            centred, transform, offset_x, offset_y, opacity, width, height, outline, footprints[camera, g]
        ):
            continue
        radii[camera, g, 0] = radius_x
        radii[camera, g, 1] = radius_y
        means2d[camera, g, 0] = transform[0, 2] / z + offset_x
        means2d[camera, g, 1] = transform[1, 2] / z + offset_y
        depths[camera, g] = z
        sign = normal_sign(frame)
        for i in range(3):
            normals[camera, g, i] = sign * frame[i, 2]
            for k in range(3):
                transforms[camera, g, i, k] = transform[i, k]
