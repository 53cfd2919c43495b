"""Pieces that the kernels of spherical harmonics share: the basis, its derivatives, and blocks of Gaussians.

The basis is that of 3D Gaussian Splatting and gsplat: real spherical harmonics with the Condon-Shortley phase.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

import math

import triton
import triton.language as tl

BLOCK = 16
"""The number of Gaussians of a program."""
WARPS = 1
C0 = tl.constexpr(math.sqrt(1 / math.pi) / 2)
C1 = tl.constexpr(math.sqrt(3 / math.pi) / 2)
C20 = tl.constexpr(math.sqrt(15 / math.pi) / 2)
C21 = tl.constexpr(math.sqrt(5 / math.pi) / 4)
C22 = tl.constexpr(math.sqrt(15 / math.pi) / 4)
C30 = tl.constexpr(math.sqrt(35 / (2 * math.pi)) / 4)
C31 = tl.constexpr(math.sqrt(105 / math.pi) / 2)
C32 = tl.constexpr(math.sqrt(21 / (2 * math.pi)) / 4)
C33 = tl.constexpr(math.sqrt(7 / math.pi) / 4)
C34 = tl.constexpr(math.sqrt(105 / math.pi) / 4)


@triton.jit
def direction(means_ptr, centres_ptr, g, camera, live):
    """Return unit vectors from the camera's centre to the Gaussians, and 1 / distance."""
    x = tl.load(means_ptr + 3 * g, mask=live, other=1.0) - tl.load(centres_ptr + 3 * camera)
    y = tl.load(means_ptr + 3 * g + 1, mask=live, other=0.0) - tl.load(centres_ptr + 3 * camera + 1)
    z = tl.load(means_ptr + 3 * g + 2, mask=live, other=0.0) - tl.load(centres_ptr + 3 * camera + 2)
    inverse = 1.0 / tl.maximum(tl.sqrt(x * x + y * y + z * z), 1e-12)
    return x * inverse, y * inverse, z * inverse, inverse


@triton.jit
def _basis(k: tl.constexpr, x, y, z):
    """Evaluate basis function number k."""
    if k == 0:
        return x * 0.0 + C0
    if k == 1:
        return -C1 * y
    if k == 2:
        return C1 * z
    if k == 3:
        return -C1 * x
    if k == 4:
        return C20 * x * y
    if k == 5:
        return -C20 * y * z
    if k == 6:
        return C21 * (2.0 * z * z - x * x - y * y)
    if k == 7:
        return -C20 * x * z
    if k == 8:
        return C22 * (x * x - y * y)
    if k == 9:
        return -C30 * y * (3.0 * x * x - y * y)
    if k == 10:
        return C31 * x * y * z
    if k == 11:
        return -C32 * y * (4.0 * z * z - x * x - y * y)
    if k == 12:
        return C33 * z * (2.0 * z * z - 3.0 * x * x - 3.0 * y * y)
    if k == 13:
        return -C32 * x * (4.0 * z * z - x * x - y * y)
    if k == 14:
        return C34 * z * (x * x - y * y)
    return -C30 * x * (x * x - 3.0 * y * y)


@triton.jit
def _slope(k: tl.constexpr, x, y, z):
    """Evaluate the derivatives of basis function number k, taken as a polynomial in x, y and z."""
    zero = x * 0.0
    if k == 0:
        return zero, zero, zero
    if k == 1:
        return zero, zero - C1, zero
    if k == 2:
        return zero, zero, zero + C1
    if k == 3:
        return zero - C1, zero, zero
    if k == 4:
        return C20 * y, C20 * x, zero
    if k == 5:
        return zero, -C20 * z, -C20 * y
    if k == 6:
        return -2.0 * C21 * x, -2.0 * C21 * y, 4.0 * C21 * z
    if k == 7:
        return -C20 * z, zero, -C20 * x
    if k == 8:
        return 2.0 * C22 * x, -2.0 * C22 * y, zero
    if k == 9:
        return -6.0 * C30 * x * y, -3.0 * C30 * (x * x - y * y), zero
    if k == 10:
        return C31 * y * z, C31 * x * z, C31 * x * y
    if k == 11:
        return 2.0 * C32 * x * y, -C32 * (4.0 * z * z - x * x - 3.0 * y * y), -8.0 * C32 * y * z
    if k == 12:
        return -6.0 * C33 * x * z, -6.0 * C33 * y * z, C33 * (6.0 * z * z - 3.0 * x * x - 3.0 * y * y)
    if k == 13:
        return -C32 * (4.0 * z * z - 3.0 * x * x - y * y), 2.0 * C32 * x * y, -8.0 * C32 * x * z
    if k == 14:
        return 2.0 * C34 * x * z, -2.0 * C34 * y * z, C34 * (x * x - y * y)
    return -3.0 * C30 * (x * x - y * y), 6.0 * C30 * x * y, zero


