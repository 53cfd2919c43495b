"""A point seen through a lens, with Jacobian, and the gradients of both; formulas are in `rasterize.lens_models`.

The place (a, b) of a point is in focal lengths. The Jacobian takes part in the covariance of a Gaussian, so that the
second derivatives of the place are needed, too; automatic differentiation in the tests vouches for them.
"""

# Kernel arguments are scalars and arrays whose types numba infers; their shapes are in the docstrings.
# pyright: reportMissingParameterType=false

from __future__ import annotations

import math
from typing import Any

import numba

OPENCV, FISHEYE = 0, 1
"""The kinds of a lens as kernels take them."""
SERIES_BELOW = 0.04
"""The square of the slope below which differences of nearly equal numbers are computed by series."""
SERIES_TERMS = 12


@numba.njit(cache=True, inline="always", error_model="numpy")
def _rational(k: Any, s: float) -> tuple[float, float, float]:
    """Return R, R' and R'' at s = u² + v² of a lens with the coefficients k1, k2, p1, p2, k3, k4, k5, k6, k7."""
    top = 1.0 + s * (k[0] + s * (k[1] + s * (k[4] + s * k[8])))
    top_1 = k[0] + s * (2.0 * k[1] + s * (3.0 * k[4] + s * 4.0 * k[8]))
    top_2 = 2.0 * k[1] + s * (6.0 * k[4] + s * 12.0 * k[8])
    bottom = 1.0 + s * (k[5] + s * (k[6] + s * k[7]))
    bottom_1 = k[5] + s * (2.0 * k[6] + s * 3.0 * k[7])
    bottom_2 = 2.0 * k[6] + s * 6.0 * k[7]
    ratio = top / bottom
    ratio_1 = (top_1 - ratio * bottom_1) / bottom
    ratio_2 = (top_2 - 2.0 * ratio_1 * bottom_1 - ratio * bottom_2) / bottom
    return ratio, ratio_1, ratio_2


@numba.njit(cache=True, inline="always", error_model="numpy")
def _shrinking(u: float, v: float, bend: float) -> float:
    """Return the share of a slope (u, v) at which the lens is taken: 1 up to the slope `bend`."""
    radius = math.sqrt(u * u + v * v)
    return bend / radius if radius > bend else 1.0


@numba.njit(cache=True, inline="always", error_model="numpy")
def opencv_point(k: Any, bend: float, point: Any, place: Any, jacobian: Any) -> None:
    """Write the place (2,) and the Jacobian (2, 3) of a point (3,) before an opencv lens."""
    x, y, z = point[0], point[1], point[2]
    u, v = x / z, y / z
    shrink = _shrinking(u, v, bend)
    at_u, at_v = u * shrink, v * shrink
    s = at_u * at_u + at_v * at_v
    p1, p2 = k[2], k[3]
    ratio, ratio_1, _ = _rational(k, s)
    a_u = ratio + 2.0 * at_u * at_u * ratio_1 + 2.0 * p1 * at_v + 6.0 * p2 * at_u
    a_v = 2.0 * at_u * at_v * ratio_1 + 2.0 * p1 * at_u + 2.0 * p2 * at_v
    b_v = ratio + 2.0 * at_v * at_v * ratio_1 + 6.0 * p1 * at_v + 2.0 * p2 * at_u
    place[0] = at_u * ratio + 2.0 * p1 * at_u * at_v + p2 * (s + 2.0 * at_u * at_u)
    place[1] = at_v * ratio + p1 * (s + 2.0 * at_v * at_v) + 2.0 * p2 * at_u * at_v
    place[0] += a_u * (u - at_u) + a_v * (v - at_v)
    place[1] += a_v * (u - at_u) + b_v * (v - at_v)
    jacobian[0, 0], jacobian[0, 1], jacobian[0, 2] = a_u / z, a_v / z, -(a_u * at_u + a_v * at_v) / z
    jacobian[1, 0], jacobian[1, 1], jacobian[1, 2] = a_v / z, b_v / z, -(a_v * at_u + b_v * at_v) / z


