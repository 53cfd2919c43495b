"""Lenses inside the projection kernels: a point in the camera's axes to its pixel and the Jacobian there, and back.

Formulas and limits are in `splatkit_ns.rasterize.lens_models`; the functions of each lens are those of the CPU's
kernels, `cpu.lens_point`, which automatic differentiation vouches for. A lens's numbers are nine coefficients, `bend`
and `cut`; a pinhole camera has none.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl

PINHOLE, OPENCV, FISHEYE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
"""The kinds of lenses as kernels take them."""
LENS_NUMBERS = tl.constexpr(11)
SERIES_BELOW = tl.constexpr(0.25)
"""The square of the slope below which differences of nearly equal numbers are computed by series."""


@triton.jit
def see(lens_ptr, x, y, z, fx, fy, cx, cy, width, height, LENS: tl.constexpr):
    """Return the pixel (x, y), the 2 x 3 Jacobian, the depth, and whether the lens has a place for the point."""
    if LENS == PINHOLE:
        px, py, j00, j01, j02, j10, j11, j12 = _pinhole(x, y, z, fx, fy, cx, cy, width, height)
        depth, inside = z, z == z
    else:
        cut = tl.load(lens_ptr + 10)
        if LENS == OPENCV:
            a, b, j00, j01, j02, j10, j11, j12 = _opencv(lens_ptr, x, y, z)
            depth, inside = z, (z > 0.0) & (tl.sqrt(x * x + y * y) <= cut * z)
        else:
            a, b, j00, j01, j02, j10, j11, j12 = _fisheye(lens_ptr, x, y, z)
            depth = tl.sqrt(x * x + y * y + z * z)
            inside = (depth > 0.0) & (_angle(tl.sqrt(x * x + y * y), z) <= cut)
        px, py = fx * a + cx, fy * b + cy
        j00, j01, j02, j10, j11, j12 = fx * j00, fx * j01, fx * j02, fy * j10, fy * j11, fy * j12
    return px, py, j00, j01, j02, j10, j11, j12, depth, inside


@triton.jit
def see_backward(
    lens_ptr, x, y, z, fx, fy, cx, cy, width, height, g_px, g_py, g_depth, g_j00, g_j01, g_j02, g_j10, g_j11, g_j12,
    LENS: tl.constexpr,
):  # fmt: skip
    """Return the gradients of the point (3), and of fx, fy, cx and cy; the limits of a lens are taken as fixed."""
    if LENS == PINHOLE:
        g_x, g_y, g_z, g_fx, g_fy, g_cx, g_cy = _pinhole_backward(
            x, y, z, fx, fy, cx, cy, width, height, g_px, g_py, g_j00, g_j02, g_j11, g_j12
        )
        g_z += g_depth
    else:
        if LENS == OPENCV:
            a, b, j00, j01, j02, j10, j11, j12 = _opencv(lens_ptr, x, y, z)
            g_x, g_y, g_z = _opencv_backward(
                lens_ptr, x, y, z, fx * g_px, fy * g_py, fx * g_j00, fx * g_j01, fx * g_j02,
                fy * g_j10, fy * g_j11, fy * g_j12,
            )  # fmt: skip
            g_z += g_depth
        else:
            a, b, j00, j01, j02, j10, j11, j12 = _fisheye(lens_ptr, x, y, z)
            g_x, g_y, g_z = _fisheye_backward(
                lens_ptr, x, y, z, fx * g_px, fy * g_py, fx * g_j00, fx * g_j01, fx * g_j02,
                fy * g_j10, fy * g_j11, fy * g_j12,
            )  # fmt: skip
            along = g_depth / tl.sqrt(x * x + y * y + z * z)
            g_x += along * x
            g_y += along * y
            g_z += along * z
        g_fx = a * g_px + j00 * g_j00 + j01 * g_j01 + j02 * g_j02
        g_fy = b * g_py + j10 * g_j10 + j11 * g_j11 + j12 * g_j12
        g_cx, g_cy = g_px, g_py
    return g_x, g_y, g_z, g_fx, g_fy, g_cx, g_cy


@triton.jit
def _clamped(slope, focal, centre, size):
    """Clamp x / z (or y / z) to 15% beyond the image on each side; see `cpu.projection.clamped_slope`."""
    margin = 0.15 * size / focal
    return tl.minimum((size - centre) / focal + margin, tl.maximum(-centre / focal - margin, slope))


@triton.jit
def _pinhole(x, y, z, fx, fy, cx, cy, width, height):
    """Return the pixel (x, y) of a point, and the 2 x 3 Jacobian of the projection, row by row."""
    inverse = 1.0 / z
    u, v = x * inverse, y * inverse
    nothing = u * 0.0
    return (
        fx * u + cx, fy * v + cy,
        fx * inverse, nothing, -fx * _clamped(u, fx, cx, width) * inverse,
        nothing, fy * inverse, -fy * _clamped(v, fy, cy, height) * inverse,
    )  # fmt: skip


@triton.jit
def _pinhole_backward(x, y, z, fx, fy, cx, cy, width, height, g_px, g_py, g_j00, g_j02, g_j11, g_j12):
    """Return the gradients of the point (3), and of fx, fy, cx and cy.

    With a slope that is clamped, fx times it is a number less cx, so the Jacobian depends on z and cx alone.
    """
    inverse = 1.0 / z
    u, v = x * inverse, y * inverse
    clamped_u, clamped_v = _clamped(u, fx, cx, width), _clamped(v, fy, cy, height)
    free_u, free_v = clamped_u == u, clamped_v == v
    along_u, along_v = inverse * g_j02, inverse * g_j12
    g_u = fx * (g_px - tl.where(free_u, along_u, 0.0))
    g_v = fy * (g_py - tl.where(free_v, along_v, 0.0))
    g_inverse = fx * (g_j00 - clamped_u * g_j02) + fy * (g_j11 - clamped_v * g_j12) + g_u * x + g_v * y
    return (
        g_u * inverse, g_v * inverse, -g_inverse * inverse * inverse,
        u * g_px + inverse * g_j00 - tl.where(free_u, clamped_u * along_u, 0.0),
        v * g_py + inverse * g_j11 - tl.where(free_v, clamped_v * along_v, 0.0),
        g_px + tl.where(free_u, 0.0, along_u),
        g_py + tl.where(free_v, 0.0, along_v),
    )  # fmt: skip


@triton.jit
def _rational(lens_ptr, s):
    """Return R, R' and R'' of an opencv lens with the coefficients k1, k2, p1, p2, k3, k4, k5, k6, k7."""
    k1, k2, k3, k7 = tl.load(lens_ptr), tl.load(lens_ptr + 1), tl.load(lens_ptr + 4), tl.load(lens_ptr + 8)
    k4, k5, k6 = tl.load(lens_ptr + 5), tl.load(lens_ptr + 6), tl.load(lens_ptr + 7)
    top = 1.0 + s * (k1 + s * (k2 + s * (k3 + s * k7)))
    top_1 = k1 + s * (2.0 * k2 + s * (3.0 * k3 + s * 4.0 * k7))
    top_2 = 2.0 * k2 + s * (6.0 * k3 + s * 12.0 * k7)
    bottom = 1.0 + s * (k4 + s * (k5 + s * k6))
    bottom_1 = k4 + s * (2.0 * k5 + s * 3.0 * k6)
    bottom_2 = 2.0 * k5 + s * 6.0 * k6
    ratio = top / bottom
    ratio_1 = (top_1 - ratio * bottom_1) / bottom
    return ratio, ratio_1, (top_2 - 2.0 * ratio_1 * bottom_1 - ratio * bottom_2) / bottom


