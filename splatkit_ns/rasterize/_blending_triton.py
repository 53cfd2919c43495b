"""The forward pass of the compositing of ellipses on CUDA, and what all passes over the tiles' lists share.

The formulas are those of 3D Gaussian Splatting (https://arxiv.org/abs/2308.04079, equation 3).
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from splatkit_ns.rasterize import limits
from splatkit_ns.rasterize._tile_lists_triton import TileLists

MAX_CHANNELS = 4
ALPHA_MAX, LIGHT_MIN = tl.constexpr(limits.ALPHA_MAX), tl.constexpr(limits.TRANSMITTANCE_MIN)
SKIPPED = tl.constexpr(32)
"""The number of list entries that are marked at once as not seen by any pixel."""
SIZES = ["width", "height", "tiles_x", "tiles_y"]
"""The arguments whose values Triton does not specialise kernels on, so that new sizes compile nothing."""


@triton.jit
def pixels(tile, width, height, tiles_x, tiles_y, T: tl.constexpr):
    """Return a tile's camera, the centres of its pixels, their places in the image, and whether they lie inside it."""
    camera = tile // (tiles_x * tiles_y)
    lane = tl.arange(0, T * T)
    x = (tile % tiles_x) * T + lane % T
    y = (tile // tiles_x) % tiles_y * T + lane // T
    place = (camera.to(tl.int64) * height + y) * width + x
    return camera, x.to(tl.float32) + 0.5, y.to(tl.float32) + 0.5, place, (x < width) & (y < height)


@triton.jit
def load_gaussian(means_ptr, conics_ptr, opacities_ptr, colors_ptr, g, X: tl.constexpr):
    """Load one Gaussian's numbers, one Gaussian ahead of their use; channels that do not exist are 0."""
    g = g.to(tl.int64)
    c0 = tl.load(colors_ptr + X * g)
    c1 = tl.load(colors_ptr + X * g + 1) if X > 1 else 0.0
    c2 = tl.load(colors_ptr + X * g + 2) if X > 2 else 0.0
    c3 = tl.load(colors_ptr + X * g + 3) if X > 3 else 0.0
    return (
        tl.load(means_ptr + 2 * g), tl.load(means_ptr + 2 * g + 1),
        tl.load(conics_ptr + 3 * g), tl.load(conics_ptr + 3 * g + 1), tl.load(conics_ptr + 3 * g + 2),
        tl.load(opacities_ptr + g), c0, c1, c2, c3,
    )  # fmt: skip


@triton.jit
def alpha_at(px, py, mx, my, a, b, c, opacity):
    """Return the fraction of the light behind the Gaussian that it blocks at each pixel, and whether that counts."""
    dx = mx - px
    dy = my - py
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = opacity * tl.exp(-sigma)
    return dx, dy, alpha, (sigma >= 0.0) & (alpha * 255.0 >= 1.0)


@triton.jit
def clear_unseen(sums_ptr, places_ptr, start, first, end, R: tl.constexpr, WIDTH: tl.constexpr):
    """Write zeros into the places of a tile's entries from `first` to `end`, which are behind everything that is seen.

    A place has R numbers, at most WIDTH, which is a power of two.
    """
    field = tl.arange(0, WIDTH)
    for k in range(first, end, SKIPPED):
        skipped = k + tl.arange(0, SKIPPED)
        row = tl.load(places_ptr + start + skipped, mask=skipped < end, other=0).to(tl.int64)
        here = (skipped < end)[:, None] & (field < R)[None, :]
        tl.store(sums_ptr + row[:, None] * R + field[None, :], tl.zeros((SKIPPED, WIDTH), tl.float32), mask=here)


@triton.jit
def light_before(light, full, counts):
    """Return the light before it passes a Gaussian, the inverse of the share that passes, and the Gaussian's alpha.

    Args:
        light: what passes through the Gaussian and all in front of it.
        full: its alpha before the limit.
        counts: whether the pixel sees it.
    """
    alpha = tl.minimum(full, ALPHA_MAX)
    inverse = tl.where(counts, 1.0 / (1.0 - alpha), 1.0)
    return light * inverse, inverse, alpha


@triton.jit
def mark_places(marks_ptr, start, segment, SEGMENT: tl.constexpr, X: tl.constexpr, T: tl.constexpr):
    """Return where the light behind a segment of a tile's list is kept; T * T, 2 T * T, … further on, its colours."""
    mark = (start // SEGMENT + segment).to(tl.int64)
    return marks_ptr + mark * ((1 + X) * T * T) + tl.arange(0, T * T)


@triton.jit
def segment_of(program, offsets_ptr, num_tiles, SEGMENT: tl.constexpr):
    """Return the tile and the segment of its list that a program goes through; its list may be shorter than that.

    Tile t has the programs from ``offsets[t] // SEGMENT + t`` on, which is one more than it has whole segments, or two.
    """
    tile = program * 0
    behind = num_tiles
    while tile + 1 < behind:
        middle = (tile + behind) // 2
        is_before = tl.load(offsets_ptr + middle) // SEGMENT + middle <= program
        tile = tl.where(is_before, middle, tile)
        behind = tl.where(is_before, behind, middle)
    return tile, program - tl.load(offsets_ptr + tile) // SEGMENT - tile


@triton.jit
def blend_one(
    i, start, end, px, py, mx, my, a, b, c, opacity, c0, c1, c2, c3, light, i0, i1, i2, i3, last, open_, X: tl.constexpr
):
    """Add the Gaussian of entry i to what a tile's pixels have seen so far; behind the end of its list, nothing."""
    _dx, _dy, alpha, counts = alpha_at(px, py, mx, my, a, b, c, opacity)
    counts = counts & (i < end)
    alpha = tl.minimum(alpha, ALPHA_MAX)
    rest = light * (1.0 - alpha)
    open_ = open_ & ((rest > LIGHT_MIN) | (counts == 0))
    counts = counts & open_
    weight = tl.where(counts, alpha * light, 0.0)
    i0 += weight * c0
    if X > 1:
        i1 += weight * c1
    if X > 2:
        i2 += weight * c2
    if X > 3:
        i3 += weight * c3
    return tl.where(counts, rest, light), i0, i1, i2, i3, tl.where(counts, i + 1 - start, last), open_


@triton.jit(do_not_specialize=SIZES)
def forward(
    means_ptr, conics_ptr, opacities_ptr, colors_ptr, backgrounds_ptr, offsets_ptr, ids_ptr,
    images_ptr, alphas_ptr, lights_ptr, lasts_ptr, marks_ptr, width, height, tiles_x, tiles_y,
    X: tl.constexpr, BACKGROUND: tl.constexpr, T: tl.constexpr, SEGMENT: tl.constexpr,
):  # fmt: skip
    """Write colours, alpha, remaining light, and the number of entries of its tile's list that each pixel has read.

    After each SEGMENT entries, an even number, write light and colours so far, too; 0 means never. Two entries at a
    time leave less to wait for between the steps of each.
    """
    tile = tl.program_id(0)
    camera, px, py, place, inside = pixels(tile, width, height, tiles_x, tiles_y, T)
    start = tl.load(offsets_ptr + tile)
    end = tl.load(offsets_ptr + tile + 1)
    light = tl.full((T * T,), 1.0, tl.float32)
    i0 = tl.zeros((T * T,), tl.float32)
    i1 = tl.zeros((T * T,), tl.float32)
    i2 = tl.zeros((T * T,), tl.float32)
    i3 = tl.zeros((T * T,), tl.float32)
    last = tl.zeros((T * T,), tl.int32)
    open_ = inside
    i = start
    g = tl.load(ids_ptr + i, mask=i < end, other=0)
    h = tl.load(ids_ptr + i + 1, mask=i + 1 < end, other=g)
    mx, my, a, b, c, opacity, c0, c1, c2, c3 = load_gaussian(means_ptr, conics_ptr, opacities_ptr, colors_ptr, g, X)
    hx, hy, ha, hb, hc, h_opacity, h0, h1, h2, h3 = load_gaussian(
        means_ptr, conics_ptr, opacities_ptr, colors_ptr, h, X
    )
    g = tl.load(ids_ptr + i + 2, mask=i + 2 < end, other=0)
    h = tl.load(ids_ptr + i + 3, mask=i + 3 < end, other=g)
    while (i < end) & (tl.max(open_.to(tl.int32)) > 0):
        n_mx, n_my, n_a, n_b, n_c, n_opacity, n_c0, n_c1, n_c2, n_c3 = load_gaussian(
            means_ptr, conics_ptr, opacities_ptr, colors_ptr, g, X
        )
        n_hx, n_hy, n_ha, n_hb, n_hc, n_h_opacity, n_h0, n_h1, n_h2, n_h3 = load_gaussian(
            means_ptr, conics_ptr, opacities_ptr, colors_ptr, h, X
        )
        g = tl.load(ids_ptr + i + 4, mask=i + 4 < end, other=0)
        h = tl.load(ids_ptr + i + 5, mask=i + 5 < end, other=g)
        light, i0, i1, i2, i3, last, open_ = blend_one(
            i, start, end, px, py, mx, my, a, b, c, opacity, c0, c1, c2, c3, light, i0, i1, i2, i3, last, open_, X
        )
        light, i0, i1, i2, i3, last, open_ = blend_one(
            i + 1, start, end, px, py, hx, hy, ha, hb, hc, h_opacity, h0, h1, h2, h3,
            light, i0, i1, i2, i3, last, open_, X,
        )  # fmt: skip
        i += 2
        if SEGMENT > 0:  # noqa: SIM102 - decided when the kernel is compiled
            if ((i - start) % SEGMENT == 0) & (i <= end):
                mark = mark_places(marks_ptr, start, (i - start) // SEGMENT - 1, SEGMENT, X, T)
                tl.store(mark, light)
                tl.store(mark + T * T, i0)
                if X > 1:
                    tl.store(mark + 2 * T * T, i1)
                if X > 2:
                    tl.store(mark + 3 * T * T, i2)
                if X > 3:
                    tl.store(mark + 4 * T * T, i3)
        mx, my, a, b, c, opacity = n_mx, n_my, n_a, n_b, n_c, n_opacity
        c0, c1, c2, c3 = n_c0, n_c1, n_c2, n_c3
        hx, hy, ha, hb, hc, h_opacity = n_hx, n_hy, n_ha, n_hb, n_hc, n_h_opacity
        h0, h1, h2, h3 = n_h0, n_h1, n_h2, n_h3
    if BACKGROUND:
        i0 += light * tl.load(backgrounds_ptr + X * camera)
        if X > 1:
            i1 += light * tl.load(backgrounds_ptr + X * camera + 1)
        if X > 2:
            i2 += light * tl.load(backgrounds_ptr + X * camera + 2)
        if X > 3:
            i3 += light * tl.load(backgrounds_ptr + X * camera + 3)
    tl.store(images_ptr + X * place, i0, mask=inside)
    if X > 1:
        tl.store(images_ptr + X * place + 1, i1, mask=inside)
    if X > 2:
        tl.store(images_ptr + X * place + 2, i2, mask=inside)
    if X > 3:
        tl.store(images_ptr + X * place + 3, i3, mask=inside)
    tl.store(alphas_ptr + place, 1.0 - light, mask=inside)
    tl.store(lights_ptr + place, light, mask=inside)
    tl.store(lasts_ptr + place, last, mask=inside)


def forward_warps(tile_size: int) -> int:
    """The number of warps of a program of the forward pass: one has two pixels for each lane, or two have four."""
    return 2 if tile_size > 8 else 1


def segment_length(tile_size: int) -> int:
    """The number of list entries that one program of a backward pass goes through, an even number.

    Some tiles have lists many times as long as others, and a pass would end when the longest has been gone through.
    What is kept for each segment takes ``8 * tile_size²`` bytes or more, so that larger tiles have longer ones.
    """
    return 8 * tile_size


def blend(
    means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, backgrounds: Tensor | None,
    width: int, height: int, tile_size: int, lists: TileLists, segment: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Blend at most `MAX_CHANNELS` channels; see `composite` for the arguments, which are contiguous.

    Args:
        segment: the number of list entries after which light and colours are kept for a backward pass; 0: none are.

    Returns:
        Images (C, H, W, X); alphas, remaining light, and the number of list entries that were read, (C, H, W, 1) each;
        and what is kept, (S, 1 + X, tile_size²), see `mark_places`.
    """
    cameras, tiles_y, tiles_x = lists.offsets.shape
    channels, device = colors.shape[-1], colors.device
    images = torch.empty(cameras, height, width, channels, device=device)
    alphas = torch.empty(cameras, height, width, 1, device=device)
    lights, lasts = torch.empty_like(alphas), torch.empty_like(alphas, dtype=torch.int32)
    number = max(1, len(lists.ids) // segment) if segment else 0
    marks = torch.empty(number, 1 + channels, tile_size**2, device=device)
    behind = colors if backgrounds is None else backgrounds
    forward[(cameras * tiles_y * tiles_x,)](
        means2d, conics, opacities, colors, behind, lists.bounds, lists.ids, images, alphas, lights, lasts,
        marks, width, height, tiles_x, tiles_y, channels, backgrounds is not None, tile_size, segment,
        num_warps=forward_warps(tile_size),
    )  # fmt: skip
    return images, alphas, lights, lasts, marks
