"""Gaussians for tests of file formats."""

from __future__ import annotations

from typing import Any

import numpy as np

from splatkit_ns.formats.gaussians import LOG_THICKNESS, Gaussians


def make_gaussians(num: int = 1000, sh_degree: int = 3, seed: int = 0, **others: Any) -> Gaussians:
    """Gaussians such as a trained scene has: no symmetry, so that any two axes or coefficients can be told apart."""
    chance = np.random.default_rng(seed)
    coefficients = (sh_degree + 1) ** 2 - 1
    arrays = {
        "means": np.add(chance.normal(0, 2, (num, 3)), [0.5, -1.0, 2.0]),
        "scales": np.add(chance.normal(-4, 1, (num, 3)), [0, 0.5, 1]),
        "quats": chance.normal(0, 1, (num, 4)),
        "opacities": chance.normal(0, 2, num),
        "sh0": chance.normal(0.2, 0.8, (num, 1, 3)),
        "shN": chance.normal(0, 0.1, (num, coefficients, 3)) + np.linspace(-0.2, 0.2, coefficients)[None, :, None],
    }
    return Gaussians(**{key: value.astype(np.float32) for key, value in arrays.items()}, **others)


def make_discs(num: int = 1000, **others: Any) -> Gaussians:
    """The same as discs."""
    discs = make_gaussians(num, render_mode="2dgs", **others)
    discs.scales[:, 2] = LOG_THICKNESS
    return discs


def rotations(quats: Any) -> Any:
    """Rotation matrices (N, 3, 3) of quaternions (N, 4)."""
    quats = quats.astype(np.float64)
    w, x, y, z = (quats / np.linalg.norm(quats, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def matched(found: Gaussians, original: Gaussians) -> Gaussians:
    """`found` in the order of `original`: each Gaussian's partner is the one whose centre is nearest."""
    from scipy.spatial import cKDTree

    distances, rows = cKDTree(found.means).query(original.means)
    assert len(np.unique(rows)) == len(original) == len(found)
    assert distances.max() < 0.02
    return found.take(rows)


def errors(found: Gaussians, original: Gaussians) -> dict[str, float]:
    """The largest differences, in the units in which a viewer sees them: angles in degrees, opacities from 0 to 1."""
    found = matched(found, original)
    turns = np.einsum("nij,nik->njk", rotations(found.quats), rotations(original.quats))
    cosines = (np.trace(turns, axis1=1, axis2=2) - 1) / 2

    def opacity(logits: Any) -> Any:
        return 1 / (1 + np.exp(-logits.astype(np.float64)))

    return {
        "means": float(np.abs(found.means - original.means).max()),
        "scales": float(np.abs(found.scales - original.scales).max()),
        "degrees": float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max()),
        "opacities": float(np.abs(opacity(found.opacities) - opacity(original.opacities)).max()),
        "sh0": float(np.abs(found.sh0 - original.sh0).max()),
        "shN": float(np.abs(found.shN - original.shN).max(initial=0)) if found.shN.shape == original.shN.shape else 9.0,
    }
