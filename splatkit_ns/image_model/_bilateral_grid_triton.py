"""A bilateral grid on CUDA as Triton kernels; see `bilateral_grid`.

One kernel makes the image, and one the gradient of the render: both read the maps of the eight nodes around a pixel,
which lie in a row of 12 numbers each. The gradient of the nodes is made in two kernels. In the first, a program adds up
the gradients of a column of pixels between two rows of nodes, for one level of luminance and with the shares that the
nodes above and below have. In the second, a program adds up what columns give to a node. The order of all additions
is fixed, so that gradients have the same bits in every run.

Of the 12 numbers of a map, 4 c + j is the factor of the render's channel j in the change of channel c, or for j = 3 the
offset.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from splatkit_ns.rasterize._rows_triton import load3, store3

BLOCK = 256
COLUMNS = 128
"""The number of pixel columns of a program that adds up columns."""
ROWS = 4
"""The number of rows of pixels that are loaded together."""
CHUNK = 64
"""The number of pixel columns that are added to a node at a time."""


@triton.jit
def _place(pixel, nodes, focal, center, extent):
    """The places of pixels along one axis of the grid, from 0 to nodes - 1; see `BilateralGrid._places`."""
    place = (pixel + 0.5 - center) / (focal * extent)
    return (tl.minimum(tl.maximum(place, -1.0), 1.0) + 1.0) * ((nodes - 1) * 0.5)


@triton.jit
def _level(red, green, blue, levels):
    """The places of colours along the luminance, from 0 to levels - 1."""
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    return tl.minimum(tl.maximum(luminance, 0.0), 1.0) * (levels - 1)


@triton.jit
def _cell(place, nodes):
    """The last node before each place but one at least before the end, and the share of the next node."""
    node = tl.minimum(place.to(tl.int32), nodes - 2)
    return node, place - node


@triton.jit
def _first_pixel(node, nodes, size, focal, center, extent):
    """The first pixel of an axis whose place is at least that of a node; nodes at the ends have all that is beyond."""
    place = (2.0 * node / (nodes - 1.0) - 1.0) * focal * extent + center - 0.5
    pixel = tl.ceil(tl.minimum(tl.maximum(place, 0.0), size.to(tl.float32))).to(tl.int32)
    return tl.where(node <= 0, 0, tl.where(node >= nodes - 1, size, pixel))


@triton.jit
def _maps(red, green, blue, i, grid_ptr, K_ptr, width, rows, columns, levels, extent_x, extent_y):
    """The maps of pixels: the factors of red, green and blue and the offset (B, 4), for each of three channels."""
    x = _place((i % width).to(tl.float32), columns, tl.load(K_ptr), tl.load(K_ptr + 2), extent_x)
    y = _place((i // width).to(tl.float32), rows, tl.load(K_ptr + 4), tl.load(K_ptr + 5), extent_y)
    column, right = _cell(x, columns)
    row, below = _cell(y, rows)
    level, above = _cell(_level(red, green, blue, levels), levels)
    first = grid_ptr + 12 * ((row * columns + column) * levels + level)
    j = tl.arange(0, 4)[None, :]
    for_red, for_green, for_blue = 0.0, 0.0, 0.0
    for corner in tl.static_range(8):
        share = (right if corner // 4 == 1 else 1.0 - right) * (below if corner // 2 % 2 == 1 else 1.0 - below)
        share = (share * (above if corner % 2 == 1 else 1.0 - above))[:, None]
        node = (first + 12 * ((corner // 2 % 2 * columns + corner // 4) * levels + corner % 2))[:, None] + j
        for_red += share * tl.load(node)
        for_green += share * tl.load(node + 4)
        for_blue += share * tl.load(node + 8)
    return for_red, for_green, for_blue


@triton.jit(do_not_specialize=["K_ptr", "pixels", "width", "rows", "columns", "levels"])
def _image(
    render_ptr, grid_ptr, K_ptr, out_ptr, pixels, width, rows, columns, levels, extent_x, extent_y, B: tl.constexpr
):  # fmt: skip
    i = tl.program_id(0) * B + tl.arange(0, B)
    live = i < pixels
    red, green, blue = load3(render_ptr, i, live)
    for_red, for_green, for_blue = _maps(
        red, green, blue, i, grid_ptr, K_ptr, width, rows, columns, levels, extent_x, extent_y
    )
    j = tl.arange(0, 4)[None, :]
    factors = tl.where(
        j == 0, red[:, None], tl.where(j == 1, green[:, None], tl.where(j == 2, blue[:, None], 1.0))
    )  # fmt: skip
    red += tl.sum(for_red * factors, axis=1)
    green += tl.sum(for_green * factors, axis=1)
    blue += tl.sum(for_blue * factors, axis=1)
    store3(out_ptr, i, red, green, blue, live)


@triton.jit(do_not_specialize=["K_ptr", "pixels", "width", "rows", "columns", "levels"])
def _render_gradients(
    render_ptr, grid_ptr, K_ptr, g_ptr, g_render_ptr, pixels, width, rows, columns, levels, extent_x, extent_y,
    B: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * B + tl.arange(0, B)
    live = i < pixels
    red, green, blue = load3(render_ptr, i, live)
    for_red, for_green, for_blue = _maps(
        red, green, blue, i, grid_ptr, K_ptr, width, rows, columns, levels, extent_x, extent_y
    )
    red, green, blue = load3(g_ptr, i, live)
    j = tl.arange(0, 4)[None, :]
    changes = for_red * red[:, None] + for_green * green[:, None] + for_blue * blue[:, None]
    red += tl.sum(tl.where(j == 0, changes, 0.0), axis=1)
    green += tl.sum(tl.where(j == 1, changes, 0.0), axis=1)
    blue += tl.sum(tl.where(j == 2, changes, 0.0), axis=1)
    store3(g_render_ptr, i, red, green, blue, live)


@triton.jit
def _store_column(out_ptr, x, width, for_red, for_green, for_blue, j):
    """Store the sums of columns of pixels, as 12 rows of the image's width."""
    live = x < width
    tl.store(out_ptr + j * width + x, for_red, mask=live)
    tl.store(out_ptr + (4 + j) * width + x, for_green, mask=live)
    tl.store(out_ptr + (8 + j) * width + x, for_blue, mask=live)


