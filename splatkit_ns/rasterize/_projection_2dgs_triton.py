"""The projection of 2D Gaussians on CUDA: one Triton kernel forward, one backward.

The formulas are those of `splatkit_ns.rasterize.projection_2dgs.project_in_torch`, whose hundred small operations are
bound by their launches.
"""

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

from splatkit_ns.rasterize._rows_triton import (
    load3,
    load_matrix,
    rotation,
    store3,
    store_quaternion_gradient,
    times,
    unit_quaternion,
)

BLOCK = 128


@triton.jit
def _axes(v00, v01, v02, v10, v11, v12, v20, v21, v22, w, x, y, z):
    """Return the disc's two tangents and its normal, of length 1, turned by a view matrix."""
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = rotation(w, x, y, z)
    ux, uy, uz = times(v00, v01, v02, v10, v11, v12, v20, v21, v22, r00, r10, r20)
    vx, vy, vz = times(v00, v01, v02, v10, v11, v12, v20, v21, v22, r01, r11, r21)
    nx, ny, nz = times(v00, v01, v02, v10, v11, v12, v20, v21, v22, r02, r12, r22)
    return ux, uy, uz, vx, vy, vz, nx, ny, nz


@triton.jit(do_not_specialize=["number", "cameras"])
def _forward(
    means_ptr, quats_ptr, scales_ptr, views_ptr, Ks_ptr, means2d_ptr, depths_ptr, rays_ptr, normals_ptr,
    number, cameras, B: tl.constexpr,
):  # fmt: skip
    """Project one disc per lane into all cameras."""
    i = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    live = i < number
    mx, my, mz = load3(means_ptr, i, live)
    sx, sy, _ = load3(scales_ptr, i, live)
    w, x, y, z, _ = unit_quaternion(quats_ptr, i, live)
    out = i  # rows of the outputs: their number is discs times cameras
    for camera in range(cameras):
        view = views_ptr + 16 * camera
        v00, v01, v02, v10, v11, v12, v20, v21, v22 = load_matrix(view, 4)
        k00, k01, k02, k10, k11, k12, k20, k21, k22 = load_matrix(Ks_ptr + 9 * camera, 3)
        ux, uy, uz, vx, vy, vz, nx, ny, nz = _axes(v00, v01, v02, v10, v11, v12, v20, v21, v22, w, x, y, z)
        cx, cy, cz = times(v00, v01, v02, v10, v11, v12, v20, v21, v22, mx, my, mz)
        cx += tl.load(view + 3)
        cy += tl.load(view + 7)
        cz += tl.load(view + 11)
        a0, b0, d0 = times(k00, k01, k02, k10, k11, k12, k20, k21, k22, ux * sx, uy * sx, uz * sx)
        a1, b1, d1 = times(k00, k01, k02, k10, k11, k12, k20, k21, k22, vx * sy, vy * sy, vz * sy)
        a2, b2, d2 = times(k00, k01, k02, k10, k11, k12, k20, k21, k22, cx, cy, cz)
        scale = d0 * d0 + d1 * d1 - d2 * d2
        has_box = scale < 0.0  # else it reaches the plane of the camera
        inverse = 1.0 / tl.where(has_box, scale, -1.0)
        across, down = a0 * d0 + a1 * d1 - a2 * d2, b0 * d0 + b1 * d1 - b2 * d2
        tl.store(means2d_ptr + 2 * out, across * inverse, mask=live)
        tl.store(means2d_ptr + 2 * out + 1, down * inverse, mask=live)
        tl.store(depths_ptr + out, cz, mask=live)
        store3(rays_ptr, 3 * out, a0, a1, a2, live)
        store3(rays_ptr, 3 * out + 1, b0, b1, b2, live)
        store3(rays_ptr, 3 * out + 2, d0, d1, d2, live)
        facing = tl.where(nx * cx + ny * cy + nz * cz < 0.0, 1.0, -1.0)
        store3(normals_ptr, out, nx * facing, ny * facing, nz * facing, live)
        out += number


