"""Front-to-back compositing of flat discs from tile lists, forward; `compositing` explains tiles and buffers.

The composited values of a disc are colours, then depth if it is rendered, then the normal.
"""

# Kernel arguments are scalars and arrays whose types numba infers; their shapes are in the docstrings.
# pyright: reportMissingParameterType=false

from __future__ import annotations

import numba
import numpy as np

from splatkit_ns.rasterize.limits import ALPHA_MAX, TRANSMITTANCE_MIN

from . import compositing as shared
from .compositing import FAST, PLANE, SIDE, U, add_colour, all_finished, open_tile
from .projection_2dgs import CENTRE_X, CENTRE_Y, LOG2_OPACITY, OFFSET_X, OFFSET_Y, SCREEN_PRECISION, A, B, C, D, E, F
from .scalar_math import LOG2_ALPHA_MIN, LOG2_E, PREFETCH, exp2, prefetch
from .tiles import TILE

# Planes of the buffer: these, and from HEAD on those of `compositing`, whose functions get that part.
FRONT, DEPTH_SUM, DISTORTION, MEDIAN, MEDIAN_PLACE, HEAD = U(0), U(256), U(512), U(768), U(1024), U(1280)
PX, PY, LIGHT, LAST = HEAD + shared.PX, HEAD + shared.PY, HEAD + shared.LIGHT, HEAD + shared.LAST
WEIGHT, SUMS = HEAD + shared.WEIGHT, HEAD + shared.SUMS
NEARNESS_MIN = 1e-6
"""Least w (depth of the centre over depth of the ray's point): below it the ray meets the plane behind the camera."""
SCREEN_SCALE = 0.5 * SCREEN_PRECISION * LOG2_E


@numba.njit(cache=True, fastmath=FAST, error_model="numpy")
def _blend_weights(buffer, first, last, record, number):
    """Set plane WEIGHT = alpha * light of one disc on pixels [first, last); updates LIGHT and LAST.

    Plane FRONT gets the light before the disc. Light (transmittance) of a finished pixel is stored negated.
    """
    kind = buffer.dtype.type
    one, zero, w_min, screen = kind(1.0), kind(0.0), kind(NEARNESS_MIN), kind(SCREEN_SCALE)
    alpha_max, log2_alpha_min, light_min = kind(ALPHA_MAX), kind(LOG2_ALPHA_MIN), kind(TRANSMITTANCE_MIN)
    centre_x, centre_y, log2_opacity = record[CENTRE_X], record[CENTRE_Y], record[LOG2_OPACITY]
    a, b, c, d, e, f = record[A], record[B], record[C], record[D], record[E], record[F]
    offset_x, offset_y = record[OFFSET_X], record[OFFSET_Y]
    for p in range(first, last):
        dx = buffer[PX + p] - centre_x
        dy = buffer[PY + p] - centre_y
        inverse_w = one / max(one + e * dx + f * dy, w_min)
        u = (a * dx + b * dy) * inverse_w
        v = (c * dx + d * dy) * inverse_w
        sx, sy = dx - offset_x, dy - offset_y
        log2_alpha = log2_opacity - min(u * u + v * v, screen * (sx * sx + sy * sy))
        alpha = min(exp2(log2_alpha), alpha_max)
        light = buffer[LIGHT + p]
        left = light * (one - alpha)
        hit = (log2_alpha >= log2_alpha_min) & (light > zero)
        blends = hit & (left > light_min)
        buffer[WEIGHT + p] = alpha * light if blends else zero
        buffer[FRONT + p] = light
        finished = -light if hit else light
        buffer[LIGHT + p] = left if blends else finished
        buffer[LAST + p] = number if blends else buffer[LAST + p]


@numba.njit(cache=True, fastmath=FAST, error_model="numpy")
def _add_depth(buffer, first, last, depth, number):
    """Update distortion and median by the disc whose weights are in plane WEIGHT.

    Distortion is equation 13 of 2DGS with |z_i - z_j| for depths in world units. As discs come in order of depth, each
    one adds 2 weight * (depth * weights in front - weighted depths in front), from running sums.
    """
    kind = buffer.dtype.type
    one, zero, half, two = kind(1.0), kind(0.0), kind(0.5), kind(2.0)
    for p in range(first, last):
        weight, light, depth_sum = buffer[WEIGHT + p], buffer[FRONT + p], buffer[DEPTH_SUM + p]
        buffer[DISTORTION + p] += two * weight * (depth * (one - light) - depth_sum)
        buffer[DEPTH_SUM + p] = depth_sum + weight * depth
        median = (weight > zero) & (light > half)
        buffer[MEDIAN + p] = depth if median else buffer[MEDIAN + p]
        buffer[MEDIAN_PLACE + p] = number if median else buffer[MEDIAN_PLACE + p]


@numba.njit(cache=True, error_model="numpy")
def _composite_tile(
    tile, tiles_x, offsets, gaussian_ids, rows, records, values, background, depth_channel, image, light_left, last,
    distortion, median, median_place,
):  # fmt: skip
    height, width, channels = image.shape
    tile_x, tile_y = tile % tiles_x, tile // tiles_x
    buffer = np.zeros(int(SUMS) + channels * TILE * TILE, records.dtype)
    tail = buffer[int(HEAD) :]
    kind = buffer.dtype.type
    rows_used, columns_used = open_tile(tail, tile_x, tile_y, height, width)
    start, stop = offsets[tile], offsets[tile + 1]
    for i in range(start, stop):
        number = i - start + 1
        if number % 8 == 0 and all_finished(tail):
            break
        ahead = gaussian_ids[min(i + PREFETCH, stop - 1)]
        prefetch(records, ahead)
        prefetch(values, ahead)
        g = gaussian_ids[i]
        first, end = U(rows[i, 0]) * SIDE, U(rows[i, 1]) * SIDE
        _blend_weights(buffer, first, end, records[g], kind(number))
        if depth_channel >= 0:
            _add_depth(buffer, first, end, values[g, depth_channel], kind(number))
        add_colour(tail, first, end, values[g])
    for row in range(rows_used):
        y = tile_y * TILE + row
        for column in range(columns_used):
            x, p = tile_x * TILE + column, U(row * TILE + column)
            light = abs(buffer[LIGHT + p])
            light_left[y, x] = light
            last[y, x] = np.int32(buffer[LAST + p])
            for k in range(channels):
                image[y, x, k] = buffer[SUMS + U(k) * PLANE + p] + light * background[k]
            distortion[y, x] = buffer[DISTORTION + p]
            median[y, x] = buffer[MEDIAN + p]
            median_place[y, x] = np.int32(buffer[MEDIAN_PLACE + p])


@numba.njit(cache=True, nogil=True, error_model="numpy")
def composite_2dgs(
    first, last_job, schedule, tiles_x, offsets, gaussian_ids, rows, records, values, background, depth_channel, image,
    light_left, last, distortion, median, median_place,
):  # fmt: skip
    """Composite tiles schedule[first:last_job] of one camera's lists (`tiles.TileLists`) into preallocated arrays.

    records (N, RECORD) of `projection_2dgs`, values (N, D), background (D,) -> image (H, W, D), light_left (H, W), last
    (H, W) int32 as in `compositing.composite`; unless depth_channel is -1, distortion and median (H, W) of
    that channel, and median_place (H, W) int32, the place in the tile's list of the disc with the median depth.
    """
    for job in range(first, last_job):
        _composite_tile(
            schedule[job], tiles_x, offsets, gaussian_ids, rows, records, values, background, depth_channel, image,
            light_left, last, distortion, median, median_place,
        )  # fmt: skip
