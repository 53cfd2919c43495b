"""Gradients of `compositing.composite`, back to front, without atomics.

Each intersection writes its own row of gradients, ordered by Gaussian; a second pass adds each Gaussian's rows in that
order. So the sums do not depend on threads, and memory grows with the intersections only.

For pixel values v = dL/dimage and a Gaussian with colour c, alpha a and light T in front of it, with B the sum of
weight * (c . v) over everything behind: dL/dalpha = T (c . v) - B / (1 - a). Background and alpha channel join B. With
s = dL/dsigma the gradients of mean and conic are moments of s: sum s, s dx, s dy, s dx², s dx dy, s dy².
"""

# Kernel arguments are scalars and arrays whose types numba infers; their shapes are in the docstrings.
# pyright: reportMissingParameterType=false

from __future__ import annotations

import numba
import numpy as np

from .compositing import FAST, PLANE, PX, PY, SIDE, U, fill_pixel_centres
from .scalar_math import ALPHA_MAX, LOG2_ALPHA_MIN, exp2
from .tiles import L11, L21, L22, LOG2_OPACITY, MEAN_X, MEAN_Y, TILE

# Planes of the backward buffer (PX and PY are the forward's); dL/dimage follows, one plane a channel.
LIGHT, LAST, BEHIND, DOT, WEIGHT, SLOPE, SUMS = U(512), U(768), U(1024), U(1280), U(1536), U(1792), U(2048)
# Columns of an intersection's gradient row; colours follow.
V_MEAN_X, V_MEAN_Y, V_A, V_B, V_C, V_OPACITY, V_ABS_X, V_ABS_Y, V_COLOURS = 0, 1, 2, 3, 4, 5, 6, 7, 8


@numba.njit(cache=True, fastmath=FAST, error_model="numpy")
def dot_with_colour(buffer, first, last, colour):
    """Plane DOT = colour . dL/dimage."""
    channels = colour.shape[0]
    if channels == 3:
        c0, c1, c2 = colour[0], colour[1], colour[2]
        for p in range(first, last):
            buffer[DOT + p] = (
                c0 * buffer[SUMS + p] + c1 * buffer[SUMS + PLANE + p] + c2 * buffer[SUMS + PLANE + PLANE + p]
            )
        return
    c = colour[0]
    for p in range(first, last):
        buffer[DOT + p] = c * buffer[SUMS + p]
    for k in range(1, channels):
        plane = SUMS + U(k) * PLANE
        c = colour[k]
        for p in range(first, last):
            buffer[DOT + p] += c * buffer[plane + p]


@numba.njit(cache=True, fastmath=FAST, error_model="numpy")
def _slopes(buffer, first, last, record, number, out):
    """Planes SLOPE = dL/dsigma and WEIGHT of one Gaussian; steps LIGHT and BEHIND to in front of it.

    Writes the moments of SLOPE into out[0:6]: (dx, dy, dx²/2, dx dy, dy²/2, 1).
    """
    kind = buffer.dtype.type
    one, zero, half = kind(1.0), kind(0.0), kind(0.5)
    alpha_max, log2_alpha_min = kind(ALPHA_MAX), kind(LOG2_ALPHA_MIN)
    mean_x, mean_y = record[MEAN_X], record[MEAN_Y]
    l11, l21, l22, log2_opacity = record[L11], record[L21], record[L22], record[LOG2_OPACITY]
    m_x = m_y = m_xx = m_xy = m_yy = m_1 = zero
    for p in range(first, last):
        dx = buffer[PX + p] - mean_x
        dy = buffer[PY + p] - mean_y
        u = l11 * dx + l21 * dy
        w = l22 * dy
        log2_alpha = log2_opacity - (u * u + w * w)
        unclamped = exp2(log2_alpha)
        alpha = min(unclamped, alpha_max)
        hit = (log2_alpha >= log2_alpha_min) & (number <= buffer[LAST + p])
        inverse = one / (one - alpha)
        light_behind = buffer[LIGHT + p]
        light = light_behind * inverse
        weight = alpha * light if hit else zero
        dot = buffer[DOT + p]
        behind = buffer[BEHIND + p]
        v_alpha = light * dot - behind * inverse
        slope = -unclamped * v_alpha if hit & (unclamped <= alpha_max) else zero
        buffer[LIGHT + p] = light if hit else light_behind
        buffer[BEHIND + p] = behind + weight * dot
        buffer[WEIGHT + p] = weight
        buffer[SLOPE + p] = slope
        s_x, s_y = slope * dx, slope * dy
        m_1 += slope
        m_x += s_x
        m_y += s_y
        m_xx += s_x * dx
        m_xy += s_x * dy
        m_yy += s_y * dy
    out[0], out[1], out[2], out[3], out[4], out[5] = m_x, m_y, half * m_xx, m_xy, half * m_yy, m_1


@numba.njit(cache=True, fastmath=FAST, error_model="numpy")
def _absolute_means(buffer, first, last, mean_x, mean_y, a, b, c):
    """Sums over pixels of |dL/dmean_x| and |dL/dmean_y|."""
    total_x = total_y = buffer.dtype.type(0.0)
    for p in range(first, last):
        dx = buffer[PX + p] - mean_x
        dy = buffer[PY + p] - mean_y
        slope = buffer[SLOPE + p]
        total_x += abs(slope * (a * dx + b * dy))
        total_y += abs(slope * (b * dx + c * dy))
    return total_x, total_y