@triton.jit
def _pairs(a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7):
    """Join eight pairs; each result has one more axis, of 2."""
    return (
        tl.join(a0, b0), tl.join(a1, b1), tl.join(a2, b2), tl.join(a3, b3),
        tl.join(a4, b4), tl.join(a5, b5), tl.join(a6, b6), tl.join(a7, b7),
    )  # fmt: skip


@triton.jit
def _stack(v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13, v14, v15, B: tl.constexpr):
    """Stack sixteen vectors to (B, 16)."""
    v0, v1, v2, v3, v4, v5, v6, v7 = _pairs(v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13, v14, v15)
    v0, v1, v2, v3 = tl.join(v0, v4), tl.join(v1, v5), tl.join(v2, v6), tl.join(v3, v7)
    v0, v1 = tl.join(v0, v2), tl.join(v1, v3)
    return tl.reshape(tl.join(v0, v1), (B, 16))


@triton.jit
def _used_basis(k: tl.constexpr, x, y, z, bands, STORED: tl.constexpr):
    """Evaluate basis function number k; it is 0 if it does not exist or is not used."""
    if k < STORED:
        return tl.where(bands > k, _basis(k, x, y, z), 0.0)
    return x * 0.0


@triton.jit
def all_bases(x, y, z, bands, STORED: tl.constexpr, B: tl.constexpr):
    """Evaluate the basis functions from number 1 on, (B, 16), of which the last column is 0."""
    return _stack(
        _used_basis(1, x, y, z, bands, STORED), _used_basis(2, x, y, z, bands, STORED),
        _used_basis(3, x, y, z, bands, STORED), _used_basis(4, x, y, z, bands, STORED),
        _used_basis(5, x, y, z, bands, STORED), _used_basis(6, x, y, z, bands, STORED),
        _used_basis(7, x, y, z, bands, STORED), _used_basis(8, x, y, z, bands, STORED),
        _used_basis(9, x, y, z, bands, STORED), _used_basis(10, x, y, z, bands, STORED),
        _used_basis(11, x, y, z, bands, STORED), _used_basis(12, x, y, z, bands, STORED),
        _used_basis(13, x, y, z, bands, STORED), _used_basis(14, x, y, z, bands, STORED),
        _used_basis(15, x, y, z, bands, STORED), x * 0.0, B,
    )  # fmt: skip


@triton.jit
def _unstack(v, B: tl.constexpr):
    """Return the sixteen columns of (B, 16): the reverse of `_stack`."""
    w0, w1 = tl.split(tl.reshape(v, (B, 2, 2, 2, 2)))
    w0, w2 = tl.split(w0)
    w1, w3 = tl.split(w1)
    w0, w4 = tl.split(w0)
    w1, w5 = tl.split(w1)
    w2, w6 = tl.split(w2)
    w3, w7 = tl.split(w3)
    v0, v8 = tl.split(w0)
    v1, v9 = tl.split(w1)
    v2, v10 = tl.split(w2)
    v3, v11 = tl.split(w3)
    v4, v12 = tl.split(w4)
    v5, v13 = tl.split(w5)
    v6, v14 = tl.split(w6)
    v7, v15 = tl.split(w7)
    return v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13, v14, v15


@triton.jit
def _add_slope(k: tl.constexpr, along, x, y, z, to_x, to_y, to_z, STORED: tl.constexpr):
    """Add the derivatives of basis function number k, times a factor, if it exists."""
    if k < STORED:
        by_x, by_y, by_z = _slope(k, x, y, z)
        to_x += by_x * along
        to_y += by_y * along
        to_z += by_z * along
    return to_x, to_y, to_z


