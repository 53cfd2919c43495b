"""The rotation of spherical harmonics with the scene: colours as functions of the direction, in another frame."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.formats.gaussians import DoubleArray, FloatArray

MAX_DEGREE = 3
_NUM_DIRECTIONS = 64
_CHUNK_ROWS = 1 << 16


def basis_functions(x: Any, y: Any, z: Any, degree: int) -> list[Any]:
    """The basis functions of one degree: those of 3DGS, real spherical harmonics with the Condon-Shortley phase.

    Args:
        x, y, z: the parts of unit vectors, arrays or tensors of one shape.
        degree: 1, 2 or 3.

    Returns:
        2 degree + 1 arrays or tensors of that shape, in the order of the coefficients.
    """
    if degree == 1:
        c = math.sqrt(3 / (4 * math.pi))
        return [-c * y, c * z, -c * x]
    if degree == 2:
        c = math.sqrt(15 / (4 * math.pi))
        return [c * x * y, -c * y * z, c / math.sqrt(12) * (2 * z * z - x * x - y * y), -c * x * z,
                c / 2 * (x * x - y * y)]  # fmt: skip
    c = [math.sqrt(k / math.pi) / 4 for k in (35 / 2, 105, 21 / 2, 7, 21 / 2, 105, 35 / 2)]
    return [
        -c[0] * y * (3 * x * x - y * y),
        2 * c[1] * x * y * z,
        -c[2] * y * (4 * z * z - x * x - y * y),
        c[3] * z * (2 * z * z - 3 * x * x - 3 * y * y),
        -c[4] * x * (4 * z * z - x * x - y * y),
        c[5] * z * (x * x - y * y),
        -c[6] * x * (x * x - 3 * y * y),
    ]


def sh_basis(directions: DoubleArray, degree: int) -> DoubleArray:
    """The basis functions of one degree, 1, 2 or 3, at unit vectors (M, 3): (M, 2 degree + 1)."""
    x, y, z = directions.T
    return np.stack(basis_functions(x, y, z, degree), axis=1)


def sphere_directions(num: int) -> DoubleArray:
    """Unit vectors (num, 3) spread evenly over the sphere: a Fibonacci lattice."""
    k = np.arange(num) + 0.5
    z, turn = 1 - 2 * k / num, math.pi * (1 + math.sqrt(5)) * k
    radius = np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), z], axis=1)


def sh_rotation(rotation: DoubleArray, degree: int) -> DoubleArray:
    """The matrix that turns the coefficients of one degree.

    A turned scene shows in the direction R d what the scene showed in the direction d: Y(R d) · c' = Y(d) · c. The
    basis functions of one degree turn among themselves, so the c' that fulfils this for many directions in the sense of
    least squares fulfils it for all. There are no conventions of angles and phases to get wrong.

    Args:
        rotation: R, (3, 3), orthogonal.
        degree: 1, 2 or 3.

    Returns:
        (2 degree + 1, 2 degree + 1), by which coefficients in a column are multiplied; orthogonal.
    """
    directions = sphere_directions(_NUM_DIRECTIONS)
    turned, basis = sh_basis(directions @ rotation.T, degree), sh_basis(directions, degree)
    solution: NDArray[Any] = np.linalg.lstsq(turned, basis, rcond=None)[0]
    return solution


def rotate_sh(coefficients: FloatArray, rotation: DoubleArray) -> FloatArray:
    """Coefficients (N, K - 1, 3) of degrees 1 and up, of a scene that is turned by `rotation`, (3, 3)."""
    turned = np.empty_like(coefficients)
    for start in range(0, len(coefficients), _CHUNK_ROWS):
        rows = coefficients[start : start + _CHUNK_ROWS].astype(np.float64)
        first = 0
        for degree in range(1, MAX_DEGREE + 1):
            last = first + 2 * degree + 1
            if last > coefficients.shape[1]:
                break
            matrix = sh_rotation(rotation, degree)
            turned[start : start + len(rows), first:last] = np.einsum("ij,njc->nic", matrix, rows[:, first:last])
            first = last
    return turned
