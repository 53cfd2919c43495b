"""Lenses of photographs: pixels of points, Jacobians, and the limits up to which a lens has a meaning, in PyTorch.

A point (x, y, z) in camera axes has a place (a, b) on the sensor, in focal lengths; its pixel is
(fx a + cx, fy b + cy).

- opencv: OpenCV's rational model with tangential terms. u = x / z, v = y / z, s = u² + v²,
  R = (1 + k1 s + k2 s² + k3 s³ + k7 s⁴) / (1 + k4 s + k5 s² + k6 s³), a = u R + 2 p1 u v + p2 (s + 2 u²),
  b = v R + p1 (s + 2 v²) + 2 p2 u v. Depth is z.
- opencv_fisheye: Kannala and Brandt (2006) as OpenCV has it. With the angle t from the axis and s = x² + y²,
  (a, b) = q (x, y), q = t (1 + k1 t² + k2 t⁴ + k3 t⁶ + k4 t⁸) / √s. Depth is the distance from the camera, so that
  points beside and behind the camera have a place, too.

A polynomial that was fitted to the pixels of an image may do anything outside of it. A lens therefore has two limits:

- `bend`, 15% beyond the farthest corner of the image. Farther out, a lens is continued in a straight line. Of opencv,
  whose Jacobian explodes far outside like that of a pinhole camera, the Jacobian is taken at the limit.
- `cut`, the end of the part in which the lens is monotonic, if that lies before `bend`; there is no place farther out.
  Of a fisheye also the direction straight back, which has no single place.

Both are slopes √s for opencv, and angles for opencv_fisheye.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from splatkit_ns.cameras import LensModel

NUM_COEFFICIENTS: dict[LensModel, int] = {"opencv": 9, "opencv_fisheye": 4}
"""The lenses of this module, and the number of their coefficients; those that are not given are 0."""
BEYOND_CORNERS = 1.15
"""The place where a lens is no longer used as it is, as a multiple of the distance of the image's farthest corner."""
LARGEST_ANGLE = math.pi - 0.05
"""The angle from the axis, in radians, beyond which a fisheye sees nothing: the sphere is torn open there."""
STEEPEST = math.radians(87.0)
"""The angle from the axis, in radians, up to which an opencv lens is looked at for its limits."""
SAMPLES = 1024
"""The number of radii at which a lens is looked at for its limits."""
SERIES_BELOW = 0.04
"""The square of the slope below which differences of nearly equal numbers are computed by series."""
SERIES_TERMS = 12
NEWTON_ROUNDS = 4
"""The number of rounds that improve the rays of pixels after a table has given them to a thousandth."""


class LensPoints(NamedTuple):
    """Points seen through C lenses; see the module."""

    places: Tensor
    """(C, N, 2), in pixels."""
    jacobians: Tensor
    """(C, N, 2, 3), the derivative of the place by the point in camera axes, in pixels per world unit."""
    depths: Tensor
    """(C, N), z for opencv, distance for opencv_fisheye, in world units."""
    inside: Tensor
    """(C, N) bool, whether the lens has a place for the point; the values of other points mean nothing."""


def padded_coefficients(lens: LensModel, distortion: Tensor | None, like: Tensor, cameras: int) -> Tensor:
    """The coefficients (C, 9) of opencv or (C, 4) of opencv_fisheye, of the type and on the device of `like`.

    Args:
        lens: the lens model.
        distortion: (C, D) as in `splatkit_ns.cameras.View`; None means zeros.
        like: a tensor.
        cameras: C.
    """
    found = like.new_zeros(cameras, NUM_COEFFICIENTS[lens])
    if distortion is None:
        return found
    return torch.cat([distortion.to(found), found[:, distortion.shape[1] :]], dim=1)