@numba.njit(cache=True, inline="always", error_model="numpy")
def opencv_gradient(k: Any, bend: float, point: Any, v_place: Any, v_jacobian: Any, v_point: Any) -> None:
    """Write the gradient of a point (3,), of the gradients of what `opencv_point` writes."""
    z = point[2]
    u, v = point[0] / z, point[1] / z
    shrink = _shrinking(u, v, bend)
    at_u, at_v = u * shrink, v * shrink
    p1, p2 = k[2], k[3]
    ratio, ratio_1, ratio_2 = _rational(k, at_u * at_u + at_v * at_v)
    a_u = ratio + 2.0 * at_u * at_u * ratio_1 + 2.0 * p1 * at_v + 6.0 * p2 * at_u
    a_v = 2.0 * at_u * at_v * ratio_1 + 2.0 * p1 * at_u + 2.0 * p2 * at_v
    b_v = ratio + 2.0 * at_v * at_v * ratio_1 + 6.0 * p1 * at_v + 2.0 * p2 * at_u
    # through the place
    v_u = a_u * v_place[0] + a_v * v_place[1]
    v_v = a_v * v_place[0] + b_v * v_place[1]
    # through the Jacobian [[a_u, a_v], [a_v, b_v]] [[1, 0, -at_u], [0, 1, -at_v]] / z
    v_a_u = (v_jacobian[0, 0] - v_jacobian[0, 2] * at_u) / z
    v_a_v = (v_jacobian[0, 1] - v_jacobian[0, 2] * at_v + v_jacobian[1, 0] - v_jacobian[1, 2] * at_u) / z
    v_b_v = (v_jacobian[1, 1] - v_jacobian[1, 2] * at_v) / z
    v_z = -(a_u * v_a_u + a_v * v_a_v + b_v * v_b_v) / z
    if shrink == 1.0:
        a_uu = 6.0 * u * ratio_1 + 4.0 * u * u * u * ratio_2 + 6.0 * p2
        a_uv = 2.0 * v * ratio_1 + 4.0 * u * u * v * ratio_2 + 2.0 * p1
        a_vv = 2.0 * u * ratio_1 + 4.0 * u * v * v * ratio_2 + 2.0 * p2
        b_vv = 6.0 * v * ratio_1 + 4.0 * v * v * v * ratio_2 + 6.0 * p1
        v_u += v_a_u * a_uu + v_a_v * a_uv + v_b_v * a_vv
        v_v += v_a_u * a_uv + v_a_v * a_vv + v_b_v * b_vv
        v_u -= (v_jacobian[0, 2] * a_u + v_jacobian[1, 2] * a_v) / z
        v_v -= (v_jacobian[0, 2] * a_v + v_jacobian[1, 2] * b_v) / z
    v_point[0] = v_u / z
    v_point[1] = v_v / z
    v_point[2] = v_z - (u * v_u + v * v_v) / z


@numba.njit(cache=True, inline="always", error_model="numpy")
def _angle_ratio(s: float, z: float, ratio: Any) -> None:
    """Write ratio = angle / √s, and its first two derivatives by s = x² + y², to (3,)."""
    distance2 = s + z * z
    if z > 0.0 and s < SERIES_BELOW * z * z:
        # (1 / z) arctan(√w) / √w, a power series of w = s / z²
        w = s / (z * z)
        value = first = second = 0.0
        for i in range(SERIES_TERMS + 2):
            n = SERIES_TERMS + 1 - i
            term = (1.0 - 2.0 * (n % 2)) / (2.0 * n + 1.0)
            value = value * w + term
            if n >= 1:
                first = first * w + n * term
            if n >= 2:
                second = second * w + n * (n - 1) * term
        ratio[0] = value / z
        ratio[1] = first / (z * z * z)
        ratio[2] = second / (z * z * z * z * z)
    else:
        radius = math.sqrt(s)
        ratio[0] = math.atan2(radius, z) / radius
        ratio[1] = (z / distance2 - ratio[0]) / (2.0 * s)
        ratio[2] = (-z / (distance2 * distance2) - 3.0 * ratio[1]) / (2.0 * s)


@numba.njit(cache=True, inline="always", error_model="numpy")
def _fisheye_polynomial(k: Any, bend: float, t2: float, factor: Any) -> None:
    """Write (distance of the place from the middle) / angle, and its first two derivatives by t2 = angle², to (3,)."""
    bend2 = bend * bend
    if t2 <= bend2:
        factor[0] = 1.0 + t2 * (k[0] + t2 * (k[1] + t2 * (k[2] + t2 * k[3])))
        factor[1] = k[0] + t2 * (2.0 * k[1] + t2 * (3.0 * k[2] + t2 * 4.0 * k[3]))
        factor[2] = 2.0 * k[1] + t2 * (6.0 * k[2] + t2 * 12.0 * k[3])
        return
    at_bend = 1.0 + bend2 * (k[0] + bend2 * (k[1] + bend2 * (k[2] + bend2 * k[3])))
    slope = at_bend + 2.0 * bend2 * (k[0] + bend2 * (2.0 * k[1] + bend2 * (3.0 * k[2] + bend2 * 4.0 * k[3])))
    start = bend * (at_bend - slope)
    angle = math.sqrt(t2)
    factor[0] = slope + start / angle
    factor[1] = -0.5 * start / (t2 * angle)
    factor[2] = 0.75 * start / (t2 * t2 * angle)


