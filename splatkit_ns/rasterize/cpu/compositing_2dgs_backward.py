"""Gradients of `compositing_2dgs.composite_2dgs`, back to front; see `compositing_backward` for the order of sums.

With (u, v) and w of `projection_2dgs` and s = dL/dsigma for sigma = (u² + v²) / 2, let p = s u / w, q = s v / w and
r = s (u² + v²) / w. The gradient of M is a matrix product with the sums over pixels of (p, q, -r)^T (dx, dy, 1): nine
moments. Pixels where the screen-space Gaussian is the larger have two moments of their own, for means2d.
"""

# Kernel arguments are scalars and arrays whose types numba infers; their shapes are in the docstrings.
# pyright: reportMissingParameterType=false

from __future__ import annotations

import numba
import numpy as np

from splatkit_ns.rasterize.limits import ALPHA_MAX

from . import compositing_backward as shared
from .compositing import FAST, SIDE, U
from .compositing_2dgs import NEARNESS_MIN, SCREEN_SCALE
from .compositing_backward import colour_gradient, dot_with_colour, load_tile
from .projection_2dgs import (
    CENTRE_X,
    CENTRE_Y,
    LOG2_OPACITY,
    OFFSET_X,
    OFFSET_Y,
    PLANE_SCALE,
    SCREEN_PRECISION,
    A,
    B,
    C,
    D,
    E,
    F,
)
from .scalar_math import LOG2_ALPHA_MIN, PREFETCH, exp2, prefetch
from .tiles import TILE

# Planes of the buffer: for depth, for the moments' p, q, r and for the screen-space Gaussian's slope; from HEAD on
# those of `compositing_backward`, whose functions get that part.
TWICE_V_DISTORTION, ALPHA, DEPTH_SUM, DEPTH_LEFT = U(0), U(256), U(512), U(768)
MEDIAN_PLACE, V_MEDIAN, P, Q, R, SCREEN, HEAD = U(1024), U(1280), U(1536), U(1792), U(2048), U(2304), U(2560)
PX, PY, LIGHT, LAST = HEAD + shared.PX, HEAD + shared.PY, HEAD + shared.LIGHT, HEAD + shared.LAST
BEHIND, DOT, WEIGHT, SUMS = HEAD + shared.BEHIND, HEAD + shared.DOT, HEAD + shared.WEIGHT, HEAD + shared.SUMS
# Columns of an intersection's gradient row: nine moments, then these; values follow.
V_MEAN_X, V_MEAN_Y, V_OPACITY, V_ABS_X, V_ABS_Y, V_VALUES = 9, 10, 11, 12, 13, 14


@numba.njit(cache=True, fastmath=FAST, error_model="numpy")
def _slopes(buffer, first, last, record, depth, number):
    """Set planes WEIGHT, P, Q, R and SCREEN of one disc; moves LIGHT, BEHIND and DEPTH_LEFT to the front of it.

    Returns the sum of dL/dsigma, and of the gradients of its depth through distortion and median.

    With A and Z the sums of weights and depths in front of the disc, and A' and Z' those of all discs at the pixel,
    distortion has the derivatives
    dL/dweight = 2 (depth (2 A - A') + Z' - 2 Z), dL/ddepth = 2 weight (2 A + weight - A').
    """
    kind = buffer.dtype.type
    one, zero, two, w_min, screen = kind(1.0), kind(0.0), kind(2.0), kind(NEARNESS_MIN), kind(SCREEN_SCALE)
    alpha_max, log2_alpha_min = kind(ALPHA_MAX), kind(LOG2_ALPHA_MIN)
    centre_x, centre_y, log2_opacity = record[CENTRE_X], record[CENTRE_Y], record[LOG2_OPACITY]
    a, b, c, d, e, f = record[A], record[B], record[C], record[D], record[E], record[F]
    offset_x, offset_y = record[OFFSET_X], record[OFFSET_Y]
    total = v_depth = zero
    for p in range(first, last):
        dx = buffer[PX + p] - centre_x
        dy = buffer[PY + p] - centre_y
        inverse_w = one / max(one + e * dx + f * dy, w_min)
        u = (a * dx + b * dy) * inverse_w
        v = (c * dx + d * dy) * inverse_w
        sx, sy = dx - offset_x, dy - offset_y
        on_disc, on_screen = u * u + v * v, screen * (sx * sx + sy * sy)
        log2_alpha = log2_opacity - min(on_disc, on_screen)
        unclamped = exp2(log2_alpha)
        alpha = min(unclamped, alpha_max)
        hit = (log2_alpha >= log2_alpha_min) & (number <= buffer[LAST + p])
        inverse = one / (one - alpha)
        light_behind = buffer[LIGHT + p]
        light = light_behind * inverse
        weight = alpha * light if hit else zero
        twice_v, coverage = buffer[TWICE_V_DISTORTION + p], buffer[ALPHA + p]
        depth_in_front = buffer[DEPTH_LEFT + p] - weight * depth
        in_front = two * (one - light)
        distorts = depth * (in_front - coverage) + buffer[DEPTH_SUM + p] - two * depth_in_front
        dot = buffer[DOT + p] + twice_v * distorts
        v_depth += twice_v * weight * (in_front + weight - coverage)
        v_depth += buffer[V_MEDIAN + p] if buffer[MEDIAN_PLACE + p] == number else zero
        behind = buffer[BEHIND + p]
        v_alpha = light * dot - behind * inverse
        slope = -unclamped * v_alpha if hit & (unclamped <= alpha_max) else zero
        buffer[LIGHT + p] = light if hit else light_behind
        buffer[BEHIND + p] = behind + weight * dot
        buffer[DEPTH_LEFT + p] = depth_in_front
        buffer[WEIGHT + p] = weight
        on_disc_slope = slope * inverse_w if on_disc <= on_screen else zero
        buffer[P + p] = on_disc_slope * u
        buffer[Q + p] = on_disc_slope * v
        buffer[R + p] = on_disc_slope * on_disc if on_disc <= on_screen else zero
        buffer[SCREEN + p] = zero if on_disc <= on_screen else slope
        total += slope
    return total, v_depth


