"""The records of discs for compositing on CUDA: the coefficients of ray intersections, and an ellipse around each.

The formulas are those of the CPU's kernels, `splatkit_ns.rasterize.cpu.projection_2dgs`, which explain them.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from splatkit_ns.rasterize import limits
from splatkit_ns.rasterize._rows_triton import load3, store3
from splatkit_ns.rasterize.arguments import RasterSettings

BLOCK = 128
RECORD = tl.constexpr(10)
"""Numbers of a disc's record: its projected centre, A to F, and the offset of its box's centre from the first."""
SIGMAS = tl.constexpr(limits.DISC_SIGMAS)
VARIANCE_MIN, MAX_RADIUS = tl.constexpr(limits.DISC_VARIANCE_MIN), tl.constexpr(float(limits.MAX_RADIUS))
COEFFICIENT_MAX = tl.constexpr(limits.DISC_COEFFICIENT_MAX)


@triton.jit
def _outline(p0, p1, q0, q1, r0, r1, z, squared):
    """Return centre and shape xx, xy, yy of the outline of a disc of some standard deviations, and whether it has one.

    A disc that reaches the plane of the camera has none.
    """
    below = z * z - squared * (r0 * r0 + r1 * r1)
    ok = below > 0.0
    factor = squared / tl.where(ok, below, 1.0)
    x, y = -factor * (p0 * r0 + p1 * r1), -factor * (q0 * r0 + q1 * r1)
    xx, yy = x * x + factor * (p0 * p0 + p1 * p1), y * y + factor * (q0 * q0 + q1 * q1)
    return x, y, xx, x * y + factor * (p0 * q0 + p1 * q1), yy, ok


@triton.jit(do_not_specialize=["rows", "number", "width", "height"])
def _describe(
    rays_ptr, opacities_ptr, radii_ptr, seen_ptr, records_ptr, centres_ptr, conics_ptr,
    rows, number, width, height, near, far, radius_clip, AXES: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Describe one disc of one camera per lane; unseen ones get zeros."""
    i = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    live = i < rows
    a0, a1, a2 = load3(rays_ptr, 3 * i, live)
    b0, b1, b2 = load3(rays_ptr, 3 * i + 1, live)
    r0, r1, z = load3(rays_ptr, 3 * i + 2, live)
    opacity = tl.load(opacities_ptr + i % number, mask=live, other=0.0)
    seen = live & (z >= near) & (z <= far) & (z != 0.0) & (opacity * 255.0 >= 1.0)
    z = tl.where(seen, z, 1.0)
    # the ray transform for a screen whose origin is the projected centre; its third column is (0, 0, z)
    x, y = a2 / z, b2 / z
    p0, p1, q0, q1 = a0 - x * r0, a1 - x * r1, b0 - y * r0, b1 - y * r1
    offset_x, offset_y, xx, _xy, yy, ok = _outline(p0, p1, q0, q1, r0, r1, z, 1.0)
    radius_x = tl.minimum(tl.ceil(tl.sqrt(tl.maximum(xx, VARIANCE_MIN)) * SIGMAS), MAX_RADIUS)
    radius_y = tl.minimum(tl.ceil(tl.sqrt(tl.maximum(yy, VARIANCE_MIN)) * SIGMAS), MAX_RADIUS)
    seen = seen & ok & ((radius_x > radius_clip) | (radius_y > radius_clip))
    factor = z / (p0 * q1 - p1 * q0)
    a, b, c, d = factor * q1, -factor * p1, -factor * q0, factor * p0
    e, f = -(r0 * a + r1 * c) / z, -(r0 * b + r1 * d) / z
    largest = tl.maximum(tl.maximum(tl.abs(a), tl.abs(b)), tl.maximum(tl.abs(c), tl.abs(d)))
    seen = seen & (largest < COEFFICIENT_MAX) & (tl.abs(e) < COEFFICIENT_MAX) & (tl.abs(f) < COEFFICIENT_MAX)
    seen = seen & (a == a) & (b == b) & (c == c) & (d == d)
    # an ellipse around all pixels with alpha >= 1/255: the disc's outline, and the screen-space Gaussian's circle
    t = tl.maximum(2.0 * tl.log(tl.where(seen, opacity, 1.0) * 255.0), 1e-6)
    centre_x, centre_y, wide, cross, high, ok = _outline(p0, p1, q0, q1, r0, r1, z, t)
    apart_x, apart_y = centre_x - offset_x, centre_y - offset_y
    reach = tl.sqrt(0.5 * t) + tl.sqrt(apart_x * apart_x + apart_y * apart_y)
    slack = reach * reach + 1e-4 * (wide + high)  # a thinner ellipse's determinant would cancel
    wide += slack
    high += slack
    whole = 0.25 * (width * width + height * height).to(tl.float32) + 1.0
    ok = ok & (wide + high < 1e4 * whole)  # otherwise a circle around the image
    centre_x, centre_y = tl.where(ok, x + centre_x, 0.5 * width), tl.where(ok, y + centre_y, 0.5 * height)
    wide, cross, high = tl.where(ok, wide, whole), tl.where(ok, cross, 0.0), tl.where(ok, high, whole)
    half_x, half_y = tl.sqrt(wide), tl.sqrt(high)
    seen = (
        seen & (centre_x + half_x > 0.0) & (centre_x - half_x < width)
        & (centre_y + half_y > 0.0) & (centre_y - half_y < height)
    )  # fmt: skip
    scale = t / (wide * high - cross * cross)
    tl.store(seen_ptr + i, seen.to(tl.uint8), mask=live)
    radius_x, radius_y = tl.where(seen, radius_x, 0.0).to(tl.int32), tl.where(seen, radius_y, 0.0).to(tl.int32)
    if AXES:
        tl.store(radii_ptr + 2 * i, radius_x, mask=live)
        tl.store(radii_ptr + 2 * i + 1, radius_y, mask=live)
    else:
        tl.store(radii_ptr + i, tl.maximum(radius_x, radius_y), mask=live)
    tl.store(centres_ptr + 2 * i, tl.where(seen, centre_x, 0.0), mask=live)
    tl.store(centres_ptr + 2 * i + 1, tl.where(seen, centre_y, 0.0), mask=live)
    store3(
        conics_ptr, i, tl.where(seen, scale * high, 0.0), tl.where(seen, -scale * cross, 0.0),
        tl.where(seen, scale * wide, 0.0), live,
    )  # fmt: skip
    record = records_ptr + i * RECORD
    tl.store(record, tl.where(seen, x, 0.0), mask=live)
    tl.store(record + 1, tl.where(seen, y, 0.0), mask=live)
    tl.store(record + 2, tl.where(seen, a, 0.0), mask=live)
    tl.store(record + 3, tl.where(seen, b, 0.0), mask=live)
    tl.store(record + 4, tl.where(seen, c, 0.0), mask=live)
    tl.store(record + 5, tl.where(seen, d, 0.0), mask=live)
    tl.store(record + 6, tl.where(seen, e, 0.0), mask=live)
    tl.store(record + 7, tl.where(seen, f, 0.0), mask=live)
    tl.store(record + 8, tl.where(seen, offset_x, 0.0), mask=live)
    tl.store(record + 9, tl.where(seen, offset_y, 0.0), mask=live)


