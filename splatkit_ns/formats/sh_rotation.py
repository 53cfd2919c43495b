"""The rotation of spherical harmonics with the scene: colours as functions of the direction, in another frame."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.formats.gaussians import DoubleArray, FloatArray

MAX_DEGREE = 3
_NUM_DIRECTIONS = 64
_CHUNK_ROWS = 1 << 16


def sh_basis(directions: DoubleArray, degree: int) -> DoubleArray:
    """The basis functions of one degree: those of 3DGS, real spherical harmonics with the Condon-Shortley phase.

    Args:
        directions: (M, 3), of length 1.
        degree: 1, 2 or 3.

    Returns:
        (M, 2 degree + 1), in the order of the coefficients.
    """
    x, y, z = directions.T
    if degree == 1:
        c = math.sqrt(3 / (4 * math.pi))
        columns = [-c * y, c * z, -c * x]
    elif degree == 2:
        c = math.sqrt(15 / (4 * math.pi))
        columns = [c * x * y, -c * y * z, c / math.sqrt(12) * (2 * z * z - x * x - y * y), -c * x * z,
                   c / 2 * (x * x - y * y)]  # fmt: skip
    else:
        c = [math.sqrt(k / math.pi) / 4 for k in (35 / 2, 105, 21 / 2, 7, 21 / 2, 105, 35 / 2)]
        columns = [
            -c[0] * y * (3 * x * x - y * y),
            2 * c[1] * x * y * z,
            -c[2] * y * (4 * z * z - x * x - y * y),
            c[3] * z * (2 * z * z - 3 * x * x - 3 * y * y),
            -c[4] * x * (4 * z * z - x * x - y * y),
            c[5] * z * (x * x - y * y),
            -c[6] * x * (x * x - 3 * y * y),
        ]
    return np.stack(columns, axis=1)


@cache
def _directions() -> DoubleArray:
    """Directions (M, 3) spread evenly over the sphere (a Fibonacci lattice)."""
    k = np.arange(_NUM_DIRECTIONS) + 0.5
    z, turn = 1 - 2 * k / _NUM_DIRECTIONS, math.pi * (1 + math.sqrt(5)) * k
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
    directions = _directions()
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
