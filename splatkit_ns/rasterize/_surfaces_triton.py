"""Images of normals on CUDA: `splatkit_ns.rasterize.surfaces` with one Triton kernel per function and direction."""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 256


@triton.jit
def _turned(view_ptr, x, y, z, TO_WORLD: tl.constexpr):
    """Turn a vector from the camera's axes into the world's, or back."""
    v00, v01, v02 = tl.load(view_ptr), tl.load(view_ptr + 1), tl.load(view_ptr + 2)
    v10, v11, v12 = tl.load(view_ptr + 4), tl.load(view_ptr + 5), tl.load(view_ptr + 6)
    v20, v21, v22 = tl.load(view_ptr + 8), tl.load(view_ptr + 9), tl.load(view_ptr + 10)
    if TO_WORLD:
        a, b, c = v00 * x + v10 * y + v20 * z, v01 * x + v11 * y + v21 * z, v02 * x + v12 * y + v22 * z
    else:
        a, b, c = v00 * x + v01 * y + v02 * z, v10 * x + v11 * y + v12 * z, v20 * x + v21 * y + v22 * z
    return a, b, c


@triton.jit(do_not_specialize=["pixels"])
def _turn(vectors_ptr, views_ptr, out_ptr, pixels, TO_WORLD: tl.constexpr, B: tl.constexpr):
    """Turn one vector per lane."""
    camera = tl.program_id(1)
    i = tl.program_id(0) * B + tl.arange(0, B)
    live = i < pixels
    i += camera.to(tl.int64) * pixels
    x = tl.load(vectors_ptr + 3 * i, mask=live, other=0.0)
    y = tl.load(vectors_ptr + 3 * i + 1, mask=live, other=0.0)
    z = tl.load(vectors_ptr + 3 * i + 2, mask=live, other=0.0)
    x, y, z = _turned(views_ptr + 16 * camera, x, y, z, TO_WORLD)
    tl.store(out_ptr + 3 * i, x, mask=live)
    tl.store(out_ptr + 3 * i + 1, y, mask=live)
    tl.store(out_ptr + 3 * i + 2, z, mask=live)


@triton.jit
def _slopes(K_ptr, x, y):
    """Return the ray through pixel (x, y) at depth 1, and the distances between neighbouring rays, across and down."""
    step_x, step_y = 1.0 / tl.load(K_ptr), 1.0 / tl.load(K_ptr + 4)
    slope_x = (x.to(tl.float32) + 0.5 - tl.load(K_ptr + 2)) * step_x
    slope_y = (y.to(tl.float32) + 0.5 - tl.load(K_ptr + 5)) * step_y
    return slope_x, slope_y, step_x, step_y


@triton.jit
def _normal(depths_ptr, i, width, slope_x, slope_y, step_x, step_y, inner):
    """Return differences and sums of the four neighbours' depths, and the normal before normalisation.

    See `splatkit_ns.rasterize.surfaces.normals_of_depth`.
    """
    right = tl.load(depths_ptr + i + 1, mask=inner, other=0.0)
    left = tl.load(depths_ptr + i - 1, mask=inner, other=0.0)
    below = tl.load(depths_ptr + i + width, mask=inner, other=0.0)
    above = tl.load(depths_ptr + i - width, mask=inner, other=0.0)
    across, down = right - left, below - above
    wide, high = (right + left) * step_x, (below + above) * step_y
    nx, ny = across * high, down * wide
    nz = -(wide * high + slope_x * nx + slope_y * ny)
    return across, down, wide, high, nx, ny, nz


