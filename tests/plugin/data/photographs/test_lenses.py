"""The lens of each frame: a frame's own values, flags of other programs, and lenses that are refused."""

from __future__ import annotations

from typing import Any

import pytest
from nerfstudio.cameras.cameras import CameraType

from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.data.photographs.lenses import lens_of_colmap, lens_of_frame

TOP: dict[str, Any] = {"fl_x": 50.0, "fl_y": 51.0, "cx": 16.0, "cy": 12.0, "w": 32, "h": 24, "k1": 0.1, "p2": 0.01}
OWN: dict[str, Any] = {"fl_x": 80.0, "fl_y": 81.0, "cx": 20.0, "cy": 15.0, "w": 40, "h": 30}


def test_a_frames_own_values_count() -> None:
    lens = lens_of_frame(TOP, {**OWN, "k1": 0.3}, "here")
    assert (lens.width, lens.height, lens.fl_x, lens.fl_y, lens.cx, lens.cy) == (40, 30, 80, 81, 20, 15)
    assert lens.distortion == (0.3, 0, 0, 0, 0, 0), "a lens is taken whole: p2 of the top belongs to another one"
    same_lens = lens_of_frame(TOP, {"fl_x": 80.0, "fl_y": 81.0}, "here")
    assert (same_lens.fl_x, same_lens.cx, same_lens.width) == (80, 16, 32)
    assert same_lens.distortion == (0.1, 0, 0, 0, 0, 0.01)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"fl_x": 80.0}, "has fl_x of its own, but not fl_y"),
        ({"cy": 8.0}, "has cy of its own, but not cx"),
        ({"w": 40, "h": 30}, "a size of its own, w = 40 and h = 30, but not fl_x, fl_y, cx, cy"),
        ({"k1": "0.1"}, "'k1' is '0.1', expected a number"),
        ({"camera_model": "FOV"}, "'camera_model' is 'FOV', expected one of .* colmap image_undistorter"),
        ({"camera_model": "OPENCV", "is_fisheye": True}, "'camera_model' is 'OPENCV', but a flag .* opencv_fisheye"),
        ({"is_fisheye": True, "p1": 0.1}, "has p1, which a camera of model OPENCV_FISHEYE has not"),
        ({"k5": 0.1}, "has k5, which a camera of model OPENCV has not. FULL_OPENCV has k5"),
        ({"ftheta_p0": 0.2}, "f-theta lens"),
        ({"distortion_params": [0.1, 0.2]}, "expected a list of 6 numbers"),
        ({**OWN, "w": float("nan")}, "has w = nan, expected a positive finite number"),
    ],
)
def test_what_is_half_there_or_cannot_be_used_is_told(frame: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"here.*{message}"):
        lens_of_frame(TOP, frame, "here")


@pytest.mark.parametrize(
    ("marks", "kind"),
    [
        ({"is_fisheye": True}, CameraType.FISHEYE),
        ({"is_fisheye": False}, CameraType.PERSPECTIVE),
        ({"is_fisheye": True, "camera_model": "OPENCV_FISHEYE"}, CameraType.FISHEYE),
        ({"camera_model": "RADIAL_FISHEYE"}, CameraType.FISHEYE),
        ({"latlong": True}, CameraType.EQUIRECTANGULAR),
        ({"equirectangular": True}, CameraType.EQUIRECTANGULAR),
    ],
)
def test_marks_of_the_kind_of_lens_at_the_top_and_in_a_frame(marks: dict[str, Any], kind: CameraType) -> None:
    plain = {key: TOP[key] for key in ("fl_x", "fl_y", "cx", "cy", "w", "h")}
    assert lens_of_frame({**plain, **marks}, {}, "here").kind is kind
    assert lens_of_frame(plain, marks, "here").kind is kind


def test_k4_is_a_radial_term_but_divides_in_opencvs_full_model() -> None:
    terms = {f"k{i}": i / 10 for i in range(1, 7)}
    radial = lens_of_frame({**TOP, "k4": 0.4}, {}, "here")
    assert radial.distortion == (0.1, 0, 0, 0.4, 0, 0.01)
    full = lens_of_frame({**TOP, **terms, "camera_model": "FULL_OPENCV"}, {}, "here")
    assert full.distortion == (0.1, 0.2, 0.3, 0, 0, 0.01, 0.4, 0.5, 0.6)
    values = [50, 51, 16, 12, 0.1, 0.2, 0, 0.01, 0.3, 0.4, 0.5, 0.6]
    assert lens_of_colmap("FULL_OPENCV", 32, 24, values, "here") == full


def test_cameras_of_colmap() -> None:
    simple = lens_of_colmap("SIMPLE_RADIAL", 32, 24, [50, 16, 12, 0.1], "here")
    assert (simple.fl_x, simple.fl_y, simple.cx, simple.cy) == (50, 50, 16, 12)
    assert simple.distortion == (0.1, 0, 0, 0, 0, 0)
    fisheye = lens_of_colmap("OPENCV_FISHEYE", 32, 24, [50, 51, 16, 12, 0.1, 0.2, 0.3, 0.4], "here")
    assert (fisheye.kind, fisheye.distortion) == (CameraType.FISHEYE, (0.1, 0.2, 0.3, 0.4, 0, 0))
    with pytest.raises(DataError, match=r"THIN_PRISM_FISHEYE .* Undistort the images first: colmap image_undistorter"):
        lens_of_colmap("THIN_PRISM_FISHEYE", 32, 24, [1] * 12, "here")
