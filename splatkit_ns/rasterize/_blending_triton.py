"""Small pieces that the kernels share which blend Gaussians along each pixel's ray."""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl

MAX_CHANNELS = 4
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
