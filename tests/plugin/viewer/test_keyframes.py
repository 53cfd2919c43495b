"""Camera paths of nerfstudio's viewer, with each NumPy that can be installed."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import splines
import splines.quaternion
import viser.transforms as tf
from nerfstudio.viewer import render_panel
from nerfstudio.viewer.render_panel import CameraPath, Keyframe

from splatkit_ns.plugin.viewer.keyframes import KeyframeRotations, mend_camera_paths


def camera_path(degrees: list[float], loop: bool) -> CameraPath:
    """A path past cameras that are turned around z by these angles."""
    path = CameraPath(MagicMock(), SimpleNamespace(value=2.0))  # type: ignore[arg-type]
    path.loop, path.default_fov, path.default_transition_sec = loop, 1.0, 2.0
    for i, angle in enumerate(degrees):
        wxyz = tf.SO3.from_z_radians(np.radians(angle)).wxyz
        path.add_camera(Keyframe(np.array([float(i), 0, 0]), wxyz, False, 1.0, False, 0.0, 1.5, False, None))
    path.update_spline()
    return path


@pytest.mark.parametrize(
    ("degrees", "loop", "middle"), [([0, 90], False, 45), ([0, 90], True, 90), ([0, 80, 0], True, 80)]
)
def test_paths_past_few_keyframes(
    degrees: list[float], loop: bool, middle: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render_panel, "splines", splines)
    monkeypatch.delattr(np, "row_stack", raising=False)  # NumPy 2.5 has none
    mend_camera_paths()
    share = 0.5 if len(degrees) == 2 else 1 / 3
    found = camera_path(degrees, loop).interpolate_pose_and_fov_rad(share)
    assert found is not None
    assert np.degrees(found[0].rotation().compute_yaw_radians()) == pytest.approx(middle)


def test_closed_rotations_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "row_stack", np.vstack, raising=False)
    turns = [tf.SO3.exp(np.array(axis)) for axis in ([0.1, 0, 0], [1, 2.0, 0], [0, 1.0, -1], [0.5, 0.5, 2])]
    given = [splines.quaternion.UnitQuaternion.from_unit_xyzw(turn.as_quaternion_xyzw()) for turn in turns]
    ours = KeyframeRotations(given, tcb=(0.3, 0, 0), endconditions="closed")
    theirs = splines.quaternion.KochanekBartels(given, tcb=(0.3, 0, 0), endconditions="closed")
    for t in np.linspace(0, 4, 17):
        assert abs(ours.evaluate(t).dot(theirs.evaluate(t))) == pytest.approx(1)
