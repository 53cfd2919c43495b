"""A view for the fusion: the depth and the colour of surfaces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.formats.gaussians import DoubleArray, FloatArray


@dataclass(frozen=True)
class DepthView:
    """One pinhole camera with its depth and colour images."""

    depth: FloatArray
    """(H, W), along the viewing axis (not along the ray), in world units; 0 if no surface is known."""
    color: FloatArray
    """(H, W, 3) in [0, 1]."""
    K: DoubleArray
    """(3, 3), in pixels; (0, 0) is the upper left corner of the upper left pixel."""
    cam_to_world: DoubleArray
    """(4, 4), OpenCV axes: x right, y down, looking along z."""

    @property
    def focal(self) -> float:
        """Geometric mean of the two focal lengths, in pixels."""
        return float(np.sqrt(self.K[0, 0] * self.K[1, 1]))

    def within(self, depth_limit: float) -> FloatArray:
        """`depth`, with 0 for values beyond the limit."""
        return np.where(self.depth <= depth_limit, self.depth, np.float32(0))

    def directions(self, y: NDArray[np.intp], x: NDArray[np.intp]) -> DoubleArray:
        """World-space rays through the centres of pixels, (N, 3), as long as they are at depth 1."""
        in_camera = np.stack(
            [
                (x + 0.5 - self.K[0, 2]) / self.K[0, 0],
                (y + 0.5 - self.K[1, 2]) / self.K[1, 1],
                np.ones(len(x)),
            ],
            axis=-1,
        )
        return in_camera @ self.cam_to_world[:3, :3].T