@triton.jit
def _opencv_slopes(lens_ptr, x, y, z):
    """Return slopes u, v, where the lens is taken (up to the slope `bend`), R to R'', and a_u, a_v = b_u, b_v there."""
    bend, p1, p2 = tl.load(lens_ptr + 9), tl.load(lens_ptr + 2), tl.load(lens_ptr + 3)
    u, v = x / z, y / z
    radius = tl.sqrt(u * u + v * v)
    free = radius <= bend
    shrink = tl.where(free, 1.0, bend / radius)
    at_u, at_v = u * shrink, v * shrink
    ratio, ratio_1, ratio_2 = _rational(lens_ptr, at_u * at_u + at_v * at_v)
    a_u = ratio + 2.0 * at_u * at_u * ratio_1 + 2.0 * p1 * at_v + 6.0 * p2 * at_u
    a_v = 2.0 * at_u * at_v * ratio_1 + 2.0 * p1 * at_u + 2.0 * p2 * at_v
    b_v = ratio + 2.0 * at_v * at_v * ratio_1 + 6.0 * p1 * at_v + 2.0 * p2 * at_u
    return u, v, at_u, at_v, free, ratio, ratio_1, ratio_2, a_u, a_v, b_v


@triton.jit
def _opencv(lens_ptr, x, y, z):
    """Return the place (a, b) of a point and the 2 x 3 Jacobian, in focal lengths."""
    u, v, at_u, at_v, _free, ratio, _r1, _r2, a_u, a_v, b_v = _opencv_slopes(lens_ptr, x, y, z)
    p1, p2 = tl.load(lens_ptr + 2), tl.load(lens_ptr + 3)
    s = at_u * at_u + at_v * at_v
    a = at_u * ratio + 2.0 * p1 * at_u * at_v + p2 * (s + 2.0 * at_u * at_u)
    b = at_v * ratio + p1 * (s + 2.0 * at_v * at_v) + 2.0 * p2 * at_u * at_v
    return (
        a + a_u * (u - at_u) + a_v * (v - at_v), b + a_v * (u - at_u) + b_v * (v - at_v),
        a_u / z, a_v / z, -(a_u * at_u + a_v * at_v) / z,
        a_v / z, b_v / z, -(a_v * at_u + b_v * at_v) / z,
    )  # fmt: skip


