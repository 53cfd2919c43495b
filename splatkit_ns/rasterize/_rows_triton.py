"""Small pieces that kernels share: rows of three numbers, as of colours and places, matrices and rotations."""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load3(ptr, i, live):
    """Load rows of three numbers; 0 for rows that are not live."""
    x = tl.load(ptr + 3 * i, mask=live, other=0.0)
    y = tl.load(ptr + 3 * i + 1, mask=live, other=0.0)
    z = tl.load(ptr + 3 * i + 2, mask=live, other=0.0)
    return x, y, z


@triton.jit
def store3(ptr, i, x, y, z, live):
    """Store rows of three numbers, those that are live."""
    tl.store(ptr + 3 * i, x, mask=live)
    tl.store(ptr + 3 * i + 1, y, mask=live)
    tl.store(ptr + 3 * i + 2, z, mask=live)


@triton.jit
def load_matrix(ptr, row: tl.constexpr):
    """Load the upper left 3 x 3 of a matrix whose rows have ``row`` numbers."""
    return (
        tl.load(ptr), tl.load(ptr + 1), tl.load(ptr + 2),
        tl.load(ptr + row), tl.load(ptr + row + 1), tl.load(ptr + row + 2),
        tl.load(ptr + 2 * row), tl.load(ptr + 2 * row + 1), tl.load(ptr + 2 * row + 2),
    )  # fmt: skip


@triton.jit
def times(m00, m01, m02, m10, m11, m12, m20, m21, m22, x, y, z):
    """Return matrix times vector."""
    return m00 * x + m01 * y + m02 * z, m10 * x + m11 * y + m12 * z, m20 * x + m21 * y + m22 * z


@triton.jit
def unit_quaternion(ptr, i, live):
    """Load a quaternion; return it with length 1, and its original length, at least 1e-12."""
    w = tl.load(ptr + 4 * i, mask=live, other=1.0)
    x = tl.load(ptr + 4 * i + 1, mask=live, other=0.0)
    y = tl.load(ptr + 4 * i + 2, mask=live, other=0.0)
    z = tl.load(ptr + 4 * i + 3, mask=live, other=0.0)
    length = tl.maximum(tl.sqrt(w * w + x * x + y * y + z * z), 1e-12)
    return w / length, x / length, y / length, z / length, length


@triton.jit
def rotation(w, x, y, z):
    """Return the rotation of a unit quaternion, row by row; the identity for a quaternion of zeros."""
    return (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip


@triton.jit
def store_quaternion_gradient(
    ptr, i, w, x, y, z, length, g_r00, g_r01, g_r02, g_r10, g_r11, g_r12, g_r20, g_r21, g_r22, live
):  # fmt: skip
    """Store the gradient of a quaternion of any length from that of its rotation."""
    g_w = 2 * (x * (g_r21 - g_r12) + y * (g_r02 - g_r20) + z * (g_r10 - g_r01))
    g_x = 2 * (y * (g_r01 + g_r10) + z * (g_r02 + g_r20) + w * (g_r21 - g_r12)) - 4 * x * (g_r11 + g_r22)
    g_y = 2 * (x * (g_r01 + g_r10) + z * (g_r12 + g_r21) + w * (g_r02 - g_r20)) - 4 * y * (g_r00 + g_r22)
    g_z = 2 * (x * (g_r02 + g_r20) + y * (g_r12 + g_r21) + w * (g_r10 - g_r01)) - 4 * z * (g_r00 + g_r11)
    known = length > 1e-12
    along = g_w * w + g_x * x + g_y * y + g_z * z  # normalisation removes the part along the quaternion
    tl.store(ptr + 4 * i, tl.where(known, (g_w - along * w) / length, 0.0), mask=live)
    tl.store(ptr + 4 * i + 1, tl.where(known, (g_x - along * x) / length, 0.0), mask=live)
    tl.store(ptr + 4 * i + 2, tl.where(known, (g_y - along * y) / length, 0.0), mask=live)
    tl.store(ptr + 4 * i + 3, tl.where(known, (g_z - along * z) / length, 0.0), mask=live)
