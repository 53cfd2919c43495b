"""The numbers that the pixels of a photograph need from PPISP's parameters, and the chain rule back, on CUDA.

They are in this order:

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

import triton
import triton.language as tl

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
def constants_of_photograph(
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
def gradients_of_parameters(
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
