"""The cameras of the demo's pictures, in nerfstudio's (OpenGL's) convention: x right, y up, looking along -z."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .meshes import Array

FIELD_OF_VIEW_DEGREES = 58.0  # across the width
LOOK_AT = np.array([0.0, 0.0, 0.22])


@dataclass(frozen=True)
class Lens:
    """A pinhole without distortion; everything in pixels, the principal point in the middle."""

    width: int
    height: int

    @property
    def focal(self) -> float:
        """Focal length."""
        return self.width / 2 / np.tan(np.radians(FIELD_OF_VIEW_DEGREES) / 2)

    def directions(self, cam_to_world: Array, x: Array, y: Array) -> Array:
        """(N, 3) unit directions in the world of the picture positions `x`, `y` (N,); (0, 0) is the top left corner."""
        across, down = (x - self.width / 2) / self.focal, (y - self.height / 2) / self.focal
        ways = np.stack([across, -down, -np.ones_like(across)], axis=1) @ cam_to_world[:3, :3].T
        return ways / np.linalg.norm(ways, axis=1, keepdims=True)


def orbit(views: int) -> list[Array]:
    """Camera-to-world matrices (4, 4): more than three turns round the table, up and down, looking at its middle."""
    return [_looking_from(*place) for place in zip(*_places(views), strict=True)]


def _places(views: int) -> tuple[Array, Array, Array]:
    """Azimuth and elevation in degrees, and distance, of each view."""
    share = np.arange(views) / views
    azimuth = 360 * 3.25 * share  # not 3: every eighth view would show one of two sides
    elevation = 30 - 17 * np.cos(2 * np.pi * share) + 4 * np.sin(2 * np.pi * 5 * share)
    return azimuth, elevation, 3.0 + 0.2 * np.sin(2 * np.pi * 4 * share)


def _looking_from(azimuth: float, elevation: float, distance: float) -> Array:
    turn, rise = np.radians([azimuth, elevation])
    backward = np.array([np.cos(rise) * np.cos(turn), np.cos(rise) * np.sin(turn), np.sin(rise)])
    right = np.array([-np.sin(turn), np.cos(turn), 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(backward, right), backward], axis=1)
    pose[:3, 3] = LOOK_AT + distance * backward
    return pose
