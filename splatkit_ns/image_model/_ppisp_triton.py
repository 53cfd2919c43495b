"""PPISP on CUDA as Triton kernels: a few hundred small operations of PyTorch otherwise; see `ppisp` for the formulas.

A first kernel makes the numbers that the pixels need from the parameters: `_ppisp_constants_triton`. One kernel makes
the image, and one its gradients, which recomputes everything from the render. The gradients of the numbers are sums
over all pixels: each program writes its own sums, PyTorch adds them, and a last kernel applies the chain rule back to
the parameters. The order of all additions is fixed, so that gradients have the same bits in every run.
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

from splatkit_ns.image_model._ppisp_constants_triton import (
    CONSTANTS,
    CURVE,
    EPS,
    EXPOSURE,
    G_CURVE,
    G_EXPOSURE,
    G_HOMOGRAPHY,
    G_VIGNETTING,
    GRADIENTS,
    HOMOGRAPHY,
    LOG_2,
    ROWS,
    VIGNETTING,
    constants_of_photograph,
    gradients_of_parameters,
)
from splatkit_ns.image_model._ppisp_penalties_triton import PPISPPenalties
from splatkit_ns.rasterize._rows_triton import load3, store3

BLOCK = 256
"""The number of pixels of a program."""


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
    red, green, blue = load3(render_ptr, i, live)
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
    store3(out_ptr, i, new_red, new_green, new_blue, live)


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
    """Propagate the gradient of one channel before the colour correction back to the render.

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
    render_red, render_green, render_blue = load3(render_ptr, i, live)
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

    g_red, g_green, g_blue = load3(g_ptr, i, live)
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
    store3(g_render_ptr, i, g_red, g_green, g_blue, live)


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
            constants_of_photograph[(1,)](
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
            gradients_of_parameters[(triton.cdiv(len(shares), ROWS),)](
                constants, sums.sum(1), colors, shares, cameras, index, *gradients, len(shares), N=ROWS
            )
        return g_render, *gradients, None, None, None, None


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
