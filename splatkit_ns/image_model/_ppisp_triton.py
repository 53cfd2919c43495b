"""PPISP on CUDA as Triton kernels: a few hundred small operations of PyTorch otherwise; see `ppisp` for the formulas.

A first kernel makes the numbers that the pixels need from the parameters: `_constants`. One kernel makes the image, and
one its gradients, which recomputes everything from the render. The gradients of the numbers are sums over all pixels:
each program writes its own sums, PyTorch adds them, and a last kernel applies the chain rule back to the parameters.
The order of all additions is fixed, so that gradients have the same bits in every run.

The numbers are in this order:

- for each channel those of the mean response curve, which renders first go back through, and then for each channel
  those of the camera's response curve: `CURVE` numbers each, which are t, s, g, c and a and the reciprocals of t, s, g,
  c, 1 - c, a and 1 - a;
- for each channel the centre's x and y, a₁, a₂ and a₃ of the vignetting;
- the homography, a row each for the new R, the new G and the new sum of the three, and in each row the factors of blue,
  red and green;
- the factor of the exposure.

Their gradients are in the same order, without those of reciprocals.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from splatkit_ns.image_model._colors_triton import load_colors, store_colors

BLOCK = 256
ROWS = 64
"""The number of photographs that a program writes gradients for."""

CURVE = tl.constexpr(12)
VIGNETTING = tl.constexpr(72)
HOMOGRAPHY = tl.constexpr(87)
EXPOSURE = tl.constexpr(96)
CONSTANTS = 97
"""The number of numbers; above, the places of each kind."""
G_CURVE = tl.constexpr(5)
G_VIGNETTING = tl.constexpr(30)
G_HOMOGRAPHY = tl.constexpr(45)
G_EXPOSURE = tl.constexpr(54)
GRADIENTS = 55
"""The number of their gradients; above, the places of each kind."""
EPS = tl.constexpr(1e-4)
LOG_2 = tl.constexpr(0.6931471805599453)


# ---------------------------------------------------------------------------------------------------------- parameters


@triton.jit
def _store_curve(out_ptr, channel, log_toe, log_shoulder, log_gamma, center_logit):
    """Store the numbers of each channel's curve; `ppisp.response` has the formulas."""
    toe, shoulder, gamma = tl.exp(log_toe), tl.exp(log_shoulder), tl.exp(log_gamma)
    center = 1.0 / (1.0 + tl.exp(-center_logit))
    share = shoulder * center / (toe * (1.0 - center) + shoulder * center)
    out, live = out_ptr + CURVE * channel, channel < 3
    tl.store(out, toe, mask=live)
    tl.store(out + 1, shoulder, mask=live)
    tl.store(out + 2, gamma, mask=live)
    tl.store(out + 3, center, mask=live)
    tl.store(out + 4, share, mask=live)
    tl.store(out + 5, 1.0 / toe, mask=live)
    tl.store(out + 6, 1.0 / shoulder, mask=live)
    tl.store(out + 7, 1.0 / gamma, mask=live)
    tl.store(out + 8, 1.0 / center, mask=live)
    tl.store(out + 9, 1.0 / (1.0 - center), mask=live)
    tl.store(out + 10, 1.0 / share, mask=live)
    tl.store(out + 11, 1.0 / (1.0 - share), mask=live)


@triton.jit
def _mean_of_photographs(curves_ptr, shares_ptr, channel, number: tl.constexpr, photographs, N: tl.constexpr):
    """The mean of one of a curve's numbers over all photographs, for each channel."""
    total = tl.zeros((4,), tl.float32)
    for start in range(0, photographs, N):
        row = start + tl.arange(0, N)
        share = tl.load(shares_ptr + row, mask=row < photographs, other=0.0)
        live = (row < photographs)[:, None] & (channel < 3)[None, :]
        values = tl.load(curves_ptr + 12 * row[:, None] + 4 * channel[None, :] + number, mask=live, other=0.0)
        total += tl.sum(share[:, None] * values, axis=0)
    return total


@triton.jit
def _moved_colors(shifts_ptr):
    """The chromaticities (R, G) / (R + G + B) that blue, red, green and grey are moved to."""
    blue_x, blue_y = tl.load(shifts_ptr), tl.load(shifts_ptr + 1)
    red_x, red_y = 1.0 + tl.load(shifts_ptr + 2), tl.load(shifts_ptr + 3)
    green_x, green_y = tl.load(shifts_ptr + 4), 1.0 + tl.load(shifts_ptr + 5)
    grey_x, grey_y = 1.0 / 3.0 + tl.load(shifts_ptr + 6), 1.0 / 3.0 + tl.load(shifts_ptr + 7)
    return blue_x, blue_y, red_x, red_y, green_x, green_y, grey_x, grey_y


