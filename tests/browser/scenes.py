"""A scene that tells which way is up, and from which side it is seen."""

from __future__ import annotations

import numpy as np

from splatkit_ns.formats import Gaussians
from splatkit_ns.formats.gaussians import SH_C0


def ball(num: int = 3000, seed: int = 0) -> Gaussians:
    """A ball that is green at the top (z is up), red at the bottom and blue to the left, with SH of degree 3."""
    chance = np.random.default_rng(seed)
    directions = chance.normal(size=(num, 3))
    means = directions / np.linalg.norm(directions, axis=1, keepdims=True) * chance.uniform(0.5, 1, (num, 1))
    colours = np.clip(np.stack([0.5 - means[:, 2], 0.5 + means[:, 2], 0.5 - means[:, 0]], axis=1), 0.05, 0.9)
    arrays = {
        "means": means,
        "scales": np.log(chance.uniform(0.02, 0.08, (num, 3)) * [1, 0.5, 0.3]),
        "quats": chance.normal(size=(num, 4)),
        "opacities": chance.normal(1, 1, num),
        "sh0": ((colours - 0.5) / SH_C0)[:, None],
        "shN": chance.normal(0, 0.15, (num, 15, 3)),
    }
    return Gaussians(**{key: value.astype(np.float32) for key, value in arrays.items()})
