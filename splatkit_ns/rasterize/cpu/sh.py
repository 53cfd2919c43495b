"""Colours from spherical harmonics of degree 0 to 3, forward and backward.

Real spherical harmonics in the order and with the signs that 3DGS files use (Condon-Shortley phase, as in Sloan,
"Efficient Spherical Harmonic Evaluation", JCGT 2013). A colour is max(SH + 0.5, 0).
"""

# Kernel arguments are scalars and arrays whose types numba infers; their shapes are in the docstrings.
# pyright: reportMissingParameterType=false

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

Y00 = 0.28209479177387814  # 1 / (2 sqrt(pi))
Y1 = 0.4886025119029199  # sqrt(3 / (4 pi))
Y2A = 1.0925484305920792  # sqrt(15 / (4 pi))
Y20 = 0.31539156525252005  # sqrt(5 / (16 pi))
Y22 = 0.5462742152960396  # sqrt(15 / (16 pi))
Y3A = 0.5900435899266435  # sqrt(35 / (32 pi))
Y3B = 2.890611442640554  # sqrt(105 / (4 pi))
Y3C = 0.4570457994644658  # sqrt(21 / (32 pi))
Y30 = 0.3731763325901154  # sqrt(7 / (16 pi))
Y32 = 1.445305721320277  # sqrt(105 / (16 pi))


@numba.njit(cache=True, inline="always", error_model="numpy")
def sh_basis(degree: int, x: float, y: float, z: float, basis: Any) -> None:
    """Write the (degree + 1)² basis values at the unit direction (x, y, z)."""
    basis[0] = Y00
    if degree >= 1:
        basis[1], basis[2], basis[3] = -Y1 * y, Y1 * z, -Y1 * x
    if degree >= 2:
        basis[4], basis[5] = Y2A * x * y, -Y2A * y * z
        basis[6] = Y20 * (3.0 * z * z - 1.0)
        basis[7], basis[8] = -Y2A * x * z, Y22 * (x * x - y * y)
    if degree >= 3:
        basis[9], basis[10] = -Y3A * y * (3.0 * x * x - y * y), Y3B * x * y * z
        basis[11] = -Y3C * y * (5.0 * z * z - 1.0)
        basis[12] = Y30 * z * (5.0 * z * z - 3.0)
        basis[13] = -Y3C * x * (5.0 * z * z - 1.0)
        basis[14], basis[15] = Y32 * z * (x * x - y * y), -Y3A * x * (x * x - 3.0 * y * y)


@numba.njit(cache=True, inline="always", error_model="numpy")
def sh_direction_gradient(degree: int, x: float, y: float, z: float, v: Any) -> tuple[float, float, float]:
    """Return the gradient with respect to (x, y, z), before normalisation, of sum_k v[k] * basis[k]."""
    gx = gy = gz = 0.0
    if degree >= 1:
        gx, gy, gz = -Y1 * v[3], -Y1 * v[1], Y1 * v[2]
    if degree >= 2:
        gx += Y2A * (y * v[4] - z * v[7]) + 2.0 * Y22 * x * v[8]
        gy += Y2A * (x * v[4] - z * v[5]) - 2.0 * Y22 * y * v[8]
        gz += -Y2A * (y * v[5] + x * v[7]) + 6.0 * Y20 * z * v[6]
    if degree >= 3:
        zz = 5.0 * z * z - 1.0
        gx += -6.0 * Y3A * x * y * v[9] + Y3B * y * z * v[10] - Y3C * zz * v[13]
        gx += 2.0 * Y32 * x * z * v[14] - 3.0 * Y3A * (x * x - y * y) * v[15]
        gy += -3.0 * Y3A * (x * x - y * y) * v[9] + Y3B * x * z * v[10] - Y3C * zz * v[11]
        gy += -2.0 * Y32 * y * z * v[14] + 6.0 * Y3A * x * y * v[15]
        gz += Y3B * x * y * v[10] - 10.0 * Y3C * z * (y * v[11] + x * v[13])
        gz += Y30 * (15.0 * z * z - 3.0) * v[12] + Y32 * (x * x - y * y) * v[14]
    return gx, gy, gz


