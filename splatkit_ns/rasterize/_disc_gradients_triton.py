"""The gradients of each disc, computed of the sums of its entries in the tiles' lists, on CUDA.

The formulas are those of `splatkit_ns.rasterize.cpu.compositing_2dgs_backward`.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from splatkit_ns.rasterize._discs_triton import RECORD
from splatkit_ns.rasterize._rows_triton import load3, store3

FIXED = tl.constexpr(12)
"""Sums of an entry before those of the values: nine moments, two of the screen-space Gaussian, the opacity."""


@triton.jit(do_not_specialize=["capacity"])
def gather(
    order_ptr, ends_ptr, counts_ptr, sums_ptr, capacity,
    v_rays_ptr, v_means_ptr, v_opacities_ptr, v_values_ptr, v_normals_ptr, v_abs_ptr,
    X: tl.constexpr, ABS: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """Add up the entries of each disc; the moments are stored where `transform_gradients` finds them."""
    rank = tl.program_id(0)
    g = tl.load(order_ptr + rank)
    count = tl.load(counts_ptr + rank)
    first = tl.load(ends_ptr + rank) - count
    R: tl.constexpr = FIXED + X + 3 + (2 if ABS else 0)
    field = tl.arange(0, 32)
    entry = tl.arange(0, E)
    total = tl.zeros((E, 32), tl.float32)
    for k in range(0, count, E):
        row = first + k + entry
        live = ((k + entry < count) & (row < capacity))[:, None] & (field < R)[None, :]
        total += tl.load(sums_ptr + row[:, None] * R + field[None, :], mask=live, other=0.0)
    out = tl.sum(total, axis=0)
    tl.store(v_rays_ptr + 9 * g + field, out, mask=field < 9)
    tl.store(v_means_ptr + 2 * g + field - 9, out, mask=(field >= 9) & (field < 11))
    tl.store(v_opacities_ptr + g + field - 11, out, mask=field == 11)
    tl.store(v_values_ptr + X * g + field - FIXED, out, mask=(field >= FIXED) & (field < FIXED + X))
    tl.store(v_normals_ptr + 3 * g + field - FIXED - X, out, mask=(field >= FIXED + X) & (field < FIXED + X + 3))
    if ABS:
        tl.store(v_abs_ptr + 2 * g + field - FIXED - X - 3, out, mask=(field >= FIXED + X + 3) & (field < R))


@triton.jit
def _times_inverse(p, q, r, a, b, c, d, e, f, scale):
    """Return a column of -N^T G, for that of G, which is scaled by the depth; N is the inverse ray transform."""
    return (e * r - a * p - c * q) * scale, (f * r - b * p - d * q) * scale, r * scale


@triton.jit(do_not_specialize=["rows"])
def transform_gradients(records_ptr, rays_ptr, seen_ptr, v_rays_ptr, rows, B: tl.constexpr):
    """Replace the nine moments of one disc per lane by the gradient of its ray transform.

    It is -N^T G N^T for the gradient G of the inverse N = ((a, b, 0), (c, d, 0), (e, f, 1)) / depth at the disc's
    centre, which is depth (p, q, -r) in terms of the moments.
    """
    i = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    live = i < rows
    seen = live & (tl.load(seen_ptr + i, mask=live, other=0) != 0)
    record = records_ptr + i * RECORD
    x, y = tl.load(record, mask=seen, other=0.0), tl.load(record + 1, mask=seen, other=0.0)
    a, b = tl.load(record + 2, mask=seen, other=0.0), tl.load(record + 3, mask=seen, other=0.0)
    c, d = tl.load(record + 4, mask=seen, other=0.0), tl.load(record + 5, mask=seen, other=0.0)
    e, f = tl.load(record + 6, mask=seen, other=0.0), tl.load(record + 7, mask=seen, other=0.0)
    scale = 1.0 / tl.load(rays_ptr + 9 * i + 8, mask=seen, other=1.0)
    p0, p1, p2 = load3(v_rays_ptr, 3 * i, live)
    q0, q1, q2 = load3(v_rays_ptr, 3 * i + 1, live)
    r0, r1, r2 = load3(v_rays_ptr, 3 * i + 2, live)
    x0, y0, z0 = _times_inverse(p0, q0, r0, a, b, c, d, e, f, scale)
    x1, y1, z1 = _times_inverse(p1, q1, r1, a, b, c, d, e, f, scale)
    x2, y2, z2 = _times_inverse(p2, q2, r2, a, b, c, d, e, f, scale)
    # rows of the product with N^T; x0, x1 and x2 are the first row of -N^T G
    g00, g01, g02 = a * x0 + b * x1, c * x0 + d * x1, e * x0 + f * x1 + x2
    g10, g11, g12 = a * y0 + b * y1, c * y0 + d * y1, e * y0 + f * y1 + y2
    g20, g21, g22 = a * z0 + b * z1, c * z0 + d * z1, e * z0 + f * z1 + z2
    store3(v_rays_ptr, 3 * i, g00, g01, g02, live)
    store3(v_rays_ptr, 3 * i + 1, g10, g11, g12, live)
    store3(
        v_rays_ptr, 3 * i + 2, g20 - x * g00 - y * g10, g21 - x * g01 - y * g11, g22 - x * g02 - y * g12, live
    )  # fmt: skip
