"""Rotations between the keyframes of nerfstudio's viewer."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import splines
import splines.quaternion
from nerfstudio.viewer import render_panel


class KeyframeRotations:
    """A Kochanek-Bartels spline of rotations, with the arguments of the one in the package splines.

    nerfstudio requires version 0.3.0 of that package, which fails for two rotations since NumPy 2.2, and for closed
    splines since NumPy 2.5. Here two rotations are interpolated along the shortest way, and a closed spline is an open
    one that goes on a bit at both ends.

    Args:
        quaternions: two or more, one for each whole number from 0.
        tcb: tension, continuity and bias.
        endconditions: "natural" or "closed".
    """

    def __init__(
        self, quaternions: Sequence[Any], *, tcb: tuple[float, float, float] = (0, 0, 0), endconditions: str = "natural"
    ) -> None:
        closed = endconditions == "closed"
        self._first = 1 if closed else 0
        if closed:
            quaternions = [quaternions[-1], *quaternions, *quaternions[:2]]
        if len(quaternions) == 2:
            self._spline: Any = splines.quaternion.PiecewiseSlerp(quaternions)
        else:
            self._spline = splines.quaternion.KochanekBartels(quaternions, tcb=tcb)

    def evaluate(self, t: float) -> Any:
        """The rotation at a number from 0 to that of the last quaternion; if closed, to one more."""
        return self._spline.evaluate(t + self._first)


def mend_camera_paths() -> None:
    """Let the camera paths of nerfstudio's viewer use `KeyframeRotations`."""
    rotations = SimpleNamespace(KochanekBartels=KeyframeRotations, UnitQuaternion=splines.quaternion.UnitQuaternion)
    render_panel.splines = SimpleNamespace(  # pyright: ignore[reportPrivateImportUsage]  # in place of the module
        KochanekBartels=splines.KochanekBartels, quaternion=rotations
    )