@triton.jit
def _opencv_backward(lens_ptr, x, y, z, g_a, g_b, g_j00, g_j01, g_j02, g_j10, g_j11, g_j12):
    """Return the gradient of the point from those of place and Jacobian."""
    u, v, at_u, at_v, free, _ratio, ratio_1, ratio_2, a_u, a_v, b_v = _opencv_slopes(lens_ptr, x, y, z)
    p1, p2 = tl.load(lens_ptr + 2), tl.load(lens_ptr + 3)
    g_u, g_v = a_u * g_a + a_v * g_b, a_v * g_a + b_v * g_b
    # the Jacobian is ((a_u, a_v), (a_v, b_v)) ((1, 0, -at_u), (0, 1, -at_v)) / z
    g_a_u = (g_j00 - g_j02 * at_u) / z
    g_a_v = (g_j01 - g_j02 * at_v + g_j10 - g_j12 * at_u) / z
    g_b_v = (g_j11 - g_j12 * at_v) / z
    a_uu = 6.0 * u * ratio_1 + 4.0 * u * u * u * ratio_2 + 6.0 * p2
    a_uv = 2.0 * v * ratio_1 + 4.0 * u * u * v * ratio_2 + 2.0 * p1
    a_vv = 2.0 * u * ratio_1 + 4.0 * u * v * v * ratio_2 + 2.0 * p2
    b_vv = 6.0 * v * ratio_1 + 4.0 * v * v * v * ratio_2 + 6.0 * p1
    by_u = g_a_u * a_uu + g_a_v * a_uv + g_b_v * a_vv - (g_j02 * a_u + g_j12 * a_v) / z
    by_v = g_a_u * a_uv + g_a_v * a_vv + g_b_v * b_vv - (g_j02 * a_v + g_j12 * b_v) / z
    g_u += tl.where(free, by_u, 0.0)
    g_v += tl.where(free, by_v, 0.0)
    g_z = -(a_u * g_a_u + a_v * g_a_v + b_v * g_b_v + u * g_u + v * g_v) / z
    return g_u / z, g_v / z, g_z


@triton.jit
def _angle(across, z):
    """Return the angle from the axis, atan2(across, z), by halving it twice and a series."""
    u = across / (tl.sqrt(across * across + z * z) + tl.abs(z))
    u = u / (1.0 + tl.sqrt(1.0 + u * u))
    w = u * u
    series = w * 0.0
    for n in tl.static_range(10, -1, -1):
        series = series * w + (1.0 - 2.0 * (n % 2)) / (2.0 * n + 1.0)
    angle = 4.0 * u * series
    return tl.where(z < 0.0, 3.141592653589793 - angle, angle)


@triton.jit
def _angle_ratio(s, z):
    """Return angle / √s and its first two derivatives by s = x² + y²."""
    near = (z > 0.0) & (s < SERIES_BELOW * z * z)
    r = 1.0 / tl.where(near, z, 1.0)
    w = tl.where(near, s * r * r, 0.0)
    value, first, second = w * 0.0, w * 0.0, w * 0.0
    for n in tl.static_range(16, -1, -1):  # arctan(√w) / √w
        value = value * w + (1.0 - 2.0 * (n % 2)) / (2.0 * n + 1.0)
        if n >= 1:
            first = first * w + n * (1.0 - 2.0 * (n % 2)) / (2.0 * n + 1.0)
        if n >= 2:
            second = second * w + n * (n - 1) * (1.0 - 2.0 * (n % 2)) / (2.0 * n + 1.0)
    far_s = tl.where(near, 1.0, s)
    radius, inverse = tl.sqrt(far_s), 1.0 / (far_s + z * z)
    ratio = _angle(radius, z) / radius
    ratio_1 = (z * inverse - ratio) / (2.0 * far_s)
    ratio_2 = (-z * inverse * inverse - 3.0 * ratio_1) / (2.0 * far_s)
    return (
        tl.where(near, value * r, ratio), tl.where(near, first * r * r * r, ratio_1),
        tl.where(near, second * r * r * r * r * r, ratio_2),
    )  # fmt: skip


