"""The covariance Q Q^T of a projected Gaussian, its determinant, and their gradients, inside the projection kernels.

The CPU's kernels are in float64. Here the determinant of a thin Gaussian's covariance would cancel, so it is written as
a sum of squares: with q and p the rows of the 2 x 3 factor Q it is |q x p|², and the blur adds eps (xx + yy + eps).
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from splatkit_ns.rasterize._rows_triton import times


@triton.jit
def rows_times(j00, j01, j02, j10, j11, j12, m00, m01, m02, m10, m11, m12, m20, m21, m22):
    """Return a 2 x 3 matrix times a 3 x 3 matrix."""
    a0, a1, a2 = times(m00, m10, m20, m01, m11, m21, m02, m12, m22, j00, j01, j02)
    b0, b1, b2 = times(m00, m10, m20, m01, m11, m21, m02, m12, m22, j10, j11, j12)
    return a0, a1, a2, b0, b1, b2


@triton.jit
def determinants(q0, q1, q2, p0, p1, p2, eps2d):
    """Return q x p, the determinant of Q Q^T, what the blur adds to it, and xx, xy, yy of Q Q^T."""
    xx, xy, yy = q0 * q0 + q1 * q1 + q2 * q2, q0 * p0 + q1 * p1 + q2 * p2, p0 * p0 + p1 * p1 + p2 * p2
    c0, c1, c2 = q1 * p2 - q2 * p1, q2 * p0 - q0 * p2, q0 * p1 - q1 * p0
    return c0, c1, c2, c0 * c0 + c1 * c1 + c2 * c2, eps2d * (xx + yy + eps2d), xx, xy, yy


@triton.jit
def factor_gradient(q0, q1, q2, p0, p1, p2, eps2d, g_a, g_b, g_c, g_ratio):
    """Return the gradient of Q from those of the conic (a, b, c) and of the opacities' factor r = (sharp / det)^1/2.

    The conic is the inverse C of the blurred covariance; with its gradient G as a symmetric matrix, that of Q is
    -2 C G C Q. For r, with c = q x p and d det = d sharp + eps d (xx + yy), that of (q, p) is
    blur / det^3/2 (p x c, c x q) / |c| - eps r / det (q, p), which stays finite when c becomes 0. Returns r, too.
    """
    c0, c1, c2, sharp, blur, xx, xy, yy = determinants(q0, q1, q2, p0, p1, p2, eps2d)
    inverse = 1.0 / (sharp + blur)
    a, b, c = (yy + eps2d) * inverse, -xy * inverse, (xx + eps2d) * inverse
    half = 0.5 * g_b
    m00, m01, m10, m11 = a * g_a + b * half, a * half + b * g_c, b * g_a + c * half, b * half + c * g_c
    g_xx, g_xy, g_yy = -2.0 * (m00 * a + m01 * b), -2.0 * (m00 * b + m01 * c), -2.0 * (m10 * b + m11 * c)
    length = tl.sqrt(sharp)
    steep = g_ratio * blur * inverse * tl.sqrt(inverse) / tl.where(length > 0.0, length, 1.0)
    flat = g_ratio * eps2d * length * inverse * tl.sqrt(inverse)
    return (
        g_xx * q0 + g_xy * p0 + steep * (p1 * c2 - p2 * c1) - flat * q0,
        g_xx * q1 + g_xy * p1 + steep * (p2 * c0 - p0 * c2) - flat * q1,
        g_xx * q2 + g_xy * p2 + steep * (p0 * c1 - p1 * c0) - flat * q2,
        g_xy * q0 + g_yy * p0 + steep * (c1 * q2 - c2 * q1) - flat * p0,
        g_xy * q1 + g_yy * p1 + steep * (c2 * q0 - c0 * q2) - flat * p1,
        g_xy * q2 + g_yy * p2 + steep * (c0 * q1 - c1 * q0) - flat * p2,
        length * tl.sqrt(inverse),
    )  # fmt: skip