@triton.jit(do_not_specialize=["index_ptr", "photographs"])
def _constants(
    exposure_ptr, colors_ptr, centers_ptr, falloffs_ptr, curves_ptr, shares_ptr, cameras_ptr, index_ptr, out_ptr,
    photographs, N: tl.constexpr,
):  # fmt: skip
    """Write the numbers that the pixels need, in the order of the module's docstring; one program."""
    channel = tl.arange(0, 4)
    live = channel < 3
    index = tl.load(index_ptr)
    camera = tl.load(cameras_ptr + index)
    _store_curve(
        out_ptr,
        channel,
        _mean_of_photographs(curves_ptr, shares_ptr, channel, 0, photographs, N),
        _mean_of_photographs(curves_ptr, shares_ptr, channel, 1, photographs, N),
        _mean_of_photographs(curves_ptr, shares_ptr, channel, 2, photographs, N),
        _mean_of_photographs(curves_ptr, shares_ptr, channel, 3, photographs, N),
    )
    curve = curves_ptr + 12 * camera + 4 * channel
    _store_curve(
        out_ptr + 3 * CURVE,
        channel,
        tl.load(curve, mask=live, other=0.0),
        tl.load(curve + 1, mask=live, other=0.0),
        tl.load(curve + 2, mask=live, other=0.0),
        tl.load(curve + 3, mask=live, other=0.0),
    )
    for i in tl.static_range(2):
        value = tl.load(centers_ptr + 6 * camera + 2 * channel + i, mask=live, other=0.0)
        tl.store(out_ptr + VIGNETTING + 5 * channel + i, value, mask=live)
    for i in tl.static_range(3):
        value = tl.load(falloffs_ptr + 9 * camera + 3 * channel + i, mask=live, other=0.0)
        tl.store(out_ptr + VIGNETTING + 5 * channel + 2 + i, value, mask=live)
    bx, by, rx, ry, gx, gy, x, y = _moved_colors(colors_ptr + 8 * index)
    # the weight of a colour is twice the area of the triangle that grey makes with the other two (Cramer's rule)
    of_blue = (rx - x) * (gy - y) - (ry - y) * (gx - x)
    of_red = (gx - x) * (by - y) - (gy - y) * (bx - x)
    of_green = (bx - x) * (ry - y) - (by - y) * (rx - x)
    homography = out_ptr + HOMOGRAPHY
    tl.store(homography, of_blue * bx)
    tl.store(homography + 1, of_red * rx)
    tl.store(homography + 2, of_green * gx)
    tl.store(homography + 3, of_blue * by)
    tl.store(homography + 4, of_red * ry)
    tl.store(homography + 5, of_green * gy)
    tl.store(homography + 6, of_blue)
    tl.store(homography + 7, of_red)
    tl.store(homography + 8, of_green)
    tl.store(out_ptr + EXPOSURE, tl.exp2(tl.load(exposure_ptr + index)))


@triton.jit
def _curve_gradients(constants, sums, live):
    """The gradients of log t, log s, log g and logit c of each channel, from those of t, s, g, c and a."""
    toe, shoulder = tl.load(constants, mask=live, other=1.0), tl.load(constants + 1, mask=live, other=1.0)
    gamma, center = tl.load(constants + 2, mask=live, other=1.0), tl.load(constants + 3, mask=live, other=0.5)
    g_toe, g_shoulder = tl.load(sums, mask=live, other=0.0), tl.load(sums + 1, mask=live, other=0.0)
    g_gamma, g_center = tl.load(sums + 2, mask=live, other=0.0), tl.load(sums + 3, mask=live, other=0.0)
    g_share = tl.load(sums + 4, mask=live, other=0.0)
    bottom = toe * (1.0 - center) + shoulder * center
    slope = g_share / (bottom * bottom)
    g_toe -= slope * shoulder * center * (1.0 - center)
    g_shoulder += slope * toe * center * (1.0 - center)
    g_center += slope * toe * shoulder
    return toe * g_toe, shoulder * g_shoulder, gamma * g_gamma, center * (1.0 - center) * g_center