@triton.jit
def _fisheye_factor(lens_ptr, t2):
    """Return (distance of the place from the middle) / angle, and its first two derivatives by t2 = angle²."""
    k1, k2, k3, k4 = tl.load(lens_ptr), tl.load(lens_ptr + 1), tl.load(lens_ptr + 2), tl.load(lens_ptr + 3)
    bend = tl.load(lens_ptr + 9)
    bend2 = bend * bend
    at_bend = 1.0 + bend2 * (k1 + bend2 * (k2 + bend2 * (k3 + bend2 * k4)))
    slope = at_bend + 2.0 * bend2 * (k1 + bend2 * (2.0 * k2 + bend2 * (3.0 * k3 + bend2 * 4.0 * k4)))
    start = bend * (at_bend - slope)  # beyond it is a straight line, start + slope angle
    beyond = t2 > bend2
    angle = tl.sqrt(tl.where(beyond, t2, 1.0))
    cube = 1.0 / (angle * angle * angle)
    return (
        tl.where(beyond, slope + start / angle, 1.0 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4)))),
        tl.where(beyond, -0.5 * start * cube, k1 + t2 * (2.0 * k2 + t2 * (3.0 * k3 + t2 * 4.0 * k4))),
        tl.where(beyond, 0.75 * start * cube / (angle * angle), 2.0 * k2 + t2 * (6.0 * k3 + t2 * 12.0 * k4)),
    )  # fmt: skip


@triton.jit
def _fisheye(lens_ptr, x, y, z):
    """Return the place (a, b) of a point, q (x, y), and the 2 x 3 Jacobian, in focal lengths."""
    s = x * x + y * y
    inverse = 1.0 / (s + z * z)
    a, a_s, _a_ss = _angle_ratio(s, z)
    f, f_1, _f_2 = _fisheye_factor(lens_ptr, s * a * a)
    q = f * a
    q_s = f_1 * a * z * inverse * a + f * a_s
    q_z = f_1 * -2.0 * s * a * inverse * a - f * inverse
    mixed = 2.0 * q_s * x * y
    return q * x, q * y, q + 2.0 * q_s * x * x, mixed, q_z * x, mixed, q + 2.0 * q_s * y * y, q_z * y


@triton.jit
def _fisheye_backward(lens_ptr, x, y, z, g_a, g_b, g_j00, g_j01, g_j02, g_j10, g_j11, g_j12):
    """Return the gradient of the point from those of place and Jacobian."""
    s = x * x + y * y
    rd2 = 1.0 / (s + z * z)
    rd4 = rd2 * rd2
    a, a_s, a_ss = _angle_ratio(s, z)
    a_z, a_sz, a_zz = -rd2, rd4, 2.0 * z * rd4
    f, f_1, f_2 = _fisheye_factor(lens_ptr, s * a * a)
    # derivatives of the angle's square, s a², by s and z
    t_s, t_z = a * z * rd2, -2.0 * s * a * rd2
    t_ss = a_s * z * rd2 - a * z * rd4
    t_sz = -z * rd4 + a * (s - z * z) * rd4
    t_zz = 2.0 * s * rd4 + 4.0 * s * z * a * rd4
    # derivatives of q = f a
    q, q_s, q_z = f * a, f_1 * t_s * a + f * a_s, f_1 * t_z * a + f * a_z
    q_ss = (f_2 * t_s * t_s + f_1 * t_ss) * a + 2.0 * f_1 * t_s * a_s + f * a_ss
    q_sz = (f_2 * t_s * t_z + f_1 * t_sz) * a + f_1 * (t_s * a_z + t_z * a_s) + f * a_sz
    q_zz = (f_2 * t_z * t_z + f_1 * t_zz) * a + 2.0 * f_1 * t_z * a_z + f * a_zz
    mixed = g_j01 + g_j10
    g_q = g_j00 + g_j11 + x * g_a + y * g_b
    g_q_s = 2.0 * (x * x * g_j00 + x * y * mixed + y * y * g_j11)
    g_q_z = x * g_j02 + y * g_j12
    g_s = q_s * g_q + q_ss * g_q_s + q_sz * g_q_z
    g_x = q * g_a + 2.0 * q_s * (2.0 * x * g_j00 + y * mixed) + q_z * g_j02
    g_y = q * g_b + 2.0 * q_s * (2.0 * y * g_j11 + x * mixed) + q_z * g_j12
    return g_x + 2.0 * x * g_s, g_y + 2.0 * y * g_s, q_z * g_q + q_sz * g_q_s + q_zz * g_q_z
