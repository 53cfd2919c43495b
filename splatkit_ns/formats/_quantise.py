"""Shared by several formats: numbers as few bits, and rows in an order in which neighbours resemble each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.formats.gaussians import SIZE_OF_ZERO, DoubleArray, FloatArray

ByteArray = NDArray[np.uint8]

XYZW, WXYZ = [1, 2, 3, 0], [3, 0, 1, 2]
"""The columns of quaternions wxyz in the order xyzw, and the other way round."""
_MORTON_BITS = 21  # three of them fit into 64 bits
_LARGEST_LOG = 80.0
"""Log scales beyond this on both sides are clamped to it, so that the standard deviations are float32."""


def morton_order(means: FloatArray) -> NDArray[np.intp]:
    """Indices of centres (N, 3) along a curve that keeps neighbours together (Morton, 1966): the bits interleaved."""
    low, high = means.min(axis=0).astype(np.float64), means.max(axis=0).astype(np.float64)
    extent = np.maximum(high - low, 1e-30)
    cells = ((means - low) * ((2**_MORTON_BITS - 1) / extent)).astype(np.uint64)
    code = np.zeros(len(means), np.uint64)
    for axis in range(3):
        code |= _spread(cells[:, axis]) << np.uint64(axis)
    return np.argsort(code, kind="stable")


def _spread(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Two zero bits after each of the 21 lowest bits."""
    for shift, mask in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        values = (values | (values << np.uint64(shift))) & np.uint64(mask)
    return values


def sigmoid(logits: FloatArray) -> FloatArray:
    """Opacities in (0, 1) of logits; very large ones do not overflow."""
    return (0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float32)))).astype(np.float32)


def opacity_bytes(logits: FloatArray) -> ByteArray:
    """Opacities (N,) of logits as bytes, 255 for 1."""
    return to_bytes(sigmoid(logits) * 255.0)


def logits_of_bytes(values: ByteArray) -> FloatArray:
    """Logits of opacities that `opacity_bytes` made bytes. 0 and 255 become finite ones that give 0 and 255 again."""
    return logits_of(values.astype(np.float64) / 255.0, margin=0.25 / 255.0)


def logits_of(opacities: NDArray[Any], margin: float = 1e-7) -> FloatArray:
    """Logits of opacities, which are kept `margin` away from 0 and 1."""
    inside = np.clip(opacities.astype(np.float64), margin, 1.0 - margin)
    return np.log(inside / (1.0 - inside)).astype(np.float32)


def deviations_of(log_scales: FloatArray) -> FloatArray:
    """Standard deviations of log scales, above 0 and finite."""
    return np.exp(np.clip(log_scales, -_LARGEST_LOG, _LARGEST_LOG))


def log_scales_of(deviations: NDArray[Any]) -> FloatArray:
    """Log scales of standard deviations of at least 0."""
    return as_floats(np.log(np.where(deviations > 0, deviations, np.float32(SIZE_OF_ZERO))))


def to_bytes(values: NDArray[Any]) -> ByteArray:
    """The nearest byte of each value."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def as_floats(values: NDArray[Any]) -> FloatArray:
    """The same values, as float32."""
    return np.asarray(values, np.float32)


def unit_quats(quats: FloatArray) -> FloatArray:
    """Quaternions (N, 4) of length 1; one of length 0, as a renderer treats it, is the identity."""
    lengths = np.linalg.norm(quats.astype(np.float64), axis=1, keepdims=True)
    unit = np.divide(quats, lengths, out=np.tile([1.0, 0.0, 0.0, 0.0], (len(quats), 1)), where=lengths > 1e-30)
    return unit.astype(np.float32)


def smallest_three(quats: FloatArray) -> tuple[NDArray[np.intp], FloatArray]:
    """The component of a unit quaternion (N, 4) that is largest, and the three others if that one is positive.

    Returns:
        (N,) indices from 0 to 3, and (N, 3) values from -1 / sqrt(2) to 1 / sqrt(2), in their order.
    """
    largest = np.abs(quats).argmax(axis=1)
    signs = np.where(np.take_along_axis(quats, largest[:, None], axis=1) < 0, np.float32(-1), np.float32(1))
    return largest, np.take_along_axis(quats * signs, _OTHERS[largest], axis=1)


def from_smallest_three(largest: NDArray[Any], others: FloatArray) -> FloatArray:
    """The unit quaternions (N, 4) that `smallest_three` took apart."""
    quats = np.empty((len(others), 4), np.float32)
    missing: DoubleArray = np.sqrt(np.maximum(0.0, 1.0 - np.square(others.astype(np.float64)).sum(axis=1)))
    rows = np.arange(len(others))
    quats[rows, largest] = missing
    quats[rows[:, None], _OTHERS[largest]] = others
    return quats


_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