@triton.jit(do_not_specialize=["width", "height"])
def _normals(depths_ptr, Ks_ptr, views_ptr, out_ptr, width, height, WORLD: tl.constexpr, B: tl.constexpr):
    """Write the normal of one pixel per lane; 0 on the border."""
    camera = tl.program_id(1)
    i = tl.program_id(0) * B + tl.arange(0, B)
    live = i < width * height
    x, y = i % width, i // width
    inner = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
    i += camera.to(tl.int64) * width * height
    slope_x, slope_y, step_x, step_y = _slopes(Ks_ptr + 9 * camera, x, y)
    _a, _d, _w, _h, nx, ny, nz = _normal(depths_ptr, i, width, slope_x, slope_y, step_x, step_y, inner)
    length = tl.maximum(tl.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
    nx, ny, nz = nx / length, ny / length, nz / length
    if WORLD:
        nx, ny, nz = _turned(views_ptr + 16 * camera, nx, ny, nz, True)
    tl.store(out_ptr + 3 * i, nx, mask=live)
    tl.store(out_ptr + 3 * i + 1, ny, mask=live)
    tl.store(out_ptr + 3 * i + 2, nz, mask=live)


@triton.jit
def _gradients(
    depths_ptr, g_ptr, K_ptr, view_ptr, start, x, y, width, height, live, WORLD: tl.constexpr
):  # fmt: skip
    """Return the gradients of the differences and sums that make the normal at pixel (x, y); 0 outside."""
    inner = live & (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
    i = start + y * width + x
    slope_x, slope_y, step_x, step_y = _slopes(K_ptr, x, y)
    across, down, wide, high, nx, ny, nz = _normal(depths_ptr, i, width, slope_x, slope_y, step_x, step_y, inner)
    gx = tl.load(g_ptr + 3 * i, mask=inner, other=0.0)
    gy = tl.load(g_ptr + 3 * i + 1, mask=inner, other=0.0)
    gz = tl.load(g_ptr + 3 * i + 2, mask=inner, other=0.0)
    if WORLD:
        gx, gy, gz = _turned(view_ptr, gx, gy, gz, False)
    length = tl.sqrt(nx * nx + ny * ny + nz * nz)
    inverse = 1.0 / tl.maximum(length, 1e-12)
    along = tl.where(length > 1e-12, (gx * nx + gy * ny + gz * nz) * inverse * inverse, 0.0)
    gx, gy, gz = (gx - along * nx) * inverse, (gy - along * ny) * inverse, (gz - along * nz) * inverse
    gx -= slope_x * gz
    gy -= slope_y * gz
    g_across, g_down = high * gx, wide * gy
    g_wide, g_high = (down * gy - high * gz) * step_x, (across * gx - wide * gz) * step_y
    return g_across, g_down, g_wide, g_high


@triton.jit(do_not_specialize=["width", "height"])
def _normals_backward(
    depths_ptr, Ks_ptr, views_ptr, g_ptr, g_depths_ptr, width, height, WORLD: tl.constexpr, B: tl.constexpr
):  # fmt: skip
    """Write the depth gradient of one pixel per lane, gathered from the normals of its four neighbours."""
    camera = tl.program_id(1)
    i = tl.program_id(0) * B + tl.arange(0, B)
    live = i < width * height
    x, y = i % width, i // width
    start = camera.to(tl.int64) * width * height
    K, view = Ks_ptr + 9 * camera, views_ptr + 16 * camera
    across, _d, wide, _h = _gradients(depths_ptr, g_ptr, K, view, start, x - 1, y, width, height, live, WORLD)
    total = wide + across
    across, _d, wide, _h = _gradients(depths_ptr, g_ptr, K, view, start, x + 1, y, width, height, live, WORLD)
    total += wide - across
    _a, down, _w, high = _gradients(depths_ptr, g_ptr, K, view, start, x, y - 1, width, height, live, WORLD)
    total += high + down
    _a, down, _w, high = _gradients(depths_ptr, g_ptr, K, view, start, x, y + 1, width, height, live, WORLD)
    total += high - down
    tl.store(g_depths_ptr + start + i, total, mask=live)


class Turn(torch.autograd.Function):
    """(vectors (C, H, W, 3), viewmats, whether into the world) -> the vectors turned; gradient for the vectors."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, viewmats: Tensor, to_world: bool) -> Tensor:
        ctx.save_for_backward(viewmats)
        ctx.to_world = to_world
        return _turn_by_kernel(vectors, viewmats, to_world)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_out: Tensor) -> tuple[Tensor | None, ...]:
        return _turn_by_kernel(g_out, *ctx.saved_tensors, not ctx.to_world), None, None


def _turn_by_kernel(vectors: Tensor, viewmats: Tensor, to_world: bool) -> Tensor:
    vectors = vectors.contiguous()
    out = torch.empty_like(vectors)
    cameras, pixels = len(vectors), vectors[0, ..., 0].numel()
    with torch.cuda.device_of(vectors):  # does nothing for CPU tensors, which Triton's interpreter accepts
        _turn[(triton.cdiv(pixels, BLOCK), cameras)](
            vectors, viewmats, out, pixels, TO_WORLD=to_world, B=BLOCK
        )  # fmt: skip
    return out


class NormalsOfDepth(torch.autograd.Function):
    """(depths (C, H, W, 1), Ks, viewmats) -> normals (C, H, W, 3), in the camera's axes if there are no viewmats.

    The gradient is for the depths. Matrices are contiguous.
    """

    @staticmethod
    def forward(ctx: Any, depths: Tensor, Ks: Tensor, viewmats: Tensor | None = None) -> Tensor:
        depths = depths.contiguous()
        ctx.world = viewmats is not None
        viewmats = Ks if viewmats is None else viewmats  # any pointer: the kernel does not read it
        ctx.save_for_backward(depths, Ks, viewmats)
        cameras, height, width, _ = depths.shape
        normals = depths.new_empty(cameras, height, width, 3)
        with torch.cuda.device_of(depths):
            _normals[(triton.cdiv(height * width, BLOCK), cameras)](
                depths, Ks, viewmats, normals, width, height, WORLD=ctx.world, B=BLOCK
            )  # fmt: skip
        return normals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_normals: Tensor) -> tuple[Tensor | None, ...]:
        depths, Ks, viewmats = ctx.saved_tensors
        cameras, height, width, _ = depths.shape
        g_depths = torch.empty_like(depths)
        with torch.cuda.device_of(depths):
            _normals_backward[(triton.cdiv(height * width, BLOCK), cameras)](
                depths, Ks, viewmats, g_normals.contiguous(), g_depths, width, height, WORLD=ctx.world, B=BLOCK
            )  # fmt: skip
        return g_depths, None, None