@numba.njit(cache=True, fastmath=FAST, error_model="numpy")
def colour_gradient(buffer, first, last, channels, out):
    """out[k] = sum of WEIGHT * dL/dimage[k]."""
    zero = buffer.dtype.type(0.0)
    if channels == 3:
        v0 = v1 = v2 = zero
        for p in range(first, last):
            weight = buffer[WEIGHT + p]
            v0 += weight * buffer[SUMS + p]
            v1 += weight * buffer[SUMS + PLANE + p]
            v2 += weight * buffer[SUMS + PLANE + PLANE + p]
        out[0], out[1], out[2] = v0, v1, v2
        return
    for k in range(channels):
        plane = SUMS + U(k) * PLANE
        v0 = zero
        for p in range(first, last):
            v0 += buffer[WEIGHT + p] * buffer[plane + p]
        out[k] = v0


@numba.njit(cache=True, error_model="numpy")
def load_tile(buffer, tile_x, tile_y, background, light_left, last, v_image, v_alpha):
    """Fill the buffer for one tile; returns the largest LAST in it."""
    height, width, channels = v_image.shape
    fill_pixel_centres(buffer, tile_x, tile_y)
    deepest = 0
    for row in range(min(TILE, height - tile_y * TILE)):
        y = tile_y * TILE + row
        for column in range(min(TILE, width - tile_x * TILE)):
            x, p = tile_x * TILE + column, U(row * TILE + column)
            light = light_left[y, x]
            behind = -v_alpha[y, x]
            for k in range(channels):
                behind += background[k] * v_image[y, x, k]
                buffer[SUMS + U(k) * PLANE + p] = v_image[y, x, k]
            buffer[LIGHT + p] = light
            buffer[BEHIND + p] = light * behind
            buffer[LAST + p] = last[y, x]
            deepest = max(deepest, last[y, x])
    return deepest


@numba.njit(cache=True, error_model="numpy")
def _backward_tile(
    tile, tiles_x, offsets, gaussian_ids, rows, slots, records, conics, opacities, colours, background, light_left,
    last, v_image, v_alpha, absgrad, row_gradients,
):  # fmt: skip
    channels = colours.shape[1]
    buffer = np.zeros(int(SUMS) + channels * TILE * TILE, records.dtype)
    kind = buffer.dtype.type
    moments = np.empty(6, records.dtype)
    start = offsets[tile]
    deepest = load_tile(buffer, tile % tiles_x, tile // tiles_x, background, light_left, last, v_image, v_alpha)
    for i in range(start + deepest, offsets[tile + 1]):  # behind every pixel's last: no gradient
        row_gradients[slots[i]] = kind(0.0)
    for back in range(deepest):
        i = start + deepest - 1 - back
        g = gaussian_ids[i]
        first, end = U(rows[i, 0]) * SIDE, U(rows[i, 1]) * SIDE
        out = row_gradients[slots[i]]
        dot_with_colour(buffer, first, end, colours[g])
        _slopes(buffer, first, end, records[g], kind(deepest - back), moments)
        colour_gradient(buffer, first, end, channels, out[V_COLOURS:])
        a, b, c = conics[g, 0], conics[g, 1], conics[g, 2]
        out[V_MEAN_X] = -(a * moments[0] + b * moments[1])
        out[V_MEAN_Y] = -(b * moments[0] + c * moments[1])
        out[V_A], out[V_B], out[V_C] = moments[2], moments[3], moments[4]
        out[V_OPACITY] = -moments[5] / opacities[g]
        if absgrad:
            out[V_ABS_X], out[V_ABS_Y] = _absolute_means(
                buffer, first, end, records[g, MEAN_X], records[g, MEAN_Y], a, b, c
            )


@numba.njit(cache=True, nogil=True, error_model="numpy")
def composite_backward(
    first, last_job, schedule, tiles_x, offsets, gaussian_ids, rows, slots, records, conics, opacities, colours,
    background, light_left, last, v_image, v_alpha, absgrad, row_gradients,
):  # fmt: skip
    """Write the gradients of all intersections of tiles schedule[first:last_job] into row_gradients (M, columns + D).

    v_image (H, W, D) and v_alpha (H, W) are the gradients of the image and of alpha = 1 - light_left; the other
    arguments are `compositing.composite`'s. See the columns above; V_ABS_* are written only with absgrad.
    """
    for job in range(first, last_job):
        _backward_tile(
            schedule[job], tiles_x, offsets, gaussian_ids, rows, slots, records, conics, opacities, colours, background,
            light_left, last, v_image, v_alpha, absgrad, row_gradients,
        )  # fmt: skip


@numba.njit(cache=True, nogil=True, error_model="numpy")
def gather_by_gaussian(
    first, last, depth_order, slot_offsets, row_gradients, absgrad, v_means2d, v_conics, v_opacities, v_colours,
    v_absolute,
):  # fmt: skip
    """Add up the rows of Gaussians depth_order[first:last] into (N, 2), (N, 3), (N,), (N, D) and (N, 2).

    v_absolute gets sums over pixels of absolute mean gradients (AbsGS, arXiv 2404.10484) when absgrad is set.
    """
    for rank in range(first, last):
        g = depth_order[rank]
        for slot in range(slot_offsets[rank], slot_offsets[rank + 1]):
            row = row_gradients[slot]
            v_means2d[g, 0] += row[V_MEAN_X]
            v_means2d[g, 1] += row[V_MEAN_Y]
            v_conics[g, 0] += row[V_A]
            v_conics[g, 1] += row[V_B]
            v_conics[g, 2] += row[V_C]
            v_opacities[g] += row[V_OPACITY]
            if absgrad:
                v_absolute[g, 0] += row[V_ABS_X]
                v_absolute[g, 1] += row[V_ABS_Y]
            for k in range(v_colours.shape[1]):
                v_colours[g, k] += row[V_COLOURS + k]
