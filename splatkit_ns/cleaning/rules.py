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
LARGEST_LOG_SCALE = float(np.log(np.finfo(np.float32).max))
"""Sizes with a larger logarithm are infinite in float32, in which renderers compute."""
WEIGHT_SHARE = 0.0003
"""The share of the total weight whose Gaussians `unneeded` finds by default."""
_NEIGHBOURS = 16
_CHUNK = 1 << 20


def not_finite(gaussians: Gaussians) -> Mask:
    """Gaussians with NaN or infinite values, or of infinite size."""
    mask = infinite_size(gaussians)
    finite = finite_rows(gaussians.arrays())
    if finite is not None:
        is_finite = np.zeros(len(gaussians), bool)
        is_finite[finite] = True
        mask |= ~is_finite
    return mask


def infinite_size(gaussians: Gaussians) -> Mask:
    """Gaussians whose standard deviation is too large for float32."""
    return gaussians.scales.max(axis=1) > LARGEST_LOG_SCALE


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


def small_clusters(gaussians: Gaussians, least: int, reach: float = 2.5, solid: float = 0.1) -> Mask:
    """Gaussians in clusters of fewer than `least`: isolated ones, and floaters that hang together.

    Two that are near each other, among each other's 16 nearest neighbours, hang together if their distance is at most
    `reach` times the sum of their sizes, the standard deviations along the line between them. Haze holds nothing:
    those of an opacity of at least `solid` (0 to 1) have to be in a cluster of their own kind, and fainter ones in any
    cluster of what is left then.
    """
    mask, is_hazy = np.zeros(len(gaussians), bool), faint(gaussians, solid)
    rows = np.flatnonzero(~is_hazy)
    mask[rows] = _in_small_clusters(gaussians.take(rows), least, reach)
    rows = np.flatnonzero(~mask)
    hazy = is_hazy[rows]
    mask[rows[hazy]] = _in_small_clusters(gaussians.take(rows), least, reach)[hazy]
    return mask


def _in_small_clusters(gaussians: Gaussians, least: int, reach: float) -> Mask:
    from scipy.sparse import coo_array  # half a second: not for rules that do without
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree  # type: ignore[reportAttributeAccessIssue]
    from torch import from_numpy  # seconds

    from splatkit_ns.rotations import rotation_matrices

    num = len(gaussians)
    if num == 0:
        return np.zeros(0, bool)
    count = min(_NEIGHBOURS + 1, num)
    found: Any = cKDTree(gaussians.means).query(gaussians.means, k=[*range(1, count + 1)])
    distances, neighbours = found
    longest = np.exp(gaussians.scales.max(axis=1).astype(np.float64))
    rows, columns = np.nonzero(distances <= reach * (longest[:, None] + longest[neighbours]))  # they may touch
    others, distances = neighbours[rows, columns], distances[rows, columns]
    axes = rotation_matrices(from_numpy(gaussians.quats)).numpy()
    touching = np.empty(len(rows), bool)
    for start in range(0, len(rows), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        one, other = rows[chunk], others[chunk]
        lines = gaussians.means[other] - gaussians.means[one]
        lines /= np.maximum(distances[chunk, None], 1e-30)
        reached = reach * (_sizes_along(gaussians, axes, one, lines) + _sizes_along(gaussians, axes, other, lines))
        touching[chunk] = distances[chunk] <= reached
    edges = (np.ones(touching.sum(), bool), (rows[touching], others[touching]))
    labels: NDArray[np.intp] = connected_components(coo_array(edges, shape=(num, num)), directed=False)[1]
    return np.bincount(labels)[labels] < least


def _sizes_along(gaussians: Gaussians, axes: NDArray[Any], rows: NDArray[np.intp], lines: NDArray[Any]) -> NDArray[Any]:
    """Standard deviations (M,) of some Gaussians along unit vectors (M, 3); `axes` (N, 3, 3) are those of all."""
    along = np.einsum("nij,ni->nj", axes[rows], lines)
    return np.linalg.norm(along * np.exp(gaussians.scales[rows].astype(np.float64)), axis=1)


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