@triton.jit
def add_slopes(along, x, y, z, STORED: tl.constexpr, B: tl.constexpr):
    """Return the derivatives of all basis functions, added up with the factors (B, 16)."""
    a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, _rest = _unstack(along, B)
    sx, sy, sz = x * 0.0, x * 0.0, x * 0.0
    sx, sy, sz = _add_slope(1, a1, x, y, z, sx, sy, sz, STORED)
    sx, sy, sz = _add_slope(2, a2, x, y, z, sx, sy, sz, STORED)
    sx, sy, sz = _add_slope(3, a3, x, y, z, sx, sy, sz, STORED)
    sx, sy, sz = _add_slope(4, a4, x, y, z, sx, sy, sz, STORED)
    sx, sy, sz = _add_slope(5, a5, x, y, z, sx, sy, sz, STORED)
    sx, sy, sz = _add_slope(6, a6, x, y, z, sx, sy, sz, STORED)
    sx, sy, sz = _add_slope(7, a7, x, y, z, sx, sy, sz, STORED)
    sx, sy, sz = _add_slope(8, a8, x, y, z, sx, sy, sz, STORED)
    sx, sy, sz = _add_slope(9, a9, x, y, z, sx, sy, sz, STORED)
    sx, sy, sz = _add_slope(10, a10, x, y, z, sx, sy, sz, STORED)
    sx, sy, sz = _add_slope(11, a11, x, y, z, sx, sy, sz, STORED)
    sx, sy, sz = _add_slope(12, a12, x, y, z, sx, sy, sz, STORED)
    sx, sy, sz = _add_slope(13, a13, x, y, z, sx, sy, sz, STORED)
    sx, sy, sz = _add_slope(14, a14, x, y, z, sx, sy, sz, STORED)
    return _add_slope(15, a15, x, y, z, sx, sy, sz, STORED)


@triton.jit
def block_of_gaussians(num, B: tl.constexpr):
    """Return the first Gaussian of this program, all of them, (B,), which exist, and which of 4 channels do, (1, 4)."""
    start = tl.program_id(0).to(tl.int64) * B
    g = start + tl.arange(0, B)
    return start, g, g < num, tl.arange(0, 4)[None, :] < 3


@triton.jit
def coefficient_offsets(STORED: tl.constexpr, JOINED: tl.constexpr, B: tl.constexpr):
    """Return the places of coefficient number 0, (B, 4), and of the others, (B, 16, 4), in a block of B Gaussians.

    The last axis is the channel, of which there are three, and the axis before it the number from 1 on. With JOINED all
    are in one array (N, STORED, 3), else in two, (N, 1, 3) and (N, STORED - 1, 3).

    Returns:
        Both places, and the number of a coefficient and channel among the others of its Gaussian, (1, 16, 4).
    """
    row, c = tl.arange(0, B)[:, None], tl.arange(0, 4)[None, :]
    others = 3 * tl.arange(0, 16)[None, :, None] + c[:, None, :]
    first = row * (3 * STORED if JOINED else 3) + c
    rest = row[:, :, None] * (3 * STORED if JOINED else 3 * (STORED - 1)) + others + (3 if JOINED else 0)
    return first, rest, others


@triton.jit
def block_pointers(first_ptr, rest_ptr, start, STORED: tl.constexpr, JOINED: tl.constexpr):
    """Return the pointers to both kinds of coefficients of the Gaussian with which a block starts."""
    if JOINED:
        return first_ptr + 3 * STORED * start, rest_ptr + 3 * STORED * start
    return first_ptr + 3 * start, rest_ptr + 3 * (STORED - 1) * start


@triton.jit
def store_coefficients(
    first_ptr, rest_ptr, first, rest, others, v_first, v_rest, known, is_channel,
    HAS_REST: tl.constexpr, STORED: tl.constexpr,
):  # fmt: skip
    """Store a block's gradients of coefficient number 0, (B, 4), and with HAS_REST of the others, (B, 16, 4)."""
    tl.store(first_ptr + first, v_first, mask=known[:, None] & is_channel)
    if HAS_REST:
        exists = (others < 3 * STORED - 3) & is_channel[:, None, :]
        tl.store(rest_ptr + rest, v_rest, mask=known[:, None, None] & exists)
