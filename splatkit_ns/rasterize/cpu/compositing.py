"""Front-to-back alpha compositing of tile lists, forward.

3DGS (Kerbl et al. 2023), equation 3, with its cut-offs. One call handles one tile: Gaussians outside, pixels inside, on
rows of a small local buffer, so that LLVM vectorises the pixel loop. Each quantity that differs between pixels is a
plane of that one buffer: with constant distances between planes the compiler needs no overlap checks. Indices are
unsigned, which spares numba's negative-index handling. Each tile is computed by one thread in a fixed order: results
are reproducible.
"""

# Kernel arguments are scalars and arrays whose types numba infers; their shapes are in the docstrings.
# pyright: reportMissingParameterType=false

from __future__ import annotations

import numba
import numpy as np

from splatkit_ns.rasterize.limits import ALPHA_MAX, TRANSMITTANCE_MIN

from .scalar_math import LOG2_ALPHA_MIN, PREFETCH, exp2, prefetch
from .tiles import L11, L21, L22, LOG2_OPACITY, MEAN_X, MEAN_Y, TILE

U = np.uint64
SIDE = U(TILE)
PLANE = U(TILE * TILE)
# Planes of the forward buffer; colour sums follow.
PX, PY, LIGHT, LAST, WEIGHT, SUMS = U(0), U(256), U(512), U(768), U(1024), U(1280)
FAST = {"contract", "reassoc", "nsz", "arcp"}
"""Fast-math without the "no NaN, no infinity" promises."""


@numba.njit(cache=True, inline="always", error_model="numpy")
def fill_pixel_centres(buffer, tile_x, tile_y):
    """Write the x and y of the tile's pixel centres, in pixels, into planes PX and PY."""
    kind = buffer.dtype.type
    half = kind(0.5)
    for row in range(TILE):
        for column in range(TILE):
            buffer[PX + U(row * TILE + column)] = kind(tile_x * TILE + column) + half
            buffer[PY + U(row * TILE + column)] = kind(tile_y * TILE + row) + half


@numba.njit(cache=True, inline="always", error_model="numpy")
def open_tile(buffer, tile_x, tile_y, height, width):
    """Fill planes PX, PY and LIGHT of a zeroed buffer; returns the numbers of rows and columns inside the image."""
    fill_pixel_centres(buffer, tile_x, tile_y)
    rows_used, columns_used = min(TILE, height - tile_y * TILE), min(TILE, width - tile_x * TILE)
    for row in range(rows_used):
        for column in range(columns_used):  # pixels outside the image keep light 0: finished
            buffer[LIGHT + U(row * TILE + column)] = buffer.dtype.type(1.0)
    return rows_used, columns_used


@numba.njit(cache=True, fastmath=FAST, forceinline=True, error_model="numpy")
def ellipse_of(record):
    """Return the six numbers of a record that `_blend` and its gradient take."""
    return record[MEAN_X], record[MEAN_Y], record[L11], record[L21], record[L22], record[LOG2_OPACITY]


@numba.njit(cache=True, fastmath=FAST, forceinline=True, error_model="numpy")
def _blend(buffer, p, ellipse, number):
    """Return alpha * light of one Gaussian at pixel p; updates LIGHT and LAST.

    Light (transmittance) of a finished pixel is stored negated.
    """
    kind = buffer.dtype.type
    one, zero = kind(1.0), kind(0.0)
    alpha_max, log2_alpha_min, light_min = kind(ALPHA_MAX), kind(LOG2_ALPHA_MIN), kind(TRANSMITTANCE_MIN)
    mean_x, mean_y, l11, l21, l22, log2_opacity = ellipse
    dx = buffer[PX + p] - mean_x
    dy = buffer[PY + p] - mean_y
    u = l11 * dx + l21 * dy
    w = l22 * dy
    log2_alpha = log2_opacity - (u * u + w * w)
    alpha = min(exp2(log2_alpha), alpha_max)
    light = buffer[LIGHT + p]
    left = light * (one - alpha)
    hit = (log2_alpha >= log2_alpha_min) & (light > zero)
    blends = hit & (left > light_min)
    finished = -light if hit else light
    buffer[LIGHT + p] = left if blends else finished
    buffer[LAST + p] = number if blends else buffer[LAST + p]
    return alpha * light if blends else zero