@triton.jit(do_not_specialize=["index_ptr", "photographs"])
def _parameter_gradients(
    constants_ptr, sums_ptr, colors_ptr, shares_ptr, cameras_ptr, index_ptr,
    g_exposure_ptr, g_colors_ptr, g_centers_ptr, g_falloffs_ptr, g_curves_ptr, photographs, N: tl.constexpr,
):  # fmt: skip
    """Write the gradients of all parameters, of which a program has the rows of N photographs."""
    row = tl.program_id(0) * N + tl.arange(0, N)
    inside = row < photographs
    index = tl.load(index_ptr)
    camera = tl.load(cameras_ptr + index)
    of_photograph = (row == index).to(tl.float32)
    of_camera = (row == camera).to(tl.float32)
    factor = tl.load(constants_ptr + EXPOSURE)
    tl.store(g_exposure_ptr + row, of_photograph * (LOG_2 * factor * tl.load(sums_ptr + G_EXPOSURE)), mask=inside)

    channel = tl.arange(0, 4)
    live = channel < 3
    cells = inside[:, None] & live[None, :]
    vignetting = sums_ptr + G_VIGNETTING + 5 * channel
    for i in tl.static_range(2):
        value = of_camera[:, None] * tl.load(vignetting + i, mask=live, other=0.0)[None, :]
        tl.store(g_centers_ptr + 6 * row[:, None] + 2 * channel[None, :] + i, value, mask=cells)
    for i in tl.static_range(3):
        value = of_camera[:, None] * tl.load(vignetting + 2 + i, mask=live, other=0.0)[None, :]
        tl.store(g_falloffs_ptr + 9 * row[:, None] + 3 * channel[None, :] + i, value, mask=cells)
    share = tl.load(shares_ptr + row, mask=inside, other=0.0)[:, None]
    own = of_camera[:, None]
    curve, g_curve = constants_ptr + CURVE * channel, sums_ptr + G_CURVE * channel
    m0, m1, m2, m3 = _curve_gradients(curve, g_curve, live)
    c0, c1, c2, c3 = _curve_gradients(curve + 3 * CURVE, g_curve + 3 * G_CURVE, live)
    out = g_curves_ptr + 12 * row[:, None] + 4 * channel[None, :]
    tl.store(out, share * m0[None, :] + own * c0[None, :], mask=cells)
    tl.store(out + 1, share * m1[None, :] + own * c1[None, :], mask=cells)
    tl.store(out + 2, share * m2[None, :] + own * c2[None, :], mask=cells)
    tl.store(out + 3, share * m3[None, :] + own * c3[None, :], mask=cells)

    bx, by, rx, ry, gx, gy, x, y = _moved_colors(colors_ptr + 8 * index)
    homography, g_homography = constants_ptr + HOMOGRAPHY, sums_ptr + G_HOMOGRAPHY
    of_blue, of_red, of_green = tl.load(homography + 6), tl.load(homography + 7), tl.load(homography + 8)
    d_bx, d_rx, d_gx = tl.load(g_homography), tl.load(g_homography + 1), tl.load(g_homography + 2)
    d_by, d_ry, d_gy = tl.load(g_homography + 3), tl.load(g_homography + 4), tl.load(g_homography + 5)
    g_blue = tl.load(g_homography + 6) + d_bx * bx + d_by * by
    g_red = tl.load(g_homography + 7) + d_rx * rx + d_ry * ry
    g_green = tl.load(g_homography + 8) + d_gx * gx + d_gy * gy
    from_blue_x = g_green * (ry - y) - g_red * (gy - y)
    from_blue_y = g_red * (gx - x) - g_green * (rx - x)
    from_red_x = g_blue * (gy - y) - g_green * (by - y)
    from_red_y = g_green * (bx - x) - g_blue * (gx - x)
    from_green_x = g_red * (by - y) - g_blue * (ry - y)
    from_green_y = g_blue * (rx - x) - g_red * (bx - x)
    out = g_colors_ptr + 8 * row
    tl.store(out, of_photograph * (from_blue_x + of_blue * d_bx), mask=inside)
    tl.store(out + 1, of_photograph * (from_blue_y + of_blue * d_by), mask=inside)
    tl.store(out + 2, of_photograph * (from_red_x + of_red * d_rx), mask=inside)
    tl.store(out + 3, of_photograph * (from_red_y + of_red * d_ry), mask=inside)
    tl.store(out + 4, of_photograph * (from_green_x + of_green * d_gx), mask=inside)
    tl.store(out + 5, of_photograph * (from_green_y + of_green * d_gy), mask=inside)
    tl.store(out + 6, of_photograph * -(from_blue_x + from_red_x + from_green_x), mask=inside)
    tl.store(out + 7, of_photograph * -(from_blue_y + from_red_y + from_green_y), mask=inside)


# -------------------------------------------------------------------------------------------------------------- pixels


@triton.jit
def _clamped(value):
    return tl.minimum(tl.maximum(value, EPS), 1.0 - EPS)


@triton.jit
def _load_curve(ptr):
    """t, s, g, c and a."""
    return tl.load(ptr), tl.load(ptr + 1), tl.load(ptr + 2), tl.load(ptr + 3), tl.load(ptr + 4)


