"""The gradients of blending on CUDA: kernels that add them up over the pixels of a tile and the tiles of a Gaussian.

See `splatkit_ns.rasterize._compositing_triton`, which launches them.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from splatkit_ns.rasterize._blending_triton import SIZES, alpha_at, load_gaussian, pixels

GROUP = tl.constexpr(16)
"""The number of list entries whose gradients are added up together, the least that tensor cores multiply."""
SKIPPED = tl.constexpr(32)
"""The number of list entries that are marked at once as not seen by any pixel."""


@triton.jit
def _pixel_state(
    backgrounds_ptr, lights_ptr, lasts_ptr, v_images_ptr, v_alphas_ptr, camera, place, inside,
    X: tl.constexpr, BACKGROUND: tl.constexpr,
):  # fmt: skip
    """Load what the forward pass has left of each pixel, and its gradient.

    Returns:
        The remaining light, the number of entries that were read, the gradients of four channels, and the share of the
        loss that comes from everything behind, dimmed by everything in front.
    """
    light = tl.load(lights_ptr + place, mask=inside, other=1.0)
    last = tl.load(lasts_ptr + place, mask=inside, other=0)
    v0 = tl.load(v_images_ptr + X * place, mask=inside, other=0.0)
    v1 = tl.load(v_images_ptr + X * place + 1, mask=inside, other=0.0) if X > 1 else v0
    v2 = tl.load(v_images_ptr + X * place + 2, mask=inside, other=0.0) if X > 2 else v0
    v3 = tl.load(v_images_ptr + X * place + 3, mask=inside, other=0.0) if X > 3 else v0
    behind = -tl.load(v_alphas_ptr + place, mask=inside, other=0.0)
    if BACKGROUND:
        behind += v0 * tl.load(backgrounds_ptr + X * camera)
        if X > 1:
            behind += v1 * tl.load(backgrounds_ptr + X * camera + 1)
        if X > 2:
            behind += v2 * tl.load(backgrounds_ptr + X * camera + 2)
        if X > 3:
            behind += v3 * tl.load(backgrounds_ptr + X * camera + 3)
    return light, last, v0, v1, v2, v3, behind * light


@triton.jit
def _skip(sums_ptr, places_ptr, begin, end, R: tl.constexpr):
    """Write zeros for the entries from begin to end, which no pixel has read."""
    field = tl.arange(0, 16)[None, :]
    for k in range(begin, end, SKIPPED):
        entry = k + tl.arange(0, SKIPPED)
        row = tl.load(places_ptr + entry, mask=entry < end, other=0).to(tl.int64)[:, None]
        nothing = tl.zeros((SKIPPED, 16), tl.float32)
        tl.store(sums_ptr + row * R + field, nothing, mask=(entry < end)[:, None] & (field < R))


@triton.jit
def _step_back(
    px, py, counts, light, behind, v0, v1, v2, v3, mx, my, a, b, c, opacity, c0, c1, c2, c3, X: tl.constexpr
):
    """Go back in front of one Gaussian.

    Args:
        counts: whether each pixel has read its entry.
        others: the pixels' centres, `_pixel_state` behind the Gaussian, and the Gaussian's numbers.

    Returns:
        The offset to the Gaussian, light and behind in front of it, the weight of its colour, and the gradient of
        sigma, minus the exponent.
    """
    dx, dy, full, is_blended = alpha_at(px, py, mx, my, a, b, c, opacity)
    counts = counts & is_blended
    alpha = tl.minimum(full, 0.999)
    inverse = tl.where(counts, 1.0 / (1.0 - alpha), 1.0)
    light *= inverse
    weight = tl.where(counts, alpha * light, 0.0)
    color = v0 * c0
    if X > 1:
        color += v1 * c1
    if X > 2:
        color += v2 * c2
    if X > 3:
        color += v3 * c3
    v_alpha = light * color - inverse * behind
    behind += weight * color
    v_sigma = tl.where(counts & (full <= 0.999), -alpha * v_alpha, 0.0)
    return dx, dy, light, behind, weight, v_sigma


@triton.jit(do_not_specialize=SIZES)
def backward(
    means_ptr, conics_ptr, opacities_ptr, colors_ptr, backgrounds_ptr, offsets_ptr, ids_ptr, places_ptr,
    lights_ptr, lasts_ptr, v_images_ptr, v_alphas_ptr, sums_ptr, width, height, tiles_x, tiles_y,
    X: tl.constexpr, BACKGROUND: tl.constexpr, ABS: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Write the gradients of each entry of the tile's list, added up over its pixels.

    Their order is means (2), conics (3), opacity (1), colours (X), and absolute means (2) if wanted.
    """
    tile, camera, px, py, place, inside = pixels(width, height, tiles_x, tiles_y, T)
    start = tl.load(offsets_ptr + tile)
    light, last, v0, v1, v2, v3, behind = _pixel_state(
        backgrounds_ptr, lights_ptr, lasts_ptr, v_images_ptr, v_alphas_ptr, camera, place, inside, X, BACKGROUND
    )
    R: tl.constexpr = 6 + X + (2 if ABS else 0)
    field = tl.arange(0, 16)
    j = tl.max(last) - 1
    _skip(sums_ptr, places_ptr, start + j + 1, tl.load(offsets_ptr + tile + 1), R)
    g = tl.load(ids_ptr + start + j, mask=j >= 0, other=0)
    row = tl.load(places_ptr + start + j, mask=j >= 0, other=0)
    mx, my, a, b, c, opacity, c0, c1, c2, c3 = load_gaussian(means_ptr, conics_ptr, opacities_ptr, colors_ptr, g, X)
    g = tl.load(ids_ptr + start + j - 1, mask=j >= 1, other=0)
    while j >= 0:
        n_mx, n_my, n_a, n_b, n_c, n_opacity, n_c0, n_c1, n_c2, n_c3 = load_gaussian(
            means_ptr, conics_ptr, opacities_ptr, colors_ptr, g, X
        )
        n_row = tl.load(places_ptr + start + j - 1, mask=j >= 1, other=0)
        g = tl.load(ids_ptr + start + j - 2, mask=j >= 2, other=0)
        dx, dy, light, behind, weight, v_sigma = _step_back(
            px, py, j < last, light, behind, v0, v1, v2, v3, mx, my, a, b, c, opacity, c0, c1, c2, c3, X
        )
        sx = v_sigma * dx
        sy = v_sigma * dy
        sum_x = tl.sum(sx)
        sum_y = tl.sum(sy)
        out = tl.where(field == 0, a * sum_x + b * sum_y, 0.0)
        out = tl.where(field == 1, b * sum_x + c * sum_y, out)
        out = tl.where(field == 2, 0.5 * tl.sum(sx * dx), out)
        out = tl.where(field == 3, tl.sum(sx * dy), out)
        out = tl.where(field == 4, 0.5 * tl.sum(sy * dy), out)
        out = tl.where(field == 5, -tl.sum(v_sigma) / opacity, out)
        out = tl.where(field == 6, tl.sum(weight * v0), out)
        if X > 1:
            out = tl.where(field == 7, tl.sum(weight * v1), out)
        if X > 2:
            out = tl.where(field == 8, tl.sum(weight * v2), out)
        if X > 3:
            out = tl.where(field == 9, tl.sum(weight * v3), out)
        if ABS:
            out = tl.where(field == 6 + X, tl.sum(tl.abs(a * sx + b * sy)), out)
            out = tl.where(field == 7 + X, tl.sum(tl.abs(b * sx + c * sy)), out)
        tl.store(sums_ptr + row.to(tl.int64) * R + field, out, mask=field < R)
        mx, my, a, b, c, opacity, row = n_mx, n_my, n_a, n_b, n_c, n_opacity, n_row
        c0, c1, c2, c3 = n_c0, n_c1, n_c2, n_c3
        j -= 1