@numba.njit(cache=True, fastmath=FAST, error_model="numpy")
def _moments(buffer, plane, first, last, centre_x, centre_y, out):
    """Set out[0:3] to the sums over pixels of a plane times (dx, dy, 1)."""
    m_x = m_y = m_1 = buffer.dtype.type(0.0)
    for p in range(first, last):
        value = buffer[plane + p]
        m_x += value * (buffer[PX + p] - centre_x)
        m_y += value * (buffer[PY + p] - centre_y)
        m_1 += value
    out[0], out[1], out[2] = m_x, m_y, m_1


@numba.njit(cache=True, fastmath=FAST, error_model="numpy")
def _screen_gradient(buffer, plane, first, last, mean_x, mean_y, out):
    """Write means2d's gradient, and sums of its absolute values, from pixels with a larger screen-space Gaussian."""
    kind = buffer.dtype.type
    precision = kind(SCREEN_PRECISION)
    v_x = v_y = abs_x = abs_y = kind(0.0)
    for p in range(first, last):
        slope = precision * buffer[plane + p]
        x, y = slope * (buffer[PX + p] - mean_x), slope * (buffer[PY + p] - mean_y)
        v_x -= x
        v_y -= y
        abs_x += abs(x)
        abs_y += abs(y)
    out[V_MEAN_X], out[V_MEAN_Y], out[V_ABS_X], out[V_ABS_Y] = v_x, v_y, abs_x, abs_y


@numba.njit(cache=True, error_model="numpy")
def _load_depth(buffer, tile_x, tile_y, light_left, depth_sum, median_place, v_distortion, v_median):
    height, width = light_left.shape
    kind = buffer.dtype.type
    for row in range(min(TILE, height - tile_y * TILE)):
        y = tile_y * TILE + row
        for column in range(min(TILE, width - tile_x * TILE)):
            x, p = tile_x * TILE + column, U(row * TILE + column)
            buffer[TWICE_V_DISTORTION + p] = kind(2.0) * v_distortion[y, x]
            buffer[ALPHA + p] = kind(1.0) - light_left[y, x]
            buffer[DEPTH_SUM + p] = depth_sum[y, x]
            buffer[DEPTH_LEFT + p] = depth_sum[y, x]
            buffer[MEDIAN_PLACE + p] = median_place[y, x]
            buffer[V_MEDIAN + p] = v_median[y, x]


