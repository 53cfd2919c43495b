"""Scenes far from the origin, such as georeferenced ones: a file has small coordinates, and one beside it the offset.

Centres are float32, and at 500,000 m their steps are of 3 cm.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from splatkit_ns.formats import Gaussians
from splatkit_ns.formats.frames import Similarity
from splatkit_ns.formats.gaussians import DoubleArray
from splatkit_ns.formats.offset_files import read_offset, write_offset

__all__ = ["read_offset", "split_offset", "write_offset"]

_STEP = 2.0**-24
"""The relative rounding error of float32."""
_SHARE = 0.02
"""An offset is needed if centres are rounded by more than this share of the median Gaussian's size."""


def split_offset(gaussians: Gaussians, move: Similarity) -> tuple[Similarity, DoubleArray | None]:
    """Take an offset out of a move if the moved centres would be rounded visibly.

    Args:
        gaussians: finite, before the move.
        move: into the frame of a file.

    Returns:
        The move without the offset, and the offset (3,) in whole units; None if none is needed.
    """
    middle = move.apply(np.median(gaussians.means.astype(np.float64), axis=0))
    size = move.scale * float(np.exp(np.median(gaussians.scales)))
    if float(np.abs(middle).max()) * _STEP <= _SHARE * size:
        return move, None
    offset = np.rint(middle)
    return replace(move, translation=move.translation - offset), offset
