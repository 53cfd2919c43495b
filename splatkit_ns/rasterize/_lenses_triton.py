"""Lenses inside the projection kernels: a point in the camera's axes to its pixel and the Jacobian there, and back.

Each lens is two functions with the arguments and results of `pinhole` and `pinhole_backward`.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _clamped(slope, focal, centre, size):
    """Clamp x / z (or y / z) to 15% beyond the image on each side; see `cpu.projection.clamped_slope`."""
    margin = 0.15 * size / focal
    return tl.minimum((size - centre) / focal + margin, tl.maximum(-centre / focal - margin, slope))


@triton.jit
def pinhole(x, y, z, fx, fy, cx, cy, width, height):
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
def pinhole_backward(
    x, y, z, fx, fy, cx, cy, width, height, g_px, g_py, g_j00, g_j01, g_j02, g_j10, g_j11, g_j12
):  # fmt: skip
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