@numba.njit(cache=True, fastmath=FAST, error_model="numpy")
def _add_gaussian(buffer, first, last, record, colour, number):
    """Blend one Gaussian into pixels [first, last); three channels in the same loop saves a fifth of the time."""
    ellipse = ellipse_of(record)
    if colour.shape[0] == 3:
        c0, c1, c2 = colour[0], colour[1], colour[2]
        for p in range(first, last):
            weight = _blend(buffer, p, ellipse, number)
            buffer[SUMS + p] += weight * c0
            buffer[SUMS + PLANE + p] += weight * c1
            buffer[SUMS + PLANE + PLANE + p] += weight * c2
        return
    for p in range(first, last):
        buffer[WEIGHT + p] = _blend(buffer, p, ellipse, number)
    add_colour(buffer, first, last, colour)


@numba.njit(cache=True, fastmath=FAST, error_model="numpy")
def add_colour(buffer, first, last, colour):
    """Add colour times plane WEIGHT to the sums of pixels [first, last)."""
    for k in range(colour.shape[0]):
        plane = SUMS + U(k) * PLANE
        c = colour[k]
        for p in range(first, last):
            buffer[plane + p] += buffer[WEIGHT + p] * c


@numba.njit(cache=True, error_model="numpy")
def all_finished(buffer):
    """Whether no pixel of the tile lets light through. Counting vectorises, unlike a maximum of floats."""
    unfinished = 0
    for p in range(PLANE):
        unfinished += buffer[LIGHT + U(p)] > 0
    return unfinished == 0


@numba.njit(cache=True, error_model="numpy")
def _composite_tile(tile, tiles_x, offsets, gaussian_ids, rows, records, colours, background, image, light_left, last):
    height, width, channels = image.shape
    tile_x, tile_y = tile % tiles_x, tile // tiles_x
    buffer = np.zeros(int(SUMS) + channels * TILE * TILE, records.dtype)
    kind = buffer.dtype.type
    rows_used, columns_used = open_tile(buffer, tile_x, tile_y, height, width)
    start, end = offsets[tile], offsets[tile + 1]
    for i in range(start, end):
        number = i - start + 1
        if number % 8 == 0 and all_finished(buffer):
            break
        ahead = gaussian_ids[min(i + PREFETCH, end - 1)]
        prefetch(records, ahead)
        prefetch(colours, ahead)
        g = gaussian_ids[i]
        _add_gaussian(buffer, U(rows[i, 0]) * SIDE, U(rows[i, 1]) * SIDE, records[g], colours[g], kind(number))
    for row in range(rows_used):
        y = tile_y * TILE + row
        for column in range(columns_used):
            x, p = tile_x * TILE + column, U(row * TILE + column)
            light = abs(buffer[LIGHT + p])
            light_left[y, x] = light
            last[y, x] = np.int32(buffer[LAST + p])
            for k in range(channels):
                image[y, x, k] = buffer[SUMS + U(k) * PLANE + p] + light * background[k]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def composite(
    first, last_job, schedule, tiles_x, offsets, gaussian_ids, rows, records, colours, background, image, light_left,
    last,
):  # fmt: skip
    """Composite tiles schedule[first:last_job] of one camera's lists (`tiles.TileLists`) into preallocated arrays.

    colours (N, D), background (D,) -> image (H, W, D), light_left (H, W) the transmittance behind the last Gaussian,
    last (H, W) int32 the 1-based place in the tile's list of the last Gaussian that was blended, 0 for none (in float32
    exact up to 16.7 million Gaussians in one tile).
    """
    for job in range(first, last_job):
        _composite_tile(
            schedule[job], tiles_x, offsets, gaussian_ids, rows, records, colours, background, image, light_left, last
        )