@triton.jit
def _response(x, curve_ptr):
    """`ppisp.response` of one channel."""
    toe, shoulder, gamma, center, share = _load_curve(curve_ptr)
    inside = _clamped(x)
    below = inside < center
    base = tl.where(below, inside * tl.load(curve_ptr + 8), (1.0 - inside) * tl.load(curve_ptr + 9))
    power = tl.exp2(tl.where(below, toe, shoulder) * tl.log2(base))
    value = tl.where(below, share * power, 1.0 - (1.0 - share) * power)
    return tl.exp2(gamma * tl.log2(value)) + (x - inside)


@triton.jit
def _response_gradients(x, g, curve_ptr):
    """The gradients of x, t, s, g, c and a, from that of the response."""
    toe, shoulder, gamma, center, share = _load_curve(curve_ptr)
    inside = _clamped(x)
    below = inside < center
    base = tl.where(below, inside * tl.load(curve_ptr + 8), (1.0 - inside) * tl.load(curve_ptr + 9))
    log_base = tl.log2(base)
    exponent = tl.where(below, toe, shoulder)
    power = tl.exp2(exponent * log_base)
    value = tl.where(below, share * power, 1.0 - (1.0 - share) * power)
    log_value = tl.log2(value)
    out = tl.exp2(gamma * log_value)
    g_gamma = g * out * log_value * LOG_2
    g_value = g * gamma * out / value
    g_power = g_value * tl.where(below, share, share - 1.0)
    g_exponent = g_power * power * log_base * LOG_2
    g_base = g_power * exponent * power / base
    side = tl.where(below, tl.load(curve_ptr + 8), -tl.load(curve_ptr + 9))
    g_x = tl.where(inside == x, g_base * side, g)
    return (
        g_x,
        tl.where(below, g_exponent, 0.0),
        tl.where(below, 0.0, g_exponent),
        g_gamma,
        -g_base * base * side,
        g_value * power,
    )


@triton.jit
def _light(x, curve_ptr):
    """`ppisp.inverse_response` of one channel."""
    center, share = tl.load(curve_ptr + 3), tl.load(curve_ptr + 4)
    inside = _clamped(x)
    value = tl.exp2(tl.log2(inside) * tl.load(curve_ptr + 7))
    below = value < share
    base = tl.where(below, value * tl.load(curve_ptr + 10), (1.0 - value) * tl.load(curve_ptr + 11))
    power = tl.exp2(tl.log2(base) * tl.where(below, tl.load(curve_ptr + 5), tl.load(curve_ptr + 6)))
    return tl.where(below, center * power, 1.0 - (1.0 - center) * power) + (x - inside)


@triton.jit
def _light_gradients(x, g, curve_ptr):
    """The gradients of x, t, s, g, c and a, from that of the light."""
    center, share = tl.load(curve_ptr + 3), tl.load(curve_ptr + 4)
    inside = _clamped(x)
    log_inside = tl.log2(inside)
    inverse_gamma = tl.load(curve_ptr + 7)
    value = tl.exp2(log_inside * inverse_gamma)
    below = value < share
    base = tl.where(below, value * tl.load(curve_ptr + 10), (1.0 - value) * tl.load(curve_ptr + 11))
    log_base = tl.log2(base)
    exponent = tl.where(below, tl.load(curve_ptr + 5), tl.load(curve_ptr + 6))
    power = tl.exp2(log_base * exponent)
    g_power = g * tl.where(below, center, center - 1.0)
    g_exponent = -g_power * power * log_base * LOG_2 * exponent * exponent  # of t or s
    g_base = g_power * exponent * power / base
    side = tl.where(below, tl.load(curve_ptr + 10), -tl.load(curve_ptr + 11))
    g_value = g_base * side
    g_log = g_value * value * inverse_gamma
    g_gamma = -g_log * log_inside * LOG_2 * inverse_gamma
    g_x = tl.where(inside == x, g_log / inside, g)
    return (
        g_x,
        tl.where(below, g_exponent, 0.0),
        tl.where(below, 0.0, g_exponent),
        g_gamma,
        g * power,
        -g_base * base * side,
    )