@triton.jit(do_not_specialize=["K_ptr", "height", "width", "rows", "levels"])
def _add_columns(
    render_ptr, K_ptr, g_ptr, sums_ptr, height, width, rows, levels, extent_y, X: tl.constexpr, U: tl.constexpr
):
    """Add up the gradients of maps between two rows of nodes: (rows - 1, levels, 2, 12, width).

    The two are sums with the shares of the nodes above and below.
    """
    row, level = tl.program_id(1), tl.program_id(2)
    x = tl.program_id(0) * X + tl.arange(0, X)
    focal, center = tl.load(K_ptr + 4), tl.load(K_ptr + 5)
    begin = _first_pixel(row, rows, height, focal, center, extent_y)
    end = _first_pixel(row + 1, rows, height, focal, center, extent_y)
    j = tl.arange(0, 4)[:, None]
    upper_red = tl.zeros((4, X), tl.float32)
    upper_green = tl.zeros((4, X), tl.float32)
    upper_blue = tl.zeros((4, X), tl.float32)
    lower_red = tl.zeros((4, X), tl.float32)
    lower_green = tl.zeros((4, X), tl.float32)
    lower_blue = tl.zeros((4, X), tl.float32)
    for start in range(begin, end, U):
        for u in tl.static_range(U):  # loads do not wait for one another
            y = tl.full((X,), start + u, tl.int32)
            live = (x < width) & (y < end)
            red, green, blue = load3(render_ptr, y * width + x, live)
            g_red, g_green, g_blue = load3(g_ptr, y * width + x, live)
            share = tl.maximum(1.0 - tl.abs(_level(red, green, blue, levels) - level), 0.0)
            below = tl.minimum(tl.maximum(_place(y.to(tl.float32), rows, focal, center, extent_y) - row, 0.0), 1.0)
            lower = share * below
            upper = share - lower
            factors = tl.where(
                j == 0, red[None, :], tl.where(j == 1, green[None, :], tl.where(j == 2, blue[None, :], 1.0))
            )  # fmt: skip
            upper_red += (upper * g_red)[None, :] * factors
            upper_green += (upper * g_green)[None, :] * factors
            upper_blue += (upper * g_blue)[None, :] * factors
            lower_red += (lower * g_red)[None, :] * factors
            lower_green += (lower * g_green)[None, :] * factors
            lower_blue += (lower * g_blue)[None, :] * factors
    out = sums_ptr + (row * levels + level) * 24 * width
    _store_column(out, x[None, :], width, upper_red, upper_green, upper_blue, j)
    _store_column(out + 12 * width, x[None, :], width, lower_red, lower_green, lower_blue, j)