@numba.njit(cache=True, inline="always", error_model="numpy")
def fisheye_point(k: Any, bend: float, point: Any, place: Any, jacobian: Any, ratio: Any, factor: Any) -> None:
    """Write the place (2,) and the Jacobian (2, 3) of a point (3,) before a fisheye; ratio and factor (3,) are scratch.

    The place is q (x, y), with q = factor * ratio a function of s = x² + y² and z.
    """
    x, y, z = point[0], point[1], point[2]
    s = x * x + y * y
    distance2 = s + z * z
    _angle_ratio(s, z, ratio)
    _fisheye_polynomial(k, bend, s * ratio[0] * ratio[0], factor)
    t2_s = ratio[0] * z / distance2
    t2_z = -2.0 * s * ratio[0] / distance2
    q = factor[0] * ratio[0]
    q_s = factor[1] * t2_s * ratio[0] + factor[0] * ratio[1]
    q_z = factor[1] * t2_z * ratio[0] - factor[0] / distance2
    place[0], place[1] = q * x, q * y
    jacobian[0, 0], jacobian[0, 1], jacobian[0, 2] = q + 2.0 * q_s * x * x, 2.0 * q_s * x * y, q_z * x
    jacobian[1, 0], jacobian[1, 1], jacobian[1, 2] = jacobian[0, 1], q + 2.0 * q_s * y * y, q_z * y


@numba.njit(cache=True, inline="always", error_model="numpy")
def fisheye_gradient(
    k: Any, bend: float, point: Any, v_place: Any, v_jacobian: Any, ratio: Any, factor: Any, v_point: Any
) -> None:
    """Write the gradient of a point (3,), of the gradients of what `fisheye_point` writes."""
    x, y, z = point[0], point[1], point[2]
    s = x * x + y * y
    rd2 = 1.0 / (s + z * z)
    rd4 = rd2 * rd2
    _angle_ratio(s, z, ratio)
    a, a_s, a_ss = ratio[0], ratio[1], ratio[2]
    a_z, a_sz, a_zz = -rd2, rd4, 2.0 * z * rd4
    _fisheye_polynomial(k, bend, s * a * a, factor)
    f, f_1, f_2 = factor[0], factor[1], factor[2]
    # derivatives of t2 = s a² by s and z
    t_s, t_z = a * z * rd2, -2.0 * s * a * rd2
    t_ss = a_s * z * rd2 - a * z * rd4
    t_sz = -z * rd4 + a * (s - z * z) * rd4
    t_zz = 2.0 * s * rd4 + 4.0 * s * z * a * rd4
    # derivatives of q = f(t2) a
    q = f * a
    q_s = f_1 * t_s * a + f * a_s
    q_z = f_1 * t_z * a + f * a_z
    q_ss = (f_2 * t_s * t_s + f_1 * t_ss) * a + 2.0 * f_1 * t_s * a_s + f * a_ss
    q_sz = (f_2 * t_s * t_z + f_1 * t_sz) * a + f_1 * (t_s * a_z + t_z * a_s) + f * a_sz
    q_zz = (f_2 * t_z * t_z + f_1 * t_zz) * a + 2.0 * f_1 * t_z * a_z + f * a_zz
    mixed = v_jacobian[0, 1] + v_jacobian[1, 0]
    v_q = v_jacobian[0, 0] + v_jacobian[1, 1] + x * v_place[0] + y * v_place[1]
    v_q_s = 2.0 * (x * x * v_jacobian[0, 0] + x * y * mixed + y * y * v_jacobian[1, 1])
    v_q_z = x * v_jacobian[0, 2] + y * v_jacobian[1, 2]
    v_s = q_s * v_q + q_ss * v_q_s + q_sz * v_q_z
    v_x = q * v_place[0] + 2.0 * q_s * (2.0 * x * v_jacobian[0, 0] + y * mixed) + q_z * v_jacobian[0, 2]
    v_y = q * v_place[1] + 2.0 * q_s * (2.0 * y * v_jacobian[1, 1] + x * mixed) + q_z * v_jacobian[1, 2]
    v_point[0] = v_x + 2.0 * x * v_s
    v_point[1] = v_y + 2.0 * y * v_s
    v_point[2] = q_z * v_q + q_sz * v_q_s + q_zz * v_q_z