@numba.njit(cache=True, nogil=True, error_model="numpy")
def sh_colours(first, last, camera, degree, means, centres, coefficients, radii, colours):
    """Write the colours (C, N, 3) of Gaussians first to last of N, seen from one of the camera centres (C, 3).

    coefficients is (N, K, 3) with K >= (degree + 1)²; further bands are ignored. Colours of Gaussians whose radii
    (C, N, 2) are 0 stay as they are.
    """
    bands = (degree + 1) * (degree + 1)
    basis = np.empty(16)
    for g in range(first, last):
        if radii[camera, g, 0] == 0 and radii[camera, g, 1] == 0:
            continue
        x = float(means[g, 0]) - float(centres[camera, 0])
        y = float(means[g, 1]) - float(centres[camera, 1])
        z = float(means[g, 2]) - float(centres[camera, 2])
        norm = max(math.sqrt(x * x + y * y + z * z), 1e-12)
        sh_basis(degree, x / norm, y / norm, z / norm, basis)
        for c in range(3):
            total = 0.5
            for k in range(bands):
                total += basis[k] * coefficients[g, k, c]
            colours[camera, g, c] = max(total, 0.0)


@numba.njit(cache=True, error_model="numpy")
def _backward_range(
    first, last, camera, degree, means, centres, coefficients, radii, colours, v_colours, v_means, v_centre, v_sh
):
    bands = (degree + 1) * (degree + 1)
    basis, v_basis = np.empty(16), np.empty(16)
    for g in range(first, last):
        if radii[camera, g, 0] == 0 and radii[camera, g, 1] == 0:
            continue
        x = float(means[g, 0]) - float(centres[camera, 0])
        y = float(means[g, 1]) - float(centres[camera, 1])
        z = float(means[g, 2]) - float(centres[camera, 2])
        norm = max(math.sqrt(x * x + y * y + z * z), 1e-12)
        x, y, z = x / norm, y / norm, z / norm
        sh_basis(degree, x, y, z, basis)
        v0 = float(v_colours[camera, g, 0]) if colours[camera, g, 0] > 0.0 else 0.0
        v1 = float(v_colours[camera, g, 1]) if colours[camera, g, 1] > 0.0 else 0.0
        v2 = float(v_colours[camera, g, 2]) if colours[camera, g, 2] > 0.0 else 0.0
        for k in range(bands):
            v_sh[g, k, 0] += basis[k] * v0
            v_sh[g, k, 1] += basis[k] * v1
            v_sh[g, k, 2] += basis[k] * v2
            v_basis[k] = v0 * coefficients[g, k, 0] + v1 * coefficients[g, k, 1] + v2 * coefficients[g, k, 2]
        gx, gy, gz = sh_direction_gradient(degree, x, y, z, v_basis)
        along = gx * x + gy * y + gz * z
        gx, gy, gz = (gx - along * x) / norm, (gy - along * y) / norm, (gz - along * z) / norm
        v_means[g, 0] += gx
        v_means[g, 1] += gy
        v_means[g, 2] += gz
        v_centre[0] -= gx
        v_centre[1] -= gy
        v_centre[2] -= gz


@numba.njit(cache=True, nogil=True, error_model="numpy")
def sh_colours_backward(
    first_block, last_block, blocks, degree, means, centres, coefficients, radii, colours, v_colours, v_means, v_sh,
    v_centre_partial,
):  # fmt: skip
    """Add the gradients of means and coefficients, of some of the blocks that N is cut into, to v_means and v_sh.

    v_centre_partial (blocks, C, 3) float64 gets each block's sum, as in `projection_backward.project_backward`.
    """
    n = means.shape[0]
    for block in range(first_block, last_block):
        for camera in range(centres.shape[0]):
            _backward_range(
                block * n // blocks, (block + 1) * n // blocks, camera, degree, means, centres, coefficients, radii,
                colours, v_colours, v_means, v_centre_partial[block, camera], v_sh,
            )  # fmt: skip
