"""The projection of 3D Gaussians to ellipses on the screen (EWA splatting) on CUDA: one kernel each way.

The formulas are those of the CPU's kernels, `splatkit_ns.rasterize.cpu.projection`, which explain them.

An opacity is lowered in the same kernel to make up for the blur, because the radius depends on it. Gradients of
cameras are sums over blocks of Gaussians, in an order that does not change from run to run.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from splatkit_ns.cameras import LensModel
from splatkit_ns.rasterize import limits
from splatkit_ns.rasterize._ellipse_triton import determinants, factor_gradient, rows_times
from splatkit_ns.rasterize._lenses_triton import FISHEYE, LENS_NUMBERS, OPENCV, PINHOLE, see, see_backward
from splatkit_ns.rasterize._rows_triton import (
    load3,
    load_matrix,
    rotation,
    store3,
    store_quaternion_gradient,
    times,
    unit_quaternion,
)
from splatkit_ns.rasterize.arguments import RasterSettings

BLOCK = 128
MAX_RADIUS = tl.constexpr(float(limits.MAX_RADIUS))
"""The largest radius in pixels."""
LENS_KINDS: dict[LensModel, int] = {"pinhole": PINHOLE.value, "opencv": OPENCV.value, "opencv_fisheye": FISHEYE.value}
PARTIAL = tl.constexpr(16)
"""Numbers of one block's sums: the upper three rows of a view matrix, then fx, fy, cx and cy."""


