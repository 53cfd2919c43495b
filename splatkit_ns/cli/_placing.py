"""The turn, scale and simplification of Gaussians before they are written to a file."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from splatkit_ns.formats import Gaussians
from splatkit_ns.formats.frames import Similarity, up_axis

Up = Literal["y", "z", "minus-y"]


def turn_and_scale(up: Up | None, scale: float) -> Similarity:
    """The move of a scene whose z axis points up, so that another axis does, and that makes it larger.

    Args:
        up: the upward axis afterwards; None leaves the axes as they are.
        scale: new units per old unit.
    """
    turn = Similarity.identity() if up is None else up_axis("-y" if up == "minus-y" else up)
    return turn.then(Similarity(np.eye(3), np.zeros(3), scale))


def turn_about(degrees: tuple[float, float, float]) -> Similarity:
    """The turn by three angles in degrees: about the x axis, then about y, then about z, all fixed axes."""
    (a, b, c), (d, e, f) = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_x = np.array([[1, 0, 0], [0, a, -d], [0, d, a]])
    about_y = np.array([[b, 0, e], [0, 1, 0], [-e, 0, b]])
    about_z = np.array([[c, -f, 0], [f, c, 0], [0, 0, 1]])
    return Similarity(about_z @ about_y @ about_x, np.zeros(3))


def moved_by(distances: tuple[float, float, float]) -> Similarity:
    """The move along the three axes."""
    return Similarity(np.eye(3), np.array(distances, np.float64))


def limit_sh_degree(gaussians: Gaussians, degree: int | None) -> Gaussians:
    """The Gaussians without the SH coefficients above a degree; None keeps all."""
    if degree is None or degree >= gaussians.sh_degree:
        return gaussians
    return replace(gaussians, shN=np.ascontiguousarray(gaussians.shN[:, : (degree + 1) ** 2 - 1]))