@triton.jit
def _places(i, K_ptr, width):
    """The places of pixels relative to the principal point, in focal lengths."""
    x = ((i % width).to(tl.float32) + 0.5 - tl.load(K_ptr + 2)) * (1.0 / tl.load(K_ptr))
    y = ((i // width).to(tl.float32) + 0.5 - tl.load(K_ptr + 5)) * (1.0 / tl.load(K_ptr + 4))
    return x, y


@triton.jit
def _share_of_light(x, y, ptr):
    """The vignetting of one channel before it is limited to [0, 1], with the squared distance from its centre."""
    across, down = x - tl.load(ptr), y - tl.load(ptr + 1)
    squared = across * across + down * down
    polynomial = tl.load(ptr + 2) + squared * (tl.load(ptr + 3) + squared * tl.load(ptr + 4))
    return 1.0 + squared * polynomial, squared


@triton.jit
def _vignetting_gradients(x, y, g, ptr):
    """The gradients of the centre's x and y, a₁, a₂ and a₃, from that of the share of light."""
    share, squared = _share_of_light(x, y, ptr)
    g = tl.where((share >= 0.0) & (share <= 1.0), g, 0.0)
    slope = tl.load(ptr + 2) + squared * (2.0 * tl.load(ptr + 3) + 3.0 * squared * tl.load(ptr + 4))
    g_across = -2.0 * g * slope
    g_first = g * squared
    g_second = g_first * squared
    return g_across * (x - tl.load(ptr)), g_across * (y - tl.load(ptr + 1)), g_first, g_second, g_second * squared


@triton.jit
def _limited(share):
    return tl.minimum(tl.maximum(share, 0.0), 1.0)


@triton.jit
def _row(ptr, blue, red, green):
    return tl.load(ptr) * blue + tl.load(ptr + 1) * red + tl.load(ptr + 2) * green


@triton.jit
def _before_homography(i, red, green, blue, constants_ptr, K_ptr, width):
    """Render -> light, and the share of it that reaches the sensor, before the colour correction."""
    x, y = _places(i, K_ptr, width)
    light_red = _light(red, constants_ptr)
    light_green = _light(green, constants_ptr + CURVE)
    light_blue = _light(blue, constants_ptr + 2 * CURVE)
    share_red, _ = _share_of_light(x, y, constants_ptr + VIGNETTING)
    share_green, _ = _share_of_light(x, y, constants_ptr + VIGNETTING + 5)
    share_blue, _ = _share_of_light(x, y, constants_ptr + VIGNETTING + 10)
    return light_red, light_green, light_blue, _limited(share_red), _limited(share_green), _limited(share_blue)


@triton.jit(do_not_specialize=["K_ptr", "pixels", "width"])
def _image(render_ptr, constants_ptr, K_ptr, out_ptr, pixels, width, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    live = i < pixels
    red, green, blue = load_colors(render_ptr, i, live)
    red, green, blue, share_red, share_green, share_blue = _before_homography(
        i, red, green, blue, constants_ptr, K_ptr, width
    )
    factor = tl.load(constants_ptr + EXPOSURE)
    red, green, blue = red * factor * share_red, green * factor * share_green, blue * factor * share_blue
    total = red + green + blue
    homography = constants_ptr + HOMOGRAPHY
    scale = total / tl.maximum(_row(homography + 6, blue, red, green), EPS)
    new_red = _row(homography, blue, red, green) * scale
    new_green = _row(homography + 3, blue, red, green) * scale
    new_blue = total - new_red - new_green
    new_red = _response(new_red, constants_ptr + 3 * CURVE)
    new_green = _response(new_green, constants_ptr + 4 * CURVE)
    new_blue = _response(new_blue, constants_ptr + 5 * CURVE)
    store_colors(out_ptr, i, live, new_red, new_green, new_blue)


@triton.jit
def _store_sum(sums_ptr, number, values):
    """Store this program's sum for one of the numbers."""
    tl.store(sums_ptr + number * tl.num_programs(0) + tl.program_id(0), tl.sum(values))


@triton.jit
def _store_five(sums_ptr, number, first, second, third, fourth, fifth):
    _store_sum(sums_ptr, number, first)
    _store_sum(sums_ptr, number + 1, second)
    _store_sum(sums_ptr, number + 2, third)
    _store_sum(sums_ptr, number + 3, fourth)
    _store_sum(sums_ptr, number + 4, fifth)


@triton.jit
def _channel_gradients(x, y, color, g, light, share, factor, constants_ptr, sums_ptr, channel: tl.constexpr):
    """From the gradient of one channel before the colour correction back to that of the render.

    Returns the gradient of the render, and the terms of that of the exposure's factor.
    """
    ptr = constants_ptr + VIGNETTING + 5 * channel
    g_x, g_y, first, second, third = _vignetting_gradients(x, y, g * light * factor, ptr)
    _store_five(sums_ptr, G_VIGNETTING + 5 * channel, g_x, g_y, first, second, third)
    ptr = constants_ptr + CURVE * channel
    g_color, toe, shoulder, gamma, center, a = _light_gradients(color, g * factor * share, ptr)
    _store_five(sums_ptr, G_CURVE * channel, toe, shoulder, gamma, center, a)
    return g_color, g * light * share


@triton.jit(do_not_specialize=["K_ptr", "pixels", "width"])
def _gradients(render_ptr, constants_ptr, K_ptr, g_ptr, g_render_ptr, sums_ptr, pixels, width, B: tl.constexpr):
    """Write the gradient of the render, and each program's sums for the numbers: (GRADIENTS, programs)."""
    i = tl.program_id(0) * B + tl.arange(0, B)
    live = i < pixels
    render_red, render_green, render_blue = load_colors(render_ptr, i, live)
    light_red, light_green, light_blue, share_red, share_green, share_blue = _before_homography(
        i, render_red, render_green, render_blue, constants_ptr, K_ptr, width
    )
    factor = tl.load(constants_ptr + EXPOSURE)
    red = light_red * factor * share_red
    green = light_green * factor * share_green
    blue = light_blue * factor * share_blue
    total = red + green + blue
    homography = constants_ptr + HOMOGRAPHY
    sum_after = _row(homography + 6, blue, red, green)
    inverse = 1.0 / tl.maximum(sum_after, EPS)
    scale = total * inverse
    moved_red = _row(homography, blue, red, green)
    moved_green = _row(homography + 3, blue, red, green)
    new_red, new_green = moved_red * scale, moved_green * scale
    new_blue = total - new_red - new_green

    g_red, g_green, g_blue = load_colors(g_ptr, i, live)
    g_red, toe, shoulder, gamma, center, a = _response_gradients(new_red, g_red, constants_ptr + 3 * CURVE)
    _store_five(sums_ptr, 3 * G_CURVE, toe, shoulder, gamma, center, a)
    g_green, toe, shoulder, gamma, center, a = _response_gradients(new_green, g_green, constants_ptr + 4 * CURVE)
    _store_five(sums_ptr, 4 * G_CURVE, toe, shoulder, gamma, center, a)
    g_blue, toe, shoulder, gamma, center, a = _response_gradients(new_blue, g_blue, constants_ptr + 5 * CURVE)
    _store_five(sums_ptr, 5 * G_CURVE, toe, shoulder, gamma, center, a)

    g_red -= g_blue
    g_green -= g_blue
    g_scale = g_red * moved_red + g_green * moved_green
    g_total = g_blue + g_scale * inverse
    g_row_red, g_row_green = g_red * scale, g_green * scale
    g_row_sum = tl.where(sum_after >= EPS, -g_scale * scale * inverse, 0.0)
    _store_sum(sums_ptr, G_HOMOGRAPHY, g_row_red * blue)
    _store_sum(sums_ptr, G_HOMOGRAPHY + 1, g_row_red * red)
    _store_sum(sums_ptr, G_HOMOGRAPHY + 2, g_row_red * green)
    _store_sum(sums_ptr, G_HOMOGRAPHY + 3, g_row_green * blue)
    _store_sum(sums_ptr, G_HOMOGRAPHY + 4, g_row_green * red)
    _store_sum(sums_ptr, G_HOMOGRAPHY + 5, g_row_green * green)
    _store_sum(sums_ptr, G_HOMOGRAPHY + 6, g_row_sum * blue)
    _store_sum(sums_ptr, G_HOMOGRAPHY + 7, g_row_sum * red)
    _store_sum(sums_ptr, G_HOMOGRAPHY + 8, g_row_sum * green)
    h = homography
    g_blue = g_total + g_row_red * tl.load(h) + g_row_green * tl.load(h + 3) + g_row_sum * tl.load(h + 6)
    g_red = g_total + g_row_red * tl.load(h + 1) + g_row_green * tl.load(h + 4) + g_row_sum * tl.load(h + 7)
    g_green = g_total + g_row_red * tl.load(h + 2) + g_row_green * tl.load(h + 5) + g_row_sum * tl.load(h + 8)

    x, y = _places(i, K_ptr, width)
    g_red, of_red = _channel_gradients(
        x, y, render_red, g_red, light_red, share_red, factor, constants_ptr, sums_ptr, 0
    )
    g_green, of_green = _channel_gradients(
        x, y, render_green, g_green, light_green, share_green, factor, constants_ptr, sums_ptr, 1
    )
    g_blue, of_blue = _channel_gradients(
        x, y, render_blue, g_blue, light_blue, share_blue, factor, constants_ptr, sums_ptr, 2
    )
    _store_sum(sums_ptr, G_EXPOSURE, of_red + of_green + of_blue)
    store_colors(g_render_ptr, i, live, g_red, g_green, g_blue)


class PPISPImage(torch.autograd.Function):
    """(render, exposure, colors, centers, falloffs, curves, shares, cameras, index, K) -> the image of a photograph.

    Render and image are (1, H, W, 3); the parameters are those of `PPISP`; shares (N,) are the shares of photographs
    whose camera a row describes, cameras (N,) int64 the row of each photograph's camera, index (1,) int64 the number of
    the photograph, and K (3, 3) the intrinsics. All others are float32. The first six get gradients.
    """

    @staticmethod
    def forward(ctx: Any, render: Tensor, *tensors: Tensor) -> Tensor:
        render = render.contiguous()
        exposure, colors, centers, falloffs, curves, shares, cameras, index, K = (t.contiguous() for t in tensors)
        constants, image = render.new_empty(CONSTANTS), torch.empty_like(render)
        pixels, width = render.numel() // 3, render.shape[2]
        with torch.cuda.device_of(render):  # does nothing for CPU tensors, which Triton's interpreter accepts
            _constants[(1,)](
                exposure, colors, centers, falloffs, curves, shares, cameras, index, constants, len(exposure), N=ROWS
            )
            _image[(triton.cdiv(pixels, BLOCK),)](render, constants, K, image, pixels, width, B=BLOCK)
        ctx.save_for_backward(render, colors, shares, cameras, index, K, constants)
        ctx.shapes = [parameter.shape for parameter in (exposure, colors, centers, falloffs, curves)]
        return image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_image: Tensor) -> tuple[Tensor | None, ...]:
        render, colors, shares, cameras, index, K, constants = ctx.saved_tensors
        pixels, width = render.numel() // 3, render.shape[2]
        programs = triton.cdiv(pixels, BLOCK)
        g_render, sums = torch.empty_like(render), render.new_empty(GRADIENTS, programs)
        gradients = [render.new_empty(shape) for shape in ctx.shapes]
        with torch.cuda.device_of(render):
            _gradients[(programs,)](
                render, constants, K, g_image.contiguous(), g_render, sums, pixels, width, B=BLOCK
            )  # fmt: skip
            _parameter_gradients[(triton.cdiv(len(shares), ROWS),)](
                constants, sums.sum(1), colors, shares, cameras, index, *gradients, len(shares), N=ROWS
            )
        return g_render, *gradients, None, None, None, None


# -------------------------------------------------------------------------------------------------------- regularisers


@triton.jit
def _of_channels(ptr, size: tl.constexpr, j):
    """Numbers j of the three channels, and their mean."""
    live = j < size
    first = tl.load(ptr + j, mask=live, other=0.0)
    second = tl.load(ptr + size + j, mask=live, other=0.0)
    third = tl.load(ptr + 2 * size + j, mask=live, other=0.0)
    return first, second, third, (first + second + third) / 3.0


@triton.jit
def _variance(ptr, size: tl.constexpr, j):
    """The variances of a camera's numbers over the channels, summed up."""
    first, second, third, mean = _of_channels(ptr, size, j)
    first, second, third = first - mean, second - mean, third - mean
    return tl.sum(first * first + second * second + third * third) / 3.0


@triton.jit(do_not_specialize=["index_ptr"])
def _penalties(
    exposure_ptr, colors_ptr, centers_ptr, falloffs_ptr, curves_ptr, cameras_ptr, index_ptr, out_ptr,
    prior, center_reg, falloff_reg, channel_reg,
):  # fmt: skip
    """Write the four terms of `PPISP.regularizers`; one program."""
    index = tl.load(index_ptr)
    camera = tl.load(cameras_ptr + index)
    exposure = tl.load(exposure_ptr + index)
    j = tl.arange(0, 16)
    shifts = tl.load(colors_ptr + 8 * index + j, mask=j < 8, other=0.0)
    centers = tl.load(centers_ptr + 6 * camera + j, mask=j < 6, other=0.0)
    falloffs = tl.load(falloffs_ptr + 9 * camera + j, mask=j < 9, other=0.0)
    tl.store(out_ptr, prior * (exposure * exposure + tl.sum(shifts * shifts)))
    tl.store(out_ptr + 1, center_reg * tl.sum(centers * centers) / 3.0)
    tl.store(out_ptr + 2, falloff_reg * tl.sum(tl.maximum(falloffs, 0.0)) / 9.0)
    variance = _variance(centers_ptr + 6 * camera, 2, j)
    variance += _variance(falloffs_ptr + 9 * camera, 3, j) + _variance(curves_ptr + 12 * camera, 4, j)
    tl.store(out_ptr + 3, channel_reg * variance / 9.0)


@triton.jit
def _store_rows(out_ptr, row, rows, j, size: tl.constexpr, chosen, values):
    """Store values in the chosen row, 0 in all others."""
    values = tl.where((row == chosen)[:, None], values[None, :], 0.0)
    tl.store(out_ptr + size * row[:, None] + j[None, :], values, mask=(row < rows)[:, None] & (j < size)[None, :])


@triton.jit
def _deviations(ptr, size: tl.constexpr, channel_size: tl.constexpr, j):
    """A camera's numbers j, less their means over the channels."""
    live = j < size
    values = tl.load(ptr + j, mask=live, other=0.0)
    first = tl.load(ptr + j % channel_size, mask=live, other=0.0)
    second = tl.load(ptr + channel_size + j % channel_size, mask=live, other=0.0)
    third = tl.load(ptr + 2 * channel_size + j % channel_size, mask=live, other=0.0)
    return values, values - (first + second + third) / 3.0


@triton.jit(do_not_specialize=["index_ptr", "photographs"])
def _penalty_gradients(
    exposure_ptr, colors_ptr, centers_ptr, falloffs_ptr, curves_ptr, cameras_ptr, index_ptr, g_ptr,
    g_exposure_ptr, g_colors_ptr, g_centers_ptr, g_falloffs_ptr, g_curves_ptr,
    prior, center_reg, falloff_reg, channel_reg, photographs, N: tl.constexpr,
):  # fmt: skip
    """Write the gradients of all parameters, of which a program has the rows of N photographs."""
    row = tl.program_id(0) * N + tl.arange(0, N)
    index = tl.load(index_ptr)
    camera = tl.load(cameras_ptr + index)
    g_prior = 2.0 * prior * tl.load(g_ptr)
    g_center = 2.0 / 3.0 * center_reg * tl.load(g_ptr + 1)
    g_falloff = falloff_reg / 9.0 * tl.load(g_ptr + 2)
    g_channels = 2.0 / 27.0 * channel_reg * tl.load(g_ptr + 3)
    value = tl.where(row == index, g_prior * tl.load(exposure_ptr + index), 0.0)
    tl.store(g_exposure_ptr + row, value, mask=row < photographs)
    j = tl.arange(0, 16)
    shifts = tl.load(colors_ptr + 8 * index + j, mask=j < 8, other=0.0)
    _store_rows(g_colors_ptr, row, photographs, j, 8, index, g_prior * shifts)
    values, deviations = _deviations(centers_ptr + 6 * camera, 6, 2, j)
    _store_rows(g_centers_ptr, row, photographs, j, 6, camera, g_center * values + g_channels * deviations)
    values, deviations = _deviations(falloffs_ptr + 9 * camera, 9, 3, j)
    g_positive = tl.where(values >= 0.0, g_falloff, 0.0)  # at 0 as PyTorch's clamp
    _store_rows(g_falloffs_ptr, row, photographs, j, 9, camera, g_positive + g_channels * deviations)
    values, deviations = _deviations(curves_ptr + 12 * camera, 12, 4, j)
    _store_rows(g_curves_ptr, row, photographs, j, 12, camera, g_channels * deviations)


class PPISPPenalties(torch.autograd.Function):
    """(exposure, colors, centers, falloffs, curves, cameras, index, weights) -> the four regularisers, weighted, (4,).

    The weights are the four of `PPISP`; see `PPISPImage` for the rest. The first five get gradients.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, weights = arguments
        terms = tensors[0].new_empty(4)
        with torch.cuda.device_of(terms):
            _penalties[(1,)](*tensors, terms, *weights)
        ctx.save_for_backward(*tensors)
        ctx.weights = weights
        return terms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_terms: Tensor) -> tuple[Tensor | None, ...]:
        *parameters, cameras, index = ctx.saved_tensors
        gradients = [torch.empty_like(parameter) for parameter in parameters]
        photographs = len(cameras)
        with torch.cuda.device_of(g_terms):
            _penalty_gradients[(triton.cdiv(photographs, ROWS),)](
                *parameters, cameras, index, g_terms.contiguous(), *gradients, *ctx.weights, photographs, N=ROWS
            )
        return *gradients, None, None, None


def first_launches(device: str) -> None:
    """Launch each kernel with the kinds of arguments that training has, for Triton to compile it."""
    render = torch.zeros(1, 1, 1, 3, device=device, requires_grad=True)
    shapes = ((1,), (1, 4, 2), (1, 3, 2), (1, 3, 3), (1, 3, 4))
    parameters = [torch.zeros(shape, device=device, requires_grad=True) for shape in shapes]
    cameras = torch.zeros(1, dtype=torch.int64, device=device)
    shares, K = torch.ones(1, device=device), torch.eye(3, device=device)
    image: Any = PPISPImage.apply(render, *parameters, shares, cameras, cameras, K)
    terms: Any = PPISPPenalties.apply(*parameters, cameras, cameras, (0.01, 0.02, 0.01, 0.1))
    (image.sum() + terms.sum()).backward()
