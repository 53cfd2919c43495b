"""The backward pass of the compositing of flat discs: the gradients of each entry of the tiles' lists.

See `_compositing_2dgs_triton`, whose passes share the order of their steps.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIncompatibleMethodOverride=false, reportReturnType=false

from __future__ import annotations

import triton
import triton.language as tl

from splatkit_ns.rasterize._blending_triton import ALPHA_MAX, SIZES, pixels
from splatkit_ns.rasterize._disc_gradients_triton import FIXED
from splatkit_ns.rasterize._discs_triton import alpha_on_disc, load_record, load_value


@triton.jit(do_not_specialize=SIZES)
def backward(
    records_ptr, opacities_ptr, values_ptr, normals_ptr, backgrounds_ptr, offsets_ptr, ids_ptr, rows_ptr,
    images_ptr, lights_ptr, lasts_ptr, places_ptr,
    v_images_ptr, v_lights_ptr, v_normals_ptr, v_distortions_ptr, v_medians_ptr, sums_ptr,
    width, height, tiles_x, tiles_y, X: tl.constexpr, DEPTH: tl.constexpr, ABS: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Write the gradients of each entry of the tile's list, added up over its pixels: `FIXED`, X, normals, absolute."""
    tile = tl.program_id(0)
    camera, px, py, place, inside = pixels(tile, width, height, tiles_x, tiles_y, T)
    start = tl.load(offsets_ptr + tile)
    light = tl.load(lights_ptr + place, mask=inside, other=1.0)
    last = tl.load(lasts_ptr + place, mask=inside, other=0)
    nothing = tl.zeros((T * T,), tl.float32)
    v0 = tl.load(v_images_ptr + X * place, mask=inside, other=0.0)
    v1 = tl.load(v_images_ptr + X * place + 1, mask=inside, other=0.0) if X > 1 else nothing
    v2 = tl.load(v_images_ptr + X * place + 2, mask=inside, other=0.0) if X > 2 else nothing
    v3 = tl.load(v_images_ptr + X * place + 3, mask=inside, other=0.0) if X > 3 else nothing
    w0 = tl.load(v_normals_ptr + 3 * place, mask=inside, other=0.0)
    w1 = tl.load(v_normals_ptr + 3 * place + 1, mask=inside, other=0.0)
    w2 = tl.load(v_normals_ptr + 3 * place + 2, mask=inside, other=0.0)
    b0, b1, b2, b3 = load_value(backgrounds_ptr, camera, X)
    behind = light * (v0 * b0 + v1 * b1 + v2 * b2 + v3 * b3 + tl.load(v_lights_ptr + place, mask=inside, other=0.0))
    """The share of the loss that comes from everything behind, dimmed by everything in front."""
    if DEPTH:
        covered = 1.0 - light
        whole_depth = tl.load(images_ptr + X * place + X - 1, mask=inside, other=0.0)
        depth_left = whole_depth
        twice = 2.0 * tl.load(v_distortions_ptr + place, mask=inside, other=0.0)
        v_median = tl.load(v_medians_ptr + place, mask=inside, other=0.0)
        median_place = tl.load(places_ptr + place, mask=inside, other=0)
    R: tl.constexpr = FIXED + X + 3 + (2 if ABS else 0)
    field = tl.arange(0, 32)
    j = tl.max(last) - 1
    while j >= 0:
        g = tl.load(ids_ptr + start + j).to(tl.int64)
        x, y, a, b, c, d, e, f, offset_x, offset_y = load_record(records_ptr, g)
        c0, c1, c2, c3 = load_value(values_ptr, g, X)
        m0, m1, m2 = tl.load(normals_ptr + 3 * g), tl.load(normals_ptr + 3 * g + 1), tl.load(normals_ptr + 3 * g + 2)
        opacity = tl.load(opacities_ptr + g)
        full, counts, dx, dy, u, v, inverse_w, on_disc, on_screen = alpha_on_disc(
            px, py, x, y, a, b, c, d, e, f, offset_x, offset_y, opacity
        )
        counts = counts & (j < last)
        alpha = tl.minimum(full, ALPHA_MAX)
        inverse = tl.where(counts, 1.0 / (1.0 - alpha), 1.0)
        light *= inverse
        weight = tl.where(counts, alpha * light, 0.0)
        value = v0 * c0 + v1 * c1 + v2 * c2 + v3 * c3 + w0 * m0 + w1 * m1 + w2 * m2
        v_depth = nothing
        if DEPTH:
            z = c0 if X == 1 else (c1 if X == 2 else (c2 if X == 3 else c3))
            depth_left -= weight * z
            in_front = 2.0 * (1.0 - light)
            value += twice * (z * (in_front - covered) + whole_depth - 2.0 * depth_left)
            v_depth = twice * weight * (in_front + weight - covered)
            v_depth += tl.where(median_place == j + 1, v_median, 0.0)
        v_alpha = light * value - inverse * behind
        behind += weight * value
        slope = tl.where(counts & (full <= ALPHA_MAX), -full * v_alpha, 0.0)
        disc = on_disc <= on_screen
        p, q, r = slope * inverse_w * u, slope * inverse_w * v, slope * inverse_w * on_disc
        p, q, r = tl.where(disc, p, 0.0), tl.where(disc, q, 0.0), tl.where(disc, r, 0.0)
        screen = tl.where(disc, 0.0, 2.0 * slope)
        to_x, to_y = screen * (dx - offset_x), screen * (dy - offset_y)
        out = tl.where(field == 0, tl.sum(p * dx), 0.0)
        out = tl.where(field == 1, tl.sum(p * dy), out)
        out = tl.where(field == 2, tl.sum(p), out)
        out = tl.where(field == 3, tl.sum(q * dx), out)
        out = tl.where(field == 4, tl.sum(q * dy), out)
        out = tl.where(field == 5, tl.sum(q), out)
        out = tl.where(field == 6, tl.sum(r * dx), out)
        out = tl.where(field == 7, tl.sum(r * dy), out)
        out = tl.where(field == 8, tl.sum(r), out)
        out = tl.where(field == 9, -tl.sum(to_x), out)
        out = tl.where(field == 10, -tl.sum(to_y), out)
        out = tl.where(field == 11, -tl.sum(slope) / opacity, out)
        out = tl.where(field == FIXED, tl.sum(weight * v0 + (v_depth if X == 1 else nothing)), out)
        if X > 1:
            out = tl.where(field == FIXED + 1, tl.sum(weight * v1 + (v_depth if X == 2 else nothing)), out)
        if X > 2:
            out = tl.where(field == FIXED + 2, tl.sum(weight * v2 + (v_depth if X == 3 else nothing)), out)
        if X > 3:
            out = tl.where(field == FIXED + 3, tl.sum(weight * v3 + v_depth), out)
        out = tl.where(field == FIXED + X, tl.sum(weight * w0), out)
        out = tl.where(field == FIXED + X + 1, tl.sum(weight * w1), out)
        out = tl.where(field == FIXED + X + 2, tl.sum(weight * w2), out)
        if ABS:
            out = tl.where(field == FIXED + X + 3, tl.sum(tl.abs(to_x)), out)
            out = tl.where(field == FIXED + X + 4, tl.sum(tl.abs(to_y)), out)
        row = tl.load(rows_ptr + start + j)
        tl.store(sums_ptr + row.to(tl.int64) * R + field, out, mask=field < R)
        j -= 1