@triton.jit(do_not_specialize=["K_ptr", "width", "rows", "columns", "levels"])
def _add_to_nodes(sums_ptr, K_ptr, g_grid_ptr, width, rows, columns, levels, extent_x, X: tl.constexpr):
    """Add up what columns of pixels give to a node: (rows - 1, levels, 2, 12, width) -> (rows, columns, levels, 12)."""
    level, column, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    focal, center = tl.load(K_ptr), tl.load(K_ptr + 2)
    begin = _first_pixel(column - 1, columns, width, focal, center, extent_x)
    end = _first_pixel(column + 1, columns, width, focal, center, extent_x)
    k = tl.arange(0, 16)
    before = sums_ptr + (((row - 1) * levels + level) * 24 + 12 + k[:, None]) * width
    after = sums_ptr + ((row * levels + level) * 24 + k[:, None]) * width
    has_before, has_after = tl.where(row > 0, 12, 0), tl.where(row < rows - 1, 12, 0)
    total = tl.zeros((16, X), tl.float32)
    for start in range(begin, end, X):
        x = start + tl.arange(0, X)
        share = tl.maximum(1.0 - tl.abs(_place(x.to(tl.float32), columns, focal, center, extent_x) - column), 0.0)
        inside = (x < end)[None, :]
        sums = tl.load(before + x[None, :], mask=(k < has_before)[:, None] & inside, other=0.0)
        sums += tl.load(after + x[None, :], mask=(k < has_after)[:, None] & inside, other=0.0)
        total += share[None, :] * sums
    tl.store(g_grid_ptr + ((row * columns + column) * levels + level) * 12 + k, tl.sum(total, axis=1), mask=k < 12)


class GridImage(torch.autograd.Function):
    """(render, grid, K, extent) -> the image of a photograph, (1, H, W, 3). All float32.

    Args: the render (1, H, W, 3), the maps of the nodes (rows, columns, levels, 12), the intrinsics (3, 3), and the
    extent of the grid from the principal point along both axes, in focal lengths, as numbers. The first two get
    gradients.
    """

    @staticmethod
    def forward(ctx: Any, render: Tensor, grid: Tensor, K: Tensor, extent: tuple[float, float]) -> Tensor:
        render, grid, K = render.contiguous(), grid.contiguous(), K.contiguous()
        image = torch.empty_like(render)
        pixels, width = render.numel() // 3, render.shape[2]
        with torch.cuda.device_of(render):  # does nothing for CPU tensors, which Triton's interpreter accepts
            _image[(triton.cdiv(pixels, BLOCK),)](
                render, grid, K, image, pixels, width, *grid.shape[:3], *extent, B=BLOCK
            )  # fmt: skip
        ctx.save_for_backward(render, grid, K)
        ctx.extent = extent
        return image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_image: Tensor) -> tuple[Tensor | None, ...]:
        render, grid, K = ctx.saved_tensors
        (height, width), pixels, (rows, columns, levels) = render.shape[1:3], render.numel() // 3, grid.shape[:3]
        extent_x, extent_y = ctx.extent
        g_image = g_image.contiguous()
        g_render, g_grid = torch.empty_like(render), torch.empty_like(grid)
        sums = render.new_empty(rows - 1, levels, 2, 12, width)
        with torch.cuda.device_of(render):
            _render_gradients[(triton.cdiv(pixels, BLOCK),)](
                render, grid, K, g_image, g_render, pixels, width, rows, columns, levels, extent_x, extent_y, B=BLOCK
            )
            _add_columns[(triton.cdiv(width, COLUMNS), rows - 1, levels)](
                render, K, g_image, sums, height, width, rows, levels, extent_y, X=COLUMNS, U=ROWS
            )
            _add_to_nodes[(levels, columns, rows)](
                sums, K, g_grid, width, rows, columns, levels, extent_x, X=CHUNK, num_warps=1
            )
        return g_render, g_grid, None, None