@triton.jit(do_not_specialize=["number", "cameras", "depth_stride"])
def _backward(
    means_ptr, quats_ptr, scales_ptr, views_ptr, Ks_ptr,
    g_means2d_ptr, g_depths_ptr, g_rays_ptr, g_normals_ptr,
    g_means_ptr, g_quats_ptr, g_scales_ptr, g_probe_ptr, number, cameras, depth_stride, B: tl.constexpr,
):  # fmt: skip
    """Write the gradients of one disc per lane, summed over the cameras. The gradient of x is called g_x."""
    i = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    live = i < number
    mx, my, mz = load3(means_ptr, i, live)
    sx, sy, _ = load3(scales_ptr, i, live)
    w, x, y, z, length = unit_quaternion(quats_ptr, i, live)
    nothing = tl.zeros((B,), tl.float32)
    g_mx, g_my, g_mz, g_sx, g_sy = nothing, nothing, nothing, nothing, nothing
    # of the rotation's columns: the two tangents and the normal, in the world
    g_r00, g_r10, g_r20 = nothing, nothing, nothing
    g_r01, g_r11, g_r21 = nothing, nothing, nothing
    g_r02, g_r12, g_r22 = nothing, nothing, nothing
    row = i
    for camera in range(cameras):
        view = views_ptr + 16 * camera
        v00, v01, v02, v10, v11, v12, v20, v21, v22 = load_matrix(view, 4)
        k00, k01, k02, k10, k11, k12, k20, k21, k22 = load_matrix(Ks_ptr + 9 * camera, 3)
        ux, uy, uz, vx, vy, vz, nx, ny, nz = _axes(v00, v01, v02, v10, v11, v12, v20, v21, v22, w, x, y, z)
        cx, cy, cz = times(v00, v01, v02, v10, v11, v12, v20, v21, v22, mx, my, mz)
        cx += tl.load(view + 3)
        cy += tl.load(view + 7)
        cz += tl.load(view + 11)
        a0, b0, d0 = times(k00, k01, k02, k10, k11, k12, k20, k21, k22, ux * sx, uy * sx, uz * sx)
        a1, b1, d1 = times(k00, k01, k02, k10, k11, k12, k20, k21, k22, vx * sy, vy * sy, vz * sy)
        a2, b2, d2 = times(k00, k01, k02, k10, k11, k12, k20, k21, k22, cx, cy, cz)
        g_a0, g_a1, g_a2 = load3(g_rays_ptr, 3 * row, live)
        g_b0, g_b1, g_b2 = load3(g_rays_ptr, 3 * row + 1, live)
        g_d0, g_d1, g_d2 = load3(g_rays_ptr, 3 * row + 2, live)
        # the gradient for densification: see `splatkit_ns.rasterize.surfaces.densification_gradient`
        tl.store(g_probe_ptr + 2 * row, g_a2 * d2, mask=live)
        tl.store(g_probe_ptr + 2 * row + 1, g_b2 * d2, mask=live)
        # the box's centre
        scale = d0 * d0 + d1 * d1 - d2 * d2
        has_box = scale < 0.0
        inverse = 1.0 / tl.where(has_box, scale, -1.0)
        px, py = (a0 * d0 + a1 * d1 - a2 * d2) * inverse, (b0 * d0 + b1 * d1 - b2 * d2) * inverse
        g_px = tl.load(g_means2d_ptr + 2 * row, mask=live, other=0.0) * inverse
        g_py = tl.load(g_means2d_ptr + 2 * row + 1, mask=live, other=0.0) * inverse
        by_scale = tl.where(has_box, 2.0 * (g_px * px + g_py * py), 0.0)
        g_a0 += g_px * d0
        g_a1 += g_px * d1
        g_a2 -= g_px * d2
        g_b0 += g_py * d0
        g_b1 += g_py * d1
        g_b2 -= g_py * d2
        g_d0 += g_px * a0 + g_py * b0 - by_scale * d0
        g_d1 += g_px * a1 + g_py * b1 - by_scale * d1
        g_d2 -= g_px * a2 + g_py * b2 - by_scale * d2
        # columns of the ray transform, in front of the camera's matrix
        g_ux, g_uy, g_uz = times(k00, k10, k20, k01, k11, k21, k02, k12, k22, g_a0, g_b0, g_d0)
        g_vx, g_vy, g_vz = times(k00, k10, k20, k01, k11, k21, k02, k12, k22, g_a1, g_b1, g_d1)
        g_cx, g_cy, g_cz = times(k00, k10, k20, k01, k11, k21, k02, k12, k22, g_a2, g_b2, g_d2)
        g_cz += tl.load(g_depths_ptr + depth_stride * row, mask=live, other=0.0)
        g_sx += g_ux * ux + g_uy * uy + g_uz * uz
        g_sy += g_vx * vx + g_vy * vy + g_vz * vz
        facing = tl.where(nx * cx + ny * cy + nz * cz < 0.0, 1.0, -1.0)
        g_nx, g_ny, g_nz = load3(g_normals_ptr, row, live)
        # into the world
        x0, x1, x2 = times(v00, v10, v20, v01, v11, v21, v02, v12, v22, g_cx, g_cy, g_cz)
        g_mx += x0
        g_my += x1
        g_mz += x2
        x0, x1, x2 = times(v00, v10, v20, v01, v11, v21, v02, v12, v22, g_ux * sx, g_uy * sx, g_uz * sx)
        g_r00 += x0
        g_r10 += x1
        g_r20 += x2
        x0, x1, x2 = times(v00, v10, v20, v01, v11, v21, v02, v12, v22, g_vx * sy, g_vy * sy, g_vz * sy)
        g_r01 += x0
        g_r11 += x1
        g_r21 += x2
        x0, x1, x2 = times(v00, v10, v20, v01, v11, v21, v02, v12, v22, g_nx * facing, g_ny * facing, g_nz * facing)
        g_r02 += x0
        g_r12 += x1
        g_r22 += x2
        row += number
    store3(g_means_ptr, i, g_mx, g_my, g_mz, live)
    store3(g_scales_ptr, i, g_sx, g_sy, nothing, live)
    store_quaternion_gradient(
        g_quats_ptr, i, w, x, y, z, length, g_r00, g_r01, g_r02, g_r10, g_r11, g_r12, g_r20, g_r21, g_r22, live
    )  # fmt: skip