def lens_limits(lens: LensModel, coefficients: Tensor, Ks: Tensor, width: int, height: int) -> Tensor:
    """The limits (C, 2) of C lenses: `bend` and `cut`, see the module. Nothing is read back from a device.

    Args:
        lens: the lens model.
        coefficients: (C, K), see `padded_coefficients`.
        Ks: (C, 3, 3), in pixels.
        width: of the image in pixels.
        height: of the image in pixels.

    Returns:
        float64.
    """
    K = Ks.detach().double()
    radii, reached, count = _radial_table(lens, coefficients)
    corners_x = torch.stack([K[:, 0, 2], K[:, 0, 2] - width], 1).abs().amax(1) / K[:, 0, 0]
    corners_y = torch.stack([K[:, 1, 2], K[:, 1, 2] - height], 1).abs().amax(1) / K[:, 1, 1]
    wanted = BEYOND_CORNERS * torch.hypot(corners_x, corners_y)
    bend, is_reached = _radius_of(wanted[:, None], radii, reached, count)
    turns = count[:, None] < SAMPLES
    cut = torch.where(is_reached | ~turns, math.inf if lens == "opencv" else LARGEST_ANGLE, bend)
    return torch.cat([bend, cut], 1)


def farthest_places(lens: LensModel, distortion: Tensor | None, Ks: Tensor) -> Tensor:
    """The distances (C,) from the middle of an image, in focal lengths, beyond which a lens sees nothing.

    Args:
        lens: opencv or opencv_fisheye.
        distortion: (C, D), see `splatkit_ns.cameras.View`.
        Ks: (C, 3, 3).
    """
    _, reached, count = _radial_table(lens, padded_coefficients(lens, distortion, Ks, len(Ks)))
    return reached.gather(1, count[:, None] - 1)[:, 0]


