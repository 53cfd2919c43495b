"""Rules that say which Gaussians can go; each takes N Gaussians and returns a mask (N,), True for those."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.formats import Gaussians
from splatkit_ns.formats.gaussians import DoubleArray, finite_rows

Mask = NDArray[np.bool_]

FAINTEST = 1 / 255
"""Renderers leave out what covers less of a pixel than this."""
_NEIGHBOURS = 16


def not_finite(gaussians: Gaussians) -> Mask:
    """Gaussians with NaN or infinite values."""
    mask = np.zeros(len(gaussians), bool)
    finite = finite_rows(gaussians.arrays())
    if finite is not None:
        mask[:] = True
        mask[finite] = False
    return mask


def faint(gaussians: Gaussians, opacity: float = FAINTEST) -> Mask:
    """Gaussians whose opacity is below this one (0 to 1)."""
    return gaussians.opacities < np.log(opacity / (1 - opacity))


def unneeded(weights: NDArray[Any], share: float) -> Mask:
    """The Gaussians of the smallest weights that have, together, at most this share of all weight.

    Args:
        weights: (N,), not negative; see `weights.seen_in`.
        share: 0 to 1.
    """
    order = np.argsort(weights, kind="stable")
    sums = np.cumsum(weights[order], dtype=np.float64)
    mask = np.zeros(len(weights), bool)
    if sums[-1] > 0:
        mask[order[sums <= share * sums[-1]]] = True
    return mask


def small_clusters(gaussians: Gaussians, least: int, reach: float = 2.0) -> Mask:
    """Gaussians in clusters of fewer than `least`: isolated ones, and floaters that hang together.

    Two that are near each other, among each other's 16 nearest neighbours, hang together if their distance is at most
    `reach` times the sum of their sizes, the standard deviations along their longest axes.
    """
    from scipy.sparse import coo_array  # half a second: not for rules that do without
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree  # type: ignore[reportAttributeAccessIssue]

    num = len(gaussians)
    count = min(_NEIGHBOURS + 1, num)
    found: Any = cKDTree(gaussians.means).query(gaussians.means, k=[*range(1, count + 1)])
    distances, neighbours = found
    sizes = np.exp(gaussians.scales.max(axis=1).astype(np.float64))
    touching = distances <= reach * (sizes[:, None] + sizes[neighbours])
    rows, columns = np.nonzero(touching)
    edges = (np.ones(len(rows), bool), (rows, neighbours[rows, columns]))
    labels: NDArray[np.intp] = connected_components(coo_array(edges, shape=(num, num)), directed=False)[1]
    return np.bincount(labels)[labels] < least


def oversized(gaussians: Gaussians, size: float) -> Mask:
    """Gaussians whose standard deviation along their longest axis is above this length."""
    return gaussians.scales.max(axis=1) > np.log(size)


def needles(gaussians: Gaussians, ratio: float) -> Mask:
    """Gaussians that are more than this many times as long as they are wide, along their second axis."""
    lengths = np.sort(gaussians.scales, axis=1)
    return lengths[:, 2] - lengths[:, 1] > np.log(ratio)


def outside_box(gaussians: Gaussians, box: tuple[float, ...]) -> Mask:
    """Gaussians whose centres lie outside a box: three smallest coordinates, then three largest."""
    low, high = np.array(box[:3]), np.array(box[3:])
    return np.any((gaussians.means < low) | (gaussians.means > high), axis=1)


def outside_sphere(gaussians: Gaussians, sphere: tuple[float, ...]) -> Mask:
    """Gaussians whose centres lie outside a sphere: its centre's three coordinates, then its radius."""
    offsets: DoubleArray = gaussians.means.astype(np.float64) - np.array(sphere[:3])
    return np.linalg.norm(offsets, axis=1) > sphere[3]