@numba.njit(cache=True, error_model="numpy")
def _backward_tile(
    tile, tiles_x, offsets, gaussian_ids, rows, slots, records, opacities, values, background, depth_channel,
    light_left, last, depth_sum, median_place, v_image, v_alpha, v_distortion, v_median, row_gradients,
):  # fmt: skip
    channels = values.shape[1]
    buffer = np.zeros(int(SUMS) + channels * TILE * TILE, records.dtype)
    tail = buffer[int(HEAD) :]
    kind = buffer.dtype.type
    start, tile_x, tile_y = offsets[tile], tile % tiles_x, tile // tiles_x
    deepest = load_tile(tail, tile_x, tile_y, background, light_left, last, v_image, v_alpha)
    if depth_channel >= 0:
        _load_depth(buffer, tile_x, tile_y, light_left, depth_sum, median_place, v_distortion, v_median)
    for i in range(start + deepest, offsets[tile + 1]):  # behind the last disc of every pixel: no gradient
        row_gradients[slots[i]] = kind(0.0)
    for back in range(deepest):
        i = start + deepest - 1 - back
        ahead = max(i - PREFETCH, start)
        prefetch(records, gaussian_ids[ahead])
        prefetch(values, gaussian_ids[ahead])
        prefetch(row_gradients, slots[ahead])
        g = gaussian_ids[i]
        first, end = U(rows[i, 0]) * SIDE, U(rows[i, 1]) * SIDE
        out, record = row_gradients[slots[i]], records[g]
        depth = values[g, depth_channel] if depth_channel >= 0 else kind(0.0)
        dot_with_colour(tail, first, end, values[g])
        total, v_depth = _slopes(buffer, first, end, record, depth, kind(deepest - back))
        colour_gradient(tail, first, end, channels, out[V_VALUES:])
        if depth_channel >= 0:
            out[V_VALUES + depth_channel] += v_depth
        out[V_OPACITY] = -total / opacities[g]
        centre_x, centre_y = record[CENTRE_X], record[CENTRE_Y]
        _moments(buffer, P, first, end, centre_x, centre_y, out[0:3])
        _moments(buffer, Q, first, end, centre_x, centre_y, out[3:6])
        _moments(buffer, R, first, end, centre_x, centre_y, out[6:9])
        mean_x, mean_y = centre_x + record[OFFSET_X], centre_y + record[OFFSET_Y]
        _screen_gradient(buffer, SCREEN, first, end, mean_x, mean_y, out)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def composite_2dgs_backward(
    first, last_job, schedule, tiles_x, offsets, gaussian_ids, rows, slots, records, opacities, values, background,
    depth_channel, light_left, last, depth_sum, median_place, v_image, v_alpha, v_distortion, v_median, row_gradients,
):  # fmt: skip
    """Write the gradients of all intersections of tiles schedule[first:last_job] into row_gradients (M, columns + D).

    v_image (H, W, D), v_alpha, v_distortion and v_median (H, W) are the gradients of the images; depth_sum (H, W) is
    the image's depth channel, which is not read if depth_channel is -1; the others are those of `composite_2dgs`.
    """
    for job in range(first, last_job):
        _backward_tile(
            schedule[job], tiles_x, offsets, gaussian_ids, rows, slots, records, opacities, values, background,
            depth_channel, light_left, last, depth_sum, median_place, v_image, v_alpha, v_distortion, v_median,
            row_gradients,
        )  # fmt: skip


@numba.njit(cache=True, inline="always", error_model="numpy")
def _transform_gradient(sums, record, depth, product, v_transform):
    """Write the gradient of M: with N = M^-1 it is -N^T G N^T for the gradient G of N, at the disc's centre.

    `sums` begins with the nine moments; `product` (3x3) is scratch space.
    """
    scale = 1.0 / PLANE_SCALE  # of u and v in the records and in the moments
    a, b, c, d = scale * record[A], scale * record[B], scale * record[C], scale * record[D]
    e, f = float(record[E]), float(record[F])
    for k in range(3):  # N is ((a, b, 0), (c, d, 0), (e, f, 1)) / depth, G is depth * (p, q, -r)
        p, q, r = scale * sums[k], scale * sums[3 + k], scale * scale * sums[6 + k]
        product[0, k] = (e * r - a * p - c * q) / depth
        product[1, k] = (f * r - b * p - d * q) / depth
        product[2, k] = r / depth
    for i in range(3):
        x, y = product[i, 0], product[i, 1]
        v_transform[i, 0] = a * x + b * y
        v_transform[i, 1] = c * x + d * y
        v_transform[i, 2] = e * x + f * y + product[i, 2]
    for k in range(3):
        v_transform[2, k] -= record[CENTRE_X] * v_transform[0, k] + record[CENTRE_Y] * v_transform[1, k]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def gather_by_disc(
    first, last, slot_offsets, row_gradients, records, depths, v_means2d, v_transforms, v_opacities,
    v_values, v_absolute,
):  # fmt: skip
    """Add up the rows of discs first to last into (N, 2), (N, 3, 3), (N,), (N, D) and (N, 2).

    v_absolute gets sums over pixels of absolute gradients of means2d.
    """
    sums, product, v_transform = np.empty(V_VALUES), np.empty((3, 3)), np.empty((3, 3))
    for g in range(first, last):
        if slot_offsets[g] == slot_offsets[g + 1]:
            continue
        sums[:] = 0.0
        for slot in range(slot_offsets[g], slot_offsets[g + 1]):
            for k in range(V_VALUES):
                sums[k] += row_gradients[slot, k]
            for k in range(v_values.shape[1]):
                v_values[g, k] += row_gradients[slot, V_VALUES + k]
        v_means2d[g, 0], v_means2d[g, 1] = sums[V_MEAN_X], sums[V_MEAN_Y]
        v_opacities[g] = sums[V_OPACITY]
        v_absolute[g, 0], v_absolute[g, 1] = sums[V_ABS_X], sums[V_ABS_Y]
        _transform_gradient(sums, records[g], depths[g], product, v_transform)
        for i in range(3):
            for k in range(3):
                v_transforms[g, i, k] = v_transform[i, k]