# ----------------------------------------------------------------------------------------------------- total variation


@triton.jit
def _differences(nodes_ptr, e, live, value, place, size, stride):
    """The differences from the next node and the one before along an axis, 0 at its ends."""
    has_next, has_previous = live & (place < size - 1), live & (place > 0)
    after = tl.load(nodes_ptr + e + stride, mask=has_next, other=0.0) - value
    before = value - tl.load(nodes_ptr + e - stride, mask=has_previous, other=0.0)
    return tl.where(has_next, after, 0.0), tl.where(has_previous, before, 0.0)


@triton.jit(do_not_specialize=["rows", "columns", "levels"])
def _variation(nodes_ptr, gradients_ptr, sums_ptr, rows, columns, levels, B: tl.constexpr):
    """Write the gradients of the total variation, and each program's sum of it."""
    e = tl.program_id(0) * B + tl.arange(0, B)
    column = e % columns
    row = e // columns % rows
    level = e // (columns * rows) % levels
    live = e < 12 * levels * rows * columns
    value = tl.load(nodes_ptr + e, mask=live, other=0.0)
    x_after, x_before = _differences(nodes_ptr, e, live, value, column, columns, 1)
    y_after, y_before = _differences(nodes_ptr, e, live, value, row, rows, columns)
    z_after, z_before = _differences(nodes_ptr, e, live, value, level, levels, rows * columns)
    of_x = 1.0 / (12.0 * levels * rows * (columns - 1))
    of_y = 1.0 / (12.0 * levels * (rows - 1) * columns)
    of_z = 1.0 / (12.0 * (levels - 1) * rows * columns)
    variation = of_x * x_after * x_after + of_y * y_after * y_after + of_z * z_after * z_after
    gradient = of_x * (x_before - x_after) + of_y * (y_before - y_after) + of_z * (z_before - z_after)
    tl.store(gradients_ptr + e, 2.0 * gradient, mask=live)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(variation))


class TotalVariation(torch.autograd.Function):
    """Nodes (1, 12, levels, rows, columns) -> the mean squared differences of neighbours, summed over three axes."""

    @staticmethod
    def forward(ctx: Any, nodes: Tensor) -> Tensor:
        nodes = nodes.contiguous()
        levels, rows, columns = nodes.shape[2:]
        programs = triton.cdiv(nodes.numel(), BLOCK)
        gradients, sums = torch.empty_like(nodes), nodes.new_empty(programs)
        with torch.cuda.device_of(nodes):
            _variation[(programs,)](nodes, gradients, sums, rows, columns, levels, B=BLOCK)
        ctx.save_for_backward(gradients)
        return sums.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_variation: Tensor) -> Tensor:
        (gradients,) = ctx.saved_tensors
        return g_variation * gradients


def first_launches(device: str) -> None:
    """Launch each kernel with the kinds of arguments that training has, for Triton to compile it."""
    render = torch.zeros(1, 1, 1, 3, device=device, requires_grad=True)
    grid = torch.zeros(2, 2, 2, 12, device=device, requires_grad=True)
    nodes = torch.zeros(1, 12, 2, 2, 2, device=device, requires_grad=True)
    image: Any = GridImage.apply(render, grid, torch.eye(3, device=device), (1.0, 1.0))
    variation: Any = TotalVariation.apply(nodes)
    (image.sum() + variation).backward()
