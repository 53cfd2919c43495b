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
def pixels(width, height, tiles_x, tiles_y, T: tl.constexpr):
    """Return the centres of this program's pixels, their places in the image, and whether they lie inside it."""
    tile = tl.program_id(0)
    camera = tile // (tiles_x * tiles_y)
    lane = tl.arange(0, T * T)
    x = (tile % tiles_x) * T + lane % T
    y = (tile // tiles_x) % tiles_y * T + lane // T
    place = (camera.to(tl.int64) * height + y) * width + x
    return tile, camera, x.to(tl.float32) + 0.5, y.to(tl.float32) + 0.5, place, (x < width) & (y < height)


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
def clear_unseen(sums_ptr, places_ptr, start, first, length, R: tl.constexpr, WIDTH: tl.constexpr):
    """Write zeros into the places of a tile's entries from `first` on, which are behind everything that is seen.

    A place has R numbers, at most WIDTH, which is a power of two.
    """
    field = tl.arange(0, WIDTH)
    for k in range(first, length, SKIPPED):
        skipped = k + tl.arange(0, SKIPPED)
        row = tl.load(places_ptr + start + skipped, mask=skipped < length, other=0).to(tl.int64)
        here = (skipped < length)[:, None] & (field < R)[None, :]
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


@triton.jit(do_not_specialize=SIZES)
def forward(
    means_ptr, conics_ptr, opacities_ptr, colors_ptr, backgrounds_ptr, offsets_ptr, ids_ptr,
    images_ptr, alphas_ptr, lights_ptr, lasts_ptr, width, height, tiles_x, tiles_y,
    X: tl.constexpr, BACKGROUND: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Write colours, alpha, remaining light, and the number of entries of its tile's list that each pixel has read."""
    tile, camera, px, py, place, inside = pixels(width, height, tiles_x, tiles_y, T)
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
    mx, my, a, b, c, opacity, c0, c1, c2, c3 = load_gaussian(means_ptr, conics_ptr, opacities_ptr, colors_ptr, g, X)
    g = tl.load(ids_ptr + i + 1, mask=i + 1 < end, other=0)
    while (i < end) & (tl.max(open_.to(tl.int32)) > 0):
        n_mx, n_my, n_a, n_b, n_c, n_opacity, n_c0, n_c1, n_c2, n_c3 = load_gaussian(
            means_ptr, conics_ptr, opacities_ptr, colors_ptr, g, X
        )
        g = tl.load(ids_ptr + i + 2, mask=i + 2 < end, other=0)
        _dx, _dy, alpha, counts = alpha_at(px, py, mx, my, a, b, c, opacity)
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
        light = tl.where(counts, rest, light)
        i += 1
        last = tl.where(counts, i - start, last)
        mx, my, a, b, c, opacity = n_mx, n_my, n_a, n_b, n_c, n_opacity
        c0, c1, c2, c3 = n_c0, n_c1, n_c2, n_c3
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


def blend(
    means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, backgrounds: Tensor | None,
    width: int, height: int, tile_size: int, lists: TileLists,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Blend at most `MAX_CHANNELS` channels; see `composite` for the arguments, which are contiguous.

    Returns:
        Images (C, H, W, X), alphas, remaining light, and the number of list entries that were read, (C, H, W, 1) each.
    """
    cameras, tiles_y, tiles_x = lists.offsets.shape
    channels, device = colors.shape[-1], colors.device
    images = torch.empty(cameras, height, width, channels, device=device)
    alphas = torch.empty(cameras, height, width, 1, device=device)
    lights, lasts = torch.empty_like(alphas), torch.empty_like(alphas, dtype=torch.int32)
    behind = colors if backgrounds is None else backgrounds
    forward[(cameras * tiles_y * tiles_x,)](
        means2d, conics, opacities, colors, behind, lists.bounds, lists.ids, images, alphas, lights, lasts,
        width, height, tiles_x, tiles_y, channels, backgrounds is not None, tile_size, num_warps=1,
    )  # fmt: skip
    return images, alphas, lights, lasts