class ProjectDiscs(torch.autograd.Function):
    """(means, quats, scales, probe, viewmats, Ks) -> (means2d, depths, ray_transforms, normals).

    Gradients are for the first four. Tensors are float32 and contiguous; the probe (C, N, 2) has no influence on the
    result, and gets the gradient for densification.
    """

    @staticmethod
    def forward(
        ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, probe: Tensor, viewmats: Tensor, Ks: Tensor
    ) -> tuple[Tensor, ...]:
        number, cameras = len(means), len(viewmats)
        means2d = means.new_empty(cameras, number, 2)
        depths = means.new_empty(cameras, number)
        ray_transforms = means.new_empty(cameras, number, 3, 3)
        normals = means.new_empty(cameras, number, 3)
        with torch.cuda.device_of(means):  # does nothing for CPU tensors, which Triton's interpreter accepts
            _forward[(triton.cdiv(number, BLOCK),)](
                means, quats, scales, viewmats, Ks, means2d, depths, ray_transforms, normals, number, cameras, B=BLOCK
            )
        ctx.save_for_backward(means, quats, scales, viewmats, Ks)
        return means2d, depths, ray_transforms, normals

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, g_means2d: Tensor, g_depths: Tensor, g_ray_transforms: Tensor, g_normals: Tensor
    ) -> tuple[Tensor | None, ...]:
        means, quats, scales, viewmats, Ks = ctx.saved_tensors
        number, cameras = len(means), len(viewmats)
        g_depths = g_depths.reshape(-1)  # often a strided channel of the colours' gradients: no copy is needed
        g_means, g_quats, g_scales = torch.empty_like(means), torch.empty_like(quats), torch.empty_like(scales)
        g_probe = means.new_empty(cameras, number, 2)
        with torch.cuda.device_of(means):
            _backward[(triton.cdiv(number, BLOCK),)](
                means, quats, scales, viewmats, Ks,
                g_means2d.contiguous(), g_depths, g_ray_transforms.contiguous(), g_normals.contiguous(),
                g_means, g_quats, g_scales, g_probe, number, cameras, g_depths.stride(0), B=BLOCK,
            )  # fmt: skip
        return g_means, g_quats, g_scales, g_probe, None, None