@triton.jit
def load_record(records_ptr, g):
    """Load a disc's record: centre, A to F, offset."""
    record = records_ptr + g * RECORD
    return (
        tl.load(record), tl.load(record + 1), tl.load(record + 2), tl.load(record + 3), tl.load(record + 4),
        tl.load(record + 5), tl.load(record + 6), tl.load(record + 7), tl.load(record + 8), tl.load(record + 9),
    )  # fmt: skip


@triton.jit
def load_value(values_ptr, g, X: tl.constexpr):
    """Load a disc's values; channels that do not exist are 0."""
    c0 = tl.load(values_ptr + X * g)
    c1 = tl.load(values_ptr + X * g + 1) if X > 1 else 0.0
    c2 = tl.load(values_ptr + X * g + 2) if X > 2 else 0.0
    c3 = tl.load(values_ptr + X * g + 3) if X > 3 else 0.0
    return c0, c1, c2, c3


@triton.jit
def alpha_on_disc(px, py, x, y, a, b, c, d, e, f, offset_x, offset_y, opacity):
    """Return alpha before its limit and whether it counts, the offsets from the centre, u, v, 1 / w and both squares.

    The squares are those of the distances on the disc, and on the screen, in standard deviations.
    """
    dx, dy = px - x, py - y
    inverse = 1.0 / tl.maximum(1.0 + e * dx + f * dy, 1e-6)
    u, v = (a * dx + b * dy) * inverse, (c * dx + d * dy) * inverse
    sx, sy = dx - offset_x, dy - offset_y
    on_disc, on_screen = u * u + v * v, 2.0 * (sx * sx + sy * sy)
    alpha = opacity * tl.exp(-0.5 * tl.minimum(on_disc, on_screen))
    return alpha, alpha * 255.0 >= 1.0, dx, dy, u, v, inverse, on_disc, on_screen


class Discs(NamedTuple):
    """The records of N discs in C cameras for compositing. Nothing here has a gradient."""

    radii: Tensor
    """int32, pixels, 0 for unseen discs: (C, N), or (C, N, 2) with one per axis."""
    seen: Tensor
    """(C, N) bool."""
    records: Tensor
    """(C, N, RECORD)."""
    centres: Tensor
    """(C, N, 2), pixels: centres of the ellipses that hold all pixels with alpha of at least 1/255."""
    conics: Tensor
    """(C, N, 3): those ellipses, as `_tile_lists_triton.tile_lists` takes them."""


@torch.no_grad()
def describe(
    ray_transforms: Tensor, opacities: Tensor, size: tuple[int, int], settings: RasterSettings, axes: bool
) -> Discs:
    """Describe N > 0 discs.

    Args:
        ray_transforms: (C, N, 3, 3) float32.
        opacities: (N,) float32.
        size: width and height of the images in pixels.
        settings: those for near and far plane, and radius_clip, are used.
        axes: whether there is a radius for each axis.
    """
    cameras, number = ray_transforms.shape[:2]
    device = ray_transforms.device
    radii = torch.empty((cameras, number, 2) if axes else (cameras, number), dtype=torch.int32, device=device)
    seen = torch.empty(cameras, number, dtype=torch.bool, device=device)
    records, centres, conics = (torch.empty(cameras, number, width, device=device) for width in (RECORD.value, 2, 3))
    limits = (float(settings.near_plane), float(settings.far_plane), float(settings.radius_clip))
    rows = cameras * number
    with torch.cuda.device_of(ray_transforms):  # does nothing for CPU tensors, which Triton's interpreter accepts
        _describe[(triton.cdiv(rows, BLOCK),)](
            ray_transforms.contiguous(), opacities.contiguous(), radii, seen.view(torch.uint8), records, centres,
            conics, rows, number, *size, *limits, AXES=axes, B=BLOCK,
        )  # fmt: skip
    return Discs(radii, seen, records, centres, conics)


def first_launch(device: str, axes: bool) -> Callable[[], object]:
    """Return a launch of the kernel with the kinds of arguments that training has, for Triton to compile it."""
    ones = torch.ones(16, device=device)
    settings = RasterSettings()
    return partial(describe, ones[:9].view(1, 1, 3, 3), ones[:1], (1, 1), settings, axes)