@triton.jit(do_not_specialize=["number", "cameras", "width", "height", "antialiased"])
def _forward(
    means_ptr, quats_ptr, scales_ptr, opacities_ptr, views_ptr, Ks_ptr, lenses_ptr,
    radii_ptr, seen_ptr, means2d_ptr, depths_ptr, conics_ptr, lowered_ptr,
    number, cameras, width, height, near, far, radius_clip, eps2d, antialiased,
    LENS: tl.constexpr, AXES: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Project one Gaussian per lane into all cameras; unseen ones get zeros."""
    i = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    live = i < number
    mx, my, mz = load3(means_ptr, i, live)
    sx, sy, sz = load3(scales_ptr, i, live)
    w, x, y, z, _ = unit_quaternion(quats_ptr, i, live)
    opacity = tl.load(opacities_ptr + i, mask=live, other=0.0)
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = rotation(w, x, y, z)
    out = i  # rows of the outputs: their number is Gaussians times cameras
    for camera in range(cameras):
        view, K = views_ptr + 16 * camera, Ks_ptr + 9 * camera
        v00, v01, v02, v10, v11, v12, v20, v21, v22 = load_matrix(view, 4)
        px, py, pz = times(v00, v01, v02, v10, v11, v12, v20, v21, v22, mx, my, mz)
        px += tl.load(view + 3)
        py += tl.load(view + 7)
        pz += tl.load(view + 11)
        fx, cx, fy, cy = tl.load(K), tl.load(K + 2), tl.load(K + 4), tl.load(K + 5)
        x2d, y2d, j00, j01, j02, j10, j11, j12, depth, inside = see(
            lenses_ptr + camera * LENS_NUMBERS, px, py, pz, fx, fy, cx, cy, width, height, LENS
        )
        inside = inside & (depth >= near) & (depth <= far)
        a0, a1, a2, b0, b1, b2 = rows_times(j00, j01, j02, j10, j11, j12, v00, v01, v02, v10, v11, v12, v20, v21, v22)
        u0, u1, u2, t0, t1, t2 = rows_times(a0, a1, a2, b0, b1, b2, r00, r01, r02, r10, r11, r12, r20, r21, r22)
        _c0, _c1, _c2, sharp, blur, xx, xy, yy = determinants(
            u0 * sx, u1 * sy, u2 * sz, t0 * sx, t1 * sy, t2 * sz, eps2d
        )
        xx += eps2d
        yy += eps2d
        det = sharp + blur
        lowered = opacity * tl.where(antialiased != 0, tl.sqrt(sharp / det), 1.0)
        seen = inside & (det > 0.0) & (det < float("inf")) & (lowered * 255.0 >= 1.0)
        # half-widths of the ellipse where alpha falls to 1/255
        extent = tl.sqrt(2.0 * tl.log(tl.where(seen, lowered * 255.0, 1.0)))
        radius_x = tl.minimum(tl.ceil(extent * tl.sqrt(xx)), MAX_RADIUS)
        radius_y = tl.minimum(tl.ceil(extent * tl.sqrt(yy)), MAX_RADIUS)
        seen = (
            seen & ((radius_x > radius_clip) | (radius_y > radius_clip))
            & (x2d + radius_x > 0.0) & (x2d - radius_x < width) & (y2d + radius_y > 0.0) & (y2d - radius_y < height)
        )  # fmt: skip
        radius_x = tl.where(seen, radius_x, 0.0).to(tl.int32)
        radius_y = tl.where(seen, radius_y, 0.0).to(tl.int32)
        if AXES:
            tl.store(radii_ptr + 2 * out, radius_x, mask=live)
            tl.store(radii_ptr + 2 * out + 1, radius_y, mask=live)
        else:
            tl.store(radii_ptr + out, tl.maximum(radius_x, radius_y), mask=live)
        tl.store(seen_ptr + out, seen.to(tl.uint8), mask=live)
        tl.store(means2d_ptr + 2 * out, tl.where(seen, x2d, 0.0), mask=live)
        tl.store(means2d_ptr + 2 * out + 1, tl.where(seen, y2d, 0.0), mask=live)
        tl.store(depths_ptr + out, tl.where(seen, depth, 0.0), mask=live)
        inverse = 1.0 / tl.where(seen, det, 1.0)
        store3(
            conics_ptr, out, tl.where(seen, yy * inverse, 0.0), tl.where(seen, -xy * inverse, 0.0),
            tl.where(seen, xx * inverse, 0.0), live,
        )  # fmt: skip
        tl.store(lowered_ptr + out, tl.where(seen, lowered, 0.0), mask=live)
        out += number


@triton.jit
def _store_view_row(to, seen, g_point, mx, my, mz, j0, j1, g_a0, g_a1, g_a2, g_b0, g_b1, g_b2):
    """Store one row of a view matrix's gradient, summed over the block; (j0, j1) is a column of the Jacobian."""
    tl.store(to, tl.sum(tl.where(seen, g_point * mx + j0 * g_a0 + j1 * g_b0, 0.0)))
    tl.store(to + 1, tl.sum(tl.where(seen, g_point * my + j0 * g_a1 + j1 * g_b1, 0.0)))
    tl.store(to + 2, tl.sum(tl.where(seen, g_point * mz + j0 * g_a2 + j1 * g_b2, 0.0)))
    tl.store(to + 3, tl.sum(tl.where(seen, g_point, 0.0)))


@triton.jit(do_not_specialize=["number", "cameras", "width", "height", "antialiased", "depth_stride"])
def _backward(
    means_ptr, quats_ptr, scales_ptr, opacities_ptr, views_ptr, Ks_ptr, lenses_ptr, seen_ptr,
    g_means2d_ptr, g_depths_ptr, g_conics_ptr, g_lowered_ptr,
    g_means_ptr, g_quats_ptr, g_scales_ptr, g_opacities_ptr, partials_ptr,
    number, cameras, width, height, eps2d, antialiased, depth_stride,
    LENS: tl.constexpr, CAMERAS: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Write the gradients of one Gaussian per lane, summed over the cameras. The gradient of x is called g_x."""
    i = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    live = i < number
    mx, my, mz = load3(means_ptr, i, live)
    sx, sy, sz = load3(scales_ptr, i, live)
    w, x, y, z, length = unit_quaternion(quats_ptr, i, live)
    opacity = tl.load(opacities_ptr + i, mask=live, other=0.0)
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = rotation(w, x, y, z)
    nothing = tl.zeros((B,), tl.float32)
    g_mx, g_my, g_mz, g_sx, g_sy, g_sz, g_opacity = nothing, nothing, nothing, nothing, nothing, nothing, nothing
    g_r00, g_r01, g_r02 = nothing, nothing, nothing
    g_r10, g_r11, g_r12 = nothing, nothing, nothing
    g_r20, g_r21, g_r22 = nothing, nothing, nothing
    row = i
    for camera in range(cameras):
        seen = live & (tl.load(seen_ptr + row, mask=live, other=0) != 0)
        view, K = views_ptr + 16 * camera, Ks_ptr + 9 * camera
        v00, v01, v02, v10, v11, v12, v20, v21, v22 = load_matrix(view, 4)
        px, py, pz = times(v00, v01, v02, v10, v11, v12, v20, v21, v22, mx, my, mz)
        px += tl.load(view + 3)
        py += tl.load(view + 7)
        pz = tl.where(seen, pz + tl.load(view + 11), 1.0)
        fx, cx, fy, cy = tl.load(K), tl.load(K + 2), tl.load(K + 4), tl.load(K + 5)
        lens = lenses_ptr + camera * LENS_NUMBERS
        _x, _y, j00, j01, j02, j10, j11, j12, _depth, _inside = see(
            lens, px, py, pz, fx, fy, cx, cy, width, height, LENS
        )
        a0, a1, a2, b0, b1, b2 = rows_times(j00, j01, j02, j10, j11, j12, v00, v01, v02, v10, v11, v12, v20, v21, v22)
        u0, u1, u2, t0, t1, t2 = rows_times(a0, a1, a2, b0, b1, b2, r00, r01, r02, r10, r11, r12, r20, r21, r22)
        g_a, g_b, g_c = load3(g_conics_ptr, row, seen)
        g_lowered = tl.load(g_lowered_ptr + row, mask=seen, other=0.0)
        g_ratio = tl.where(antialiased != 0, g_lowered * opacity, 0.0)
        # a factor of Q = U S that stands for an unseen Gaussian, whose own might overflow
        q0, q1, q2 = tl.where(seen, u0 * sx, 1.0), tl.where(seen, u1 * sy, 0.0), tl.where(seen, u2 * sz, 0.0)
        p0, p1, p2 = tl.where(seen, t0 * sx, 0.0), tl.where(seen, t1 * sy, 1.0), tl.where(seen, t2 * sz, 0.0)
        g_q0, g_q1, g_q2, g_p0, g_p1, g_p2, ratio = factor_gradient(
            q0, q1, q2, p0, p1, p2, eps2d, g_a, g_b, g_c, g_ratio
        )
        g_opacity += g_lowered * tl.where(antialiased != 0, ratio, 1.0)
        g_sx += tl.where(seen, g_q0 * u0 + g_p0 * t0, 0.0)
        g_sy += tl.where(seen, g_q1 * u1 + g_p1 * t1, 0.0)
        g_sz += tl.where(seen, g_q2 * u2 + g_p2 * t2, 0.0)
        g_u0, g_u1, g_u2, g_t0, g_t1, g_t2 = g_q0 * sx, g_q1 * sy, g_q2 * sz, g_p0 * sx, g_p1 * sy, g_p2 * sz
        # U = A R with A = J W
        g_r00 += tl.where(seen, a0 * g_u0 + b0 * g_t0, 0.0)
        g_r01 += tl.where(seen, a0 * g_u1 + b0 * g_t1, 0.0)
        g_r02 += tl.where(seen, a0 * g_u2 + b0 * g_t2, 0.0)
        g_r10 += tl.where(seen, a1 * g_u0 + b1 * g_t0, 0.0)
        g_r11 += tl.where(seen, a1 * g_u1 + b1 * g_t1, 0.0)
        g_r12 += tl.where(seen, a1 * g_u2 + b1 * g_t2, 0.0)
        g_r20 += tl.where(seen, a2 * g_u0 + b2 * g_t0, 0.0)
        g_r21 += tl.where(seen, a2 * g_u1 + b2 * g_t1, 0.0)
        g_r22 += tl.where(seen, a2 * g_u2 + b2 * g_t2, 0.0)
        g_a0, g_a1, g_a2 = times(r00, r01, r02, r10, r11, r12, r20, r21, r22, g_u0, g_u1, g_u2)
        g_b0, g_b1, g_b2 = times(r00, r01, r02, r10, r11, r12, r20, r21, r22, g_t0, g_t1, g_t2)
        g_j00, g_j01, g_j02 = times(v00, v01, v02, v10, v11, v12, v20, v21, v22, g_a0, g_a1, g_a2)
        g_j10, g_j11, g_j12 = times(v00, v01, v02, v10, v11, v12, v20, v21, v22, g_b0, g_b1, g_b2)
        g_x2d = tl.load(g_means2d_ptr + 2 * row, mask=seen, other=0.0)
        g_y2d = tl.load(g_means2d_ptr + 2 * row + 1, mask=seen, other=0.0)
        g_depth = tl.load(g_depths_ptr + depth_stride * row, mask=seen, other=0.0)
        g_px, g_py, g_pz, g_fx, g_fy, g_cx, g_cy = see_backward(
            lens, px, py, pz, fx, fy, cx, cy, width, height, g_x2d, g_y2d, g_depth,
            g_j00, g_j01, g_j02, g_j10, g_j11, g_j12, LENS,
        )  # fmt: skip
        g_px, g_py, g_pz = tl.where(seen, g_px, 0.0), tl.where(seen, g_py, 0.0), tl.where(seen, g_pz, 0.0)
        d0, d1, d2 = times(v00, v10, v20, v01, v11, v21, v02, v12, v22, g_px, g_py, g_pz)
        g_mx += d0
        g_my += d1
        g_mz += d2
        if CAMERAS:
            # W acts twice: on the mean, and as A = J W on the covariance
            to = partials_ptr + (camera * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * PARTIAL
            _store_view_row(to, seen, g_px, mx, my, mz, j00, j10, g_a0, g_a1, g_a2, g_b0, g_b1, g_b2)
            _store_view_row(to + 4, seen, g_py, mx, my, mz, j01, j11, g_a0, g_a1, g_a2, g_b0, g_b1, g_b2)
            _store_view_row(to + 8, seen, g_pz, mx, my, mz, j02, j12, g_a0, g_a1, g_a2, g_b0, g_b1, g_b2)
            tl.store(to + 12, tl.sum(tl.where(seen, g_fx, 0.0)))
            tl.store(to + 13, tl.sum(tl.where(seen, g_fy, 0.0)))
            tl.store(to + 14, tl.sum(tl.where(seen, g_cx, 0.0)))
            tl.store(to + 15, tl.sum(tl.where(seen, g_cy, 0.0)))
        row += number
    store3(g_means_ptr, i, g_mx, g_my, g_mz, live)
    store3(g_scales_ptr, i, g_sx, g_sy, g_sz, live)
    tl.store(g_opacities_ptr + i, g_opacity, mask=live)
    store_quaternion_gradient(
        g_quats_ptr, i, w, x, y, z, length, g_r00, g_r01, g_r02, g_r10, g_r11, g_r12, g_r20, g_r21, g_r22, live
    )  # fmt: skip


class ProjectGaussians(torch.autograd.Function):
    """(means, quats, scales, opacities, viewmats, Ks, lenses, …) -> projected values, see `projection`.

    Tensors are float32 and contiguous. Gradients are for the first six. lenses (C, LENS_NUMBERS) are `LENS_KINDS`'
    coefficients and limits, or None for pinhole cameras.
    """

    @staticmethod
    def forward(
        ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, viewmats: Tensor, Ks: Tensor,
        lenses: Tensor | None, kind: int, size: tuple[int, int], settings: RasterSettings, axes: bool,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        number, cameras = len(means), len(viewmats)
        limits = (float(settings.near_plane), float(settings.far_plane), float(settings.radius_clip))
        blur = (float(settings.eps2d), int(settings.is_antialiased))
        radii = torch.empty((cameras, number, 2) if axes else (cameras, number), dtype=torch.int32, device=means.device)
        seen = torch.empty(cameras, number, dtype=torch.bool, device=means.device)
        means2d, depths = means.new_empty(cameras, number, 2), means.new_empty(cameras, number)
        conics, lowered = means.new_empty(cameras, number, 3), means.new_empty(cameras, number)
        with torch.cuda.device_of(means):  # does nothing for CPU tensors, which Triton's interpreter accepts
            _forward[(triton.cdiv(number, BLOCK),)](
                means, quats, scales, opacities, viewmats, Ks, Ks if lenses is None else lenses,
                radii, seen.view(torch.uint8), means2d, depths, conics, lowered,
                number, cameras, *size, *limits, *blur, LENS=kind, AXES=axes, B=BLOCK,
            )  # fmt: skip
        ctx.mark_non_differentiable(radii, seen)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(means, quats, scales, opacities, viewmats, Ks, seen, lenses)
        ctx.size, ctx.blur, ctx.kind = size, blur, kind
        return radii, seen, means2d, depths, conics, lowered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _radii: Any, _seen: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        means, quats, scales, opacities, viewmats, Ks, seen, lenses = ctx.saved_tensors
        cameras, number = seen.shape
        blocks = triton.cdiv(number, BLOCK)
        has_cameras = ctx.needs_input_grad[4] or ctx.needs_input_grad[5]
        g_means2d, g_conics, g_lowered = (
            means.new_zeros(shape) if gradient is None else gradient.contiguous()
            for gradient, shape in zip(
                (gradients[0], gradients[2], gradients[3]),
                ((*seen.shape, 2), (*seen.shape, 3), seen.shape),
                strict=True,
            )
        )
        # depths' gradients are often a strided channel of the colours' ones, or missing: neither needs a copy
        g_depths = means.new_zeros(()) if gradients[1] is None else gradients[1].reshape(-1)
        depth_stride = 0 if gradients[1] is None else g_depths.stride(0)
        g_means, g_quats, g_scales = torch.empty_like(means), torch.empty_like(quats), torch.empty_like(scales)
        g_opacities = torch.empty_like(opacities)
        partials = means.new_empty(cameras, blocks, PARTIAL.value) if has_cameras else means
        with torch.cuda.device_of(means):
            _backward[(blocks,)](
                means, quats, scales, opacities, viewmats, Ks, Ks if lenses is None else lenses, seen.view(torch.uint8),
                g_means2d, g_depths, g_conics, g_lowered, g_means, g_quats, g_scales, g_opacities, partials,
                number, cameras, *ctx.size, *ctx.blur, depth_stride, LENS=ctx.kind, CAMERAS=has_cameras, B=BLOCK,
            )  # fmt: skip
        g_views, g_Ks = _camera_gradients(partials, viewmats, Ks) if has_cameras else (None, None)
        return g_means, g_quats, g_scales, g_opacities, g_views, g_Ks, *(None,) * 5


def _camera_gradients(partials: Tensor, viewmats: Tensor, Ks: Tensor) -> tuple[Tensor, Tensor]:
    """Add up the blocks of `_backward`."""
    sums = partials.sum(1, dtype=torch.float64).to(viewmats.dtype)
    g_views, g_Ks = torch.zeros_like(viewmats), torch.zeros_like(Ks)
    g_views[:, :3] = sums[:, :12].view(-1, 3, 4)
    for column, (i, k) in enumerate(((0, 0), (1, 1), (0, 2), (1, 2))):
        g_Ks[:, i, k] = sums[:, 12 + column]
    return g_views, g_Ks


def first_launches(device: str, axes: bool, lens: LensModel = "pinhole") -> list[Callable[[], object]]:
    """Return a launch of each kernel with the kinds of arguments that training has, for Triton to compile it.

    The launches project one Gaussian into one camera.

    Args:
        device: the device to launch on.
        axes: whether radii are (C, N, 2).
        lens: the lens model.
    """
    kind = LENS_KINDS[lens]
    ones, number = torch.ones(PARTIAL.value, device=device), torch.ones(2, dtype=torch.int32, device=device)
    seen = number.to(torch.uint8)
    gaussian, sizes = (ones,) * 7, (1, 1, 1, 1)
    forward = (*gaussian, number, seen, *(torch.empty_like(ones) for _ in range(4)), *sizes, *(1.0,) * 4, 0)
    gradients = tuple(torch.empty_like(ones) for _ in range(5))
    backward = (*gaussian, seen, *(ones,) * 4, *gradients, *sizes, 1.0, 0, 0)
    return [
        *(partial(_backward[(1,)], *backward, LENS=kind, CAMERAS=cameras, B=BLOCK) for cameras in (True, False)),
        partial(_forward[(1,)], *forward, LENS=kind, AXES=axes, B=BLOCK),
    ]