@triton.jit
def _column(table, k: tl.constexpr):
    """Return one of sixteen columns."""
    return tl.sum(tl.where(tl.arange(0, 16)[None, :] == k, table, 0.0), axis=1)


@triton.jit(do_not_specialize=SIZES)
def backward_in_groups(
    means_ptr, conics_ptr, opacities_ptr, colors_ptr, backgrounds_ptr, offsets_ptr, ids_ptr, places_ptr,
    lights_ptr, lasts_ptr, v_images_ptr, v_alphas_ptr, sums_ptr, width, height, tiles_x, tiles_y,
    X: tl.constexpr, BACKGROUND: tl.constexpr, ABS: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Do the same as `backward`, with sums over pixels as products of matrices, which tensor cores multiply.

    The rows of a matrix are a group of entries, its columns the pixels of the tile. Times the powers of the pixels'
    offsets to the tile's middle, the gradients of sigma give their moments; times the gradients of the channels, the
    weights give those of the colours. Offsets and their products are exact in TF32, and the other factors are split
    into parts that are, so that sums have the precision of float32.
    """
    tile, camera, px, py, place, inside = pixels(width, height, tiles_x, tiles_y, T)
    start = tl.load(offsets_ptr + tile)
    light, last, v0, v1, v2, v3, behind = _pixel_state(
        backgrounds_ptr, lights_ptr, lasts_ptr, v_images_ptr, v_alphas_ptr, camera, place, inside, X, BACKGROUND
    )
    R: tl.constexpr = 6 + X + (2 if ABS else 0)
    column = tl.arange(0, 16)[None, :]
    mid_x = (tile % tiles_x) * T + T / 2
    mid_y = (tile // tiles_x) % tiles_y * T + T / 2
    qx, qy = (px - mid_x)[:, None], (py - mid_y)[:, None]
    moments = tl.where(column == 0, 1.0, tl.where(column == 1, qx, tl.where(column == 2, qy, 0.0)))
    moments = tl.where(column == 3, qx * qx, tl.where(column == 4, qx * qy, moments))
    moments = tl.where(column == 5, qy * qy, moments)
    values = tl.where(column == 0, v0[:, None], 0.0)
    if X > 1:
        values = tl.where(column == 1, v1[:, None], values)
    if X > 2:
        values = tl.where(column == 2, v2[:, None], values)
    if X > 3:
        values = tl.where(column == 3, v3[:, None], values)
    entry = tl.arange(0, GROUP)
    j = tl.max(last) - 1
    _skip(sums_ptr, places_ptr, start + j + 1, tl.load(offsets_ptr + tile + 1), R)
    while j >= 0:
        v_sigmas = tl.zeros((GROUP, T * T), tl.float32)
        weights = tl.zeros((GROUP, T * T), tl.float32)
        abs_x = tl.zeros((GROUP,), tl.float32)
        abs_y = tl.zeros((GROUP,), tl.float32)
        for k in tl.static_range(GROUP):
            i = j - k
            g = tl.load(ids_ptr + start + tl.maximum(i, 0))
            mx, my, a, b, c, opacity, c0, c1, c2, c3 = load_gaussian(
                means_ptr, conics_ptr, opacities_ptr, colors_ptr, g, X
            )
            dx, dy, light, behind, weight, v_sigma = _step_back(
                px,
                py,
                (i < last) & (i >= 0),
                light,
                behind,
                v0,
                v1,
                v2,
                v3,
                mx,
                my,
                a,
                b,
                c,
                opacity,
                c0,
                c1,
                c2,
                c3,
                X,
            )
            v_sigmas = tl.where((entry == k)[:, None], v_sigma[None, :], v_sigmas)
            weights = tl.where((entry == k)[:, None], weight[None, :], weights)
            if ABS:
                sx = v_sigma * dx
                sy = v_sigma * dy
                abs_x = tl.where(entry == k, tl.sum(tl.abs(a * sx + b * sy)), abs_x)
                abs_y = tl.where(entry == k, tl.sum(tl.abs(b * sx + c * sy)), abs_y)
        high = (v_sigmas.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)  # the bits that TF32 has
        table = tl.dot(high, moments, input_precision="tf32")
        table = tl.dot(v_sigmas - high, moments, table, input_precision="tf32")
        shades = tl.dot(weights, values, input_precision="tf32x3")
        i = j - entry
        live = i >= 0
        g = tl.load(ids_ptr + start + i, mask=live, other=0)
        to = sums_ptr + tl.load(places_ptr + start + i, mask=live, other=0).to(tl.int64) * R
        mx = tl.load(means_ptr + 2 * g) - mid_x
        my = tl.load(means_ptr + 2 * g + 1) - mid_y
        a, b, c = tl.load(conics_ptr + 3 * g), tl.load(conics_ptr + 3 * g + 1), tl.load(conics_ptr + 3 * g + 2)
        # moments about the middle of the Gaussian
        m, m_x, m_y = _column(table, 0), _column(table, 1), _column(table, 2)
        m_xx = _column(table, 3) + mx * (mx * m - 2.0 * m_x)
        m_xy = _column(table, 4) + mx * (my * m - m_y) - my * m_x
        m_yy = _column(table, 5) + my * (my * m - 2.0 * m_y)
        m_x = mx * m - m_x
        m_y = my * m - m_y
        tl.store(to, a * m_x + b * m_y, mask=live)
        tl.store(to + 1, b * m_x + c * m_y, mask=live)
        tl.store(to + 2, 0.5 * m_xx, mask=live)
        tl.store(to + 3, m_xy, mask=live)
        tl.store(to + 4, 0.5 * m_yy, mask=live)
        tl.store(to + 5, -m / tl.load(opacities_ptr + g, mask=live, other=1.0), mask=live)
        tl.store(to[:, None] + 6 + column, shades, mask=live[:, None] & (column < X))
        if ABS:
            tl.store(to + 6 + X, abs_x, mask=live)
            tl.store(to + 7 + X, abs_y, mask=live)
        j -= GROUP


@triton.jit(do_not_specialize=["num", "capacity"])
def gather(
    order_ptr, ends_ptr, counts_ptr, sums_ptr, num, capacity, v_means_ptr, v_conics_ptr, v_opacities_ptr, v_colors_ptr,
    v_abs_ptr, X: tl.constexpr, ABS: tl.constexpr, G: tl.constexpr, E: tl.constexpr, MANY: tl.constexpr,
):  # fmt: skip
    """Add up the entries of each of G Gaussians, the first MANY of each together; Gaussians without any get zeros."""
    rank = tl.program_id(0) * G + tl.arange(0, G)
    known = rank < num
    g = tl.load(order_ptr + rank, mask=known, other=0)
    count = tl.load(counts_ptr + rank, mask=known, other=0)
    first = tl.load(ends_ptr + rank, mask=known, other=0) - count
    R: tl.constexpr = 6 + X + (2 if ABS else 0)
    field = tl.arange(0, 16)
    total = tl.zeros((G, 16), tl.float32)
    most = tl.max(count)
    entry = tl.arange(0, E)[None, :]
    for k in range(0, tl.minimum(most, MANY), E):
        row = first[:, None] + k + entry
        live = (k + entry < tl.minimum(count, MANY)[:, None]) & (row < capacity)
        live = live[:, :, None] & (field < R)[None, None, :]
        total += tl.sum(tl.load(sums_ptr + row[:, :, None] * R + field[None, None, :], mask=live, other=0.0), axis=1)
    if most > MANY:
        others = tl.arange(0, MANY)
        for i in range(G):
            mine = tl.arange(0, G) == i
            its_count = tl.sum(tl.where(mine, count, 0))
            its_first = tl.sum(tl.where(mine, first, 0))
            rest = tl.zeros((MANY, 16), tl.float32)
            for k in range(MANY, its_count, MANY):
                place = its_first + k + others
                here = ((k + others < its_count) & (place < capacity))[:, None] & (field < R)[None, :]
                rest += tl.load(sums_ptr + place[:, None] * R + field[None, :], mask=here, other=0.0)
            total += tl.where(mine[:, None], tl.sum(rest, axis=0)[None, :], 0.0)
    g, field, known = g[:, None], field[None, :], known[:, None]
    tl.store(v_means_ptr + 2 * g + field, total, mask=known & (field < 2))
    tl.store(v_conics_ptr + 3 * g + field - 2, total, mask=known & (field >= 2) & (field < 5))
    tl.store(v_opacities_ptr + g + field - 5, total, mask=known & (field == 5))
    tl.store(v_colors_ptr + X * g + field - 6, total, mask=known & (field >= 6) & (field < 6 + X))
    if ABS:
        tl.store(v_abs_ptr + 2 * g + field - 6 - X, total, mask=known & (field >= 6 + X) & (field < 8 + X))
