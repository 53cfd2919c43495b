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

from splatkit_ns.rasterize.limits import ALPHA_MAX

from .compositing import FAST, PLANE, PX, PY, SIDE, U, ellipse_of, fill_pixel_centres
from .scalar_math import LOG2_ALPHA_MIN, PREFETCH, exp2, prefetch
from .tiles import MEAN_X, MEAN_Y, TILE

# Planes of the backward buffer (PX and PY are the forward's); dL/dimage follows, one plane per channel.
LIGHT, LAST, BEHIND, DOT, WEIGHT, SLOPE, SUMS = U(512), U(768), U(1024), U(1280), U(1536), U(1792), U(2048)
# Columns of an intersection's gradient row; colours follow.
V_MEAN_X, V_MEAN_Y, V_A, V_B, V_C, V_OPACITY, V_ABS_X, V_ABS_Y, V_COLOURS = 0, 1, 2, 3, 4, 5, 6, 7, 8


@numba.njit(cache=True, fastmath=FAST, error_model="numpy")
def dot_with_colour(buffer, first, last, colour):
    """Set plane DOT = colour . dL/dimage."""
    c = colour[0]
    for p in range(first, last):
        buffer[DOT + p] = c * buffer[SUMS + p]
    for k in range(1, colour.shape[0]):
        plane = SUMS + U(k) * PLANE
        c = colour[k]
        for p in range(first, last):
            buffer[DOT + p] += c * buffer[plane + p]


@numba.njit(cache=True, fastmath=FAST, forceinline=True, error_model="numpy")
def _step_back(buffer, p, ellipse, number, dot):
    """Return dx, dy, dL/dsigma and weight of one Gaussian at pixel p, given colour . dL/dimage as `dot`.

    Moves LIGHT and BEHIND to the front of it.
    """
    kind = buffer.dtype.type
    one, zero = kind(1.0), kind(0.0)
    alpha_max, log2_alpha_min = kind(ALPHA_MAX), kind(LOG2_ALPHA_MIN)
    mean_x, mean_y, l11, l21, l22, log2_opacity = ellipse
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
    behind = buffer[BEHIND + p]
    v_alpha = light * dot - behind * inverse
    slope = -unclamped * v_alpha if hit & (unclamped <= alpha_max) else zero
    buffer[LIGHT + p] = light if hit else light_behind
    buffer[BEHIND + p] = behind + weight * dot
    return dx, dy, slope, weight


@numba.njit(cache=True, fastmath=FAST, forceinline=True, error_model="numpy")
def _add_moments(sums, dx, dy, slope):
    x, y, xx, xy, yy, one = sums
    s_x, s_y = slope * dx, slope * dy
    return x + s_x, y + s_y, xx + s_x * dx, xy + s_x * dy, yy + s_y * dy, one + slope


@numba.njit(cache=True, fastmath=FAST, error_model="numpy")
def _slopes(buffer, first, last, record, colour, number, moments, v_colour):
    """Set plane SLOPE = dL/dsigma of one Gaussian; moves LIGHT and BEHIND to the front of it.

    Writes the moments of SLOPE into moments[0:6]: (dx, dy, dx²/2, dx dy, dy²/2, 1), and the gradient of the colour.
    Three channels are summed in the same loop.
    """
    kind = buffer.dtype.type
    zero, half = kind(0.0), kind(0.5)
    ellipse, channels = ellipse_of(record), colour.shape[0]
    sums = (zero, zero, zero, zero, zero, zero)
    if channels == 3:
        c0, c1, c2 = colour[0], colour[1], colour[2]
        v0 = v1 = v2 = zero
        for p in range(first, last):
            r, g, b = buffer[SUMS + p], buffer[SUMS + PLANE + p], buffer[SUMS + PLANE + PLANE + p]
            dx, dy, slope, weight = _step_back(buffer, p, ellipse, number, c0 * r + c1 * g + c2 * b)
            buffer[SLOPE + p] = slope
            v0 += weight * r
            v1 += weight * g
            v2 += weight * b
            sums = _add_moments(sums, dx, dy, slope)
        v_colour[0], v_colour[1], v_colour[2] = v0, v1, v2
    else:
        dot_with_colour(buffer, first, last, colour)
        for p in range(first, last):
            dx, dy, slope, weight = _step_back(buffer, p, ellipse, number, buffer[DOT + p])
            buffer[SLOPE + p] = slope
            buffer[WEIGHT + p] = weight
            sums = _add_moments(sums, dx, dy, slope)
        colour_gradient(buffer, first, last, channels, v_colour)
    moments[0], moments[1], moments[2] = sums[0], sums[1], half * sums[2]
    moments[3], moments[4], moments[5] = sums[3], half * sums[4], sums[5]


@numba.njit(cache=True, fastmath=FAST, error_model="numpy")
def _absolute_means(buffer, first, last, mean_x, mean_y, a, b, c):
    """Return the sums over pixels of |dL/dmean_x| and |dL/dmean_y|."""
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
    """Set out[k] to the sum of WEIGHT * dL/dimage[k]."""
    for k in range(channels):
        plane = SUMS + U(k) * PLANE
        total = buffer.dtype.type(0.0)
        for p in range(first, last):
            total += buffer[WEIGHT + p] * buffer[plane + p]
        out[k] = total


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
    for i in range(start + deepest, offsets[tile + 1]):  # behind the last Gaussian of every pixel: no gradient
        row_gradients[slots[i]] = kind(0.0)
    for back in range(deepest):
        i = start + deepest - 1 - back
        ahead = max(i - PREFETCH, start)
        for rows_of in (records, colours, conics):
            prefetch(rows_of, gaussian_ids[ahead])
        prefetch(row_gradients, slots[ahead])
        g = gaussian_ids[i]
        first, end = U(rows[i, 0]) * SIDE, U(rows[i, 1]) * SIDE
        out = row_gradients[slots[i]]
        _slopes(buffer, first, end, records[g], colours[g], kind(deepest - back), moments, out[V_COLOURS:])
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
    arguments are those of `compositing.composite`. See the columns above; V_ABS_* are written only with absgrad.
    """
    for job in range(first, last_job):
        _backward_tile(
            schedule[job], tiles_x, offsets, gaussian_ids, rows, slots, records, conics, opacities, colours, background,
            light_left, last, v_image, v_alpha, absgrad, row_gradients,
        )  # fmt: skip


@numba.njit(cache=True, nogil=True, error_model="numpy")
def gather_by_gaussian(
    first, last, slot_offsets, row_gradients, absgrad, v_means2d, v_conics, v_opacities, v_colours,
    v_absolute,
):  # fmt: skip
    """Add up the rows of Gaussians first to last into (N, 2), (N, 3), (N,), (N, D) and (N, 2).

    v_absolute gets sums over pixels of absolute mean gradients (AbsGS, arXiv 2404.10484) if absgrad is set.
    """
    for g in range(first, last):
        for slot in range(slot_offsets[g], slot_offsets[g + 1]):
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