def _radial_table(lens: LensModel, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes or angles (SAMPLES,), their distances from the middle (C, SAMPLES), infinite from where a lens turns back
    on, and the number of finite ones (C,)."""
    k = coefficients.detach().double()
    share = torch.linspace(0, 1, SAMPLES, dtype=torch.float64, device=k.device)
    if lens == "opencv":
        radii = torch.tan(STEEPEST * share)
        squared = (radii * radii)[None]
        factor, by_square, _ = _rational(k, squared)
    else:
        radii = LARGEST_ANGLE * share
        squared = (radii * radii)[None]
        factor, by_square = _even_polynomial(k, squared), _even_polynomial_slope(k, squared)
    reached, slopes = radii * factor, factor + 2 * squared * by_square
    usable = ((slopes > 0) & torch.isfinite(reached) & torch.isfinite(slopes)).long().cumprod(1)
    return radii, torch.where(usable.bool(), reached, math.inf), usable.sum(1).clamp(min=2)


def _radius_of(distances: Tensor, radii: Tensor, reached: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes or angles (C, M) of distances from the middle, interpolated in a table, and whether it reaches them."""
    index = torch.searchsorted(reached, distances.contiguous(), right=True)
    last = count[:, None] - 1
    is_reached = index <= last
    index = torch.minimum(index, last).clamp(min=1)
    low, high = reached.gather(1, index - 1), reached.gather(1, index)
    between = torch.where(is_reached, (distances - low) / (high - low), 1.0)
    return radii[index - 1] + between * (radii[index] - radii[index - 1]), is_reached


def rays_of_pixels(lens: LensModel, distortion: Tensor | None, Ks: Tensor, width: int, height: int) -> Tensor:
    """The rays through the pixels' middles in camera axes, (C, H, W, 3); a point is its depth times its ray.

    They have z = 1 for opencv, and are of length 1 for opencv_fisheye. Pixels that see nothing have zeros.

    Args:
        lens: opencv or opencv_fisheye.
        distortion: (C, D), see `splatkit_ns.cameras.View`.
        Ks: (C, 3, 3), in pixels.
        width: of the images in pixels.
        height: of the images in pixels.
    """
    K = Ks.detach().double()
    k = padded_coefficients(lens, distortion, K, len(K))
    x = (torch.arange(width, device=K.device) + 0.5 - K[:, 0, 2, None]) / K[:, 0, 0, None]
    y = (torch.arange(height, device=K.device) + 0.5 - K[:, 1, 2, None]) / K[:, 1, 1, None]
    shape = (len(K), height, width)
    a, b = x[:, None, :].expand(shape).flatten(1), y[:, :, None].expand(shape).flatten(1)
    distance = torch.hypot(a, b)
    radius, is_seen = _radius_of(distance, *_radial_table(lens, k))
    is_middle = distance < 1e-9
    share = torch.where(is_middle, 1.0, 1 / torch.where(is_middle, 1.0, distance))
    if lens == "opencv":
        u, v = a * share * radius, b * share * radius
        for _ in range(NEWTON_ROUNDS):
            at_a, at_b, a_u, a_v, b_v = bent_slopes(k, u, v)
            determinant = a_u * b_v - a_v * a_v
            u, v = (
                u - (b_v * (at_a - a) - a_v * (at_b - b)) / determinant,
                v - (a_u * (at_b - b) - a_v * (at_a - a)) / determinant,
            )
        rays = torch.stack([u, v, torch.ones_like(u)], -1)
    else:
        for _ in range(NEWTON_ROUNDS):
            squared = radius * radius
            factor = _even_polynomial(k, squared)
            slope = factor + 2 * squared * _even_polynomial_slope(k, squared)
            radius = radius - (radius * factor - distance) / slope
        across = radius.sin() * share
        rays = torch.stack([a * across, b * across, radius.cos()], -1)
    return torch.where(is_seen[..., None], rays, 0.0).reshape(*shape, 3).to(Ks.dtype)


def project_points(lens: LensModel, coefficients: Tensor, limits: Tensor, Ks: Tensor, points: Tensor) -> LensPoints:
    """See points through lenses. Differentiable by the points; beyond `bend` the place where an opencv lens was
    continued is taken as fixed.

    Args:
        lens: opencv or opencv_fisheye.
        coefficients: (C, K), see `padded_coefficients`.
        limits: (C, 2), see `lens_limits`.
        Ks: (C, 3, 3), in pixels.
        points: (C, N, 3), in the axes of each camera.
    """
    x, y, z = points.unbind(-1)
    bend, cut = limits.to(points)[:, :1], limits.to(points)[:, 1:]
    k = coefficients.to(points)
    if lens == "opencv":
        places, jacobians, inside = _through_opencv(k, bend, cut, x, y, z)
        depths = z
    else:
        places, jacobians, inside = _through_fisheye(k, bend, cut, x, y, z)
        depths = points.norm(dim=-1)
    focals = torch.stack([Ks[:, 0, 0], Ks[:, 1, 1]], -1)[:, None]
    centres = torch.stack([Ks[:, 0, 2], Ks[:, 1, 2]], -1)[:, None]
    return LensPoints(places * focals + centres, jacobians * focals[..., None], depths, inside)


# ---------------------------------------------------------------------------------------------------- opencv


def _rational(k: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """R, R' and R'' of an opencv lens at s; the coefficients are k1, k2, p1, p2, k3, k4, k5, k6, k7."""
    k1, k2, _, _, k3, k4, k5, k6, k7 = k[:, :, None].unbind(1)
    top = 1 + s * (k1 + s * (k2 + s * (k3 + s * k7)))
    top_1 = k1 + s * (2 * k2 + s * (3 * k3 + s * 4 * k7))
    top_2 = 2 * k2 + s * (6 * k3 + s * 12 * k7)
    bottom = 1 + s * (k4 + s * (k5 + s * k6))
    bottom_1 = k4 + s * (2 * k5 + s * 3 * k6)
    bottom_2 = 2 * k5 + s * 6 * k6
    ratio = top / bottom
    ratio_1 = (top_1 - ratio * bottom_1) / bottom
    ratio_2 = (top_2 - 2 * ratio_1 * bottom_1 - ratio * bottom_2) / bottom
    return ratio, ratio_1, ratio_2


def bent_slopes(k: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The places a, b (C, N) of slopes u, v of opencv lenses, and the derivatives a_u, a_v = b_u and b_v."""
    s = u * u + v * v
    ratio, ratio_1, _ = _rational(k, s)
    p1, p2 = k[:, 2:3], k[:, 3:4]
    a = u * ratio + 2 * p1 * u * v + p2 * (s + 2 * u * u)
    b = v * ratio + p1 * (s + 2 * v * v) + 2 * p2 * u * v
    a_u = ratio + 2 * u * u * ratio_1 + 2 * p1 * v + 6 * p2 * u
    a_v = 2 * u * v * ratio_1 + 2 * p1 * u + 2 * p2 * v
    b_v = ratio + 2 * v * v * ratio_1 + 6 * p1 * v + 2 * p2 * u
    return a, b, a_u, a_v, b_v


def _through_opencv(
    k: Tensor, bend: Tensor, cut: Tensor, x: Tensor, y: Tensor, z: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    is_before = z > 0
    z = torch.where(is_before, z, 1.0)
    u, v = x / z, y / z
    radius = torch.hypot(u.detach(), v.detach())
    is_beyond = radius > bend
    shrink = bend / radius.clamp(min=1e-30)
    at_u = torch.where(is_beyond, u.detach() * shrink, u)
    at_v = torch.where(is_beyond, v.detach() * shrink, v)
    a, b, a_u, a_v, b_v = bent_slopes(k, at_u, at_v)
    du, dv = torch.where(is_beyond, u - at_u, 0.0), torch.where(is_beyond, v - at_v, 0.0)
    places = torch.stack([a + a_u * du + a_v * dv, b + a_v * du + b_v * dv], -1)
    rows = [
        [a_u / z, a_v / z, -(a_u * at_u + a_v * at_v) / z],
        [a_v / z, b_v / z, -(a_v * at_u + b_v * at_v) / z],
    ]
    jacobians = torch.stack([torch.stack(row, -1) for row in rows], -2)
    return places, jacobians, is_before & (radius <= cut)


# ---------------------------------------------------------------------------------------------------- fisheye


def _even_polynomial(k: Tensor, t2: Tensor) -> Tensor:
    """The distance of a place from the middle by its angle: 1 + k1 t² + k2 t⁴ + k3 t⁶ + k4 t⁸."""
    k1, k2, k3, k4 = k[:, :, None].unbind(1)
    return 1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4)))


def _even_polynomial_slope(k: Tensor, t2: Tensor) -> Tensor:
    """The derivative of `_even_polynomial` by t²."""
    k1, k2, k3, k4 = k[:, :, None].unbind(1)
    return k1 + t2 * (2 * k2 + t2 * (3 * k3 + t2 * 4 * k4))


def _slope_of_angle_by_radius(s: Tensor, z: Tensor, distance2: Tensor, ratio: Tensor) -> Tensor:
    """The derivative by s of ratio = angle / √s, (z / distance² - ratio) / (2 s); near the axis by a series."""
    is_near = (z > 0) & (s < SERIES_BELOW * z * z)
    w = torch.where(is_near, s / torch.where(z == 0, 1.0, z * z), 0.0)
    series = torch.zeros_like(w)
    for n in range(SERIES_TERMS, 0, -1):
        series = series * w + (-1) ** n * n / (2 * n + 1)
    cube = torch.where(is_near, z * z * z, 1.0)
    return torch.where(is_near, series / cube, (z / distance2 - ratio) / torch.where(is_near, 1.0, 2 * s))


def _through_fisheye(
    k: Tensor, bend: Tensor, cut: Tensor, x: Tensor, y: Tensor, z: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    s, s_floor = x * x + y * y, torch.finfo(x.dtype).tiny
    distance2 = s + z * z
    is_point = distance2 > 0
    distance2 = torch.where(is_point, distance2, 1.0)
    is_on_axis = s <= s_floor
    radius = torch.where(is_on_axis, 1.0, s).sqrt()
    angle = torch.where(is_on_axis, torch.where(z > 0, 0.0, math.pi), torch.atan2(radius, z))
    ratio = torch.where(is_on_axis, 1 / torch.where(z == 0, 1.0, z), angle / radius)
    ratio_s = _slope_of_angle_by_radius(s, z, distance2, ratio)
    ratio_z = -1 / distance2
    t2 = s * ratio * ratio
    is_beyond = angle > bend
    bend2 = bend * bend
    at_bend = _even_polynomial(k, bend2)
    slope = at_bend + 2 * bend2 * _even_polynomial_slope(k, bend2)
    start = bend * (at_bend - slope)  # of the straight line, distance = start + slope t
    safe_angle = torch.where(is_beyond, angle, 1.0)
    factor = torch.where(is_beyond, slope + start / safe_angle, _even_polynomial(k, t2))
    factor_t2 = torch.where(is_beyond, -start / (2 * safe_angle**3), _even_polynomial_slope(k, t2))
    q = factor * ratio
    q_s = factor_t2 * ratio * ratio * z / distance2 + factor * ratio_s
    q_z = factor_t2 * -2 * s * ratio * ratio / distance2 + factor * ratio_z
    rows = [
        [q + 2 * q_s * x * x, 2 * q_s * x * y, q_z * x],
        [2 * q_s * x * y, q + 2 * q_s * y * y, q_z * y],
    ]
    jacobians = torch.stack([torch.stack(row, -1) for row in rows], -2)
    return torch.stack([q * x, q * y], -1), jacobians, is_point & (angle <= cut)
