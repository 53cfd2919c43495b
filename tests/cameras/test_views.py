"""`View`: cameras that look at a point, and views taken apart."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.errors import SplatkitError


def project(view: View, point: tuple[float, float, float]) -> Tensor:
    """Pixels (C, 2) of a point."""
    in_camera = view.world_to_cams @ torch.tensor([*point, 1.0])
    image = (view.Ks @ in_camera[:, :3, None])[:, :, 0]
    assert bool((image[:, 2] > 0).all()), "the point is behind a camera"
    return image[:, :2] / image[:, 2:]


def test_the_target_is_in_the_middle_and_up_is_up() -> None:
    view = View.look_at((3.0, -2.0, 1.5), (0.2, 0.1, -0.3), width=200, height=100)
    assert project(view, (0.2, 0.1, -0.3))[0].tolist() == pytest.approx([100.0, 50.0], abs=1e-4)
    x, y = project(view, (0.2, 0.1, 0.2))[0].tolist()
    assert x == pytest.approx(100.0, abs=1e-4), "a point above the target is above it in the image"
    assert y < 45.0, "rows are counted from the top"


def test_axes_of_a_known_camera() -> None:
    """From -y at the origin: x stays right, the image's down is -z, forward is +y."""
    view = View.look_at((0.0, -4.0, 0.0), (0.0, 0.0, 0.0), width=40, height=30)
    expected = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, -4], [0, -1, 0, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(view.cam_to_worlds[0], expected)
    assert project(view, (1.0, 0.0, 0.0))[0, 0] > 20.0


def test_fov_is_that_of_the_height() -> None:
    view = View.look_at((0.0, -1.0, 0.0), (0.0, 0.0, 0.0), fov=90.0, width=400, height=100)
    assert view.Ks[0].flatten().tolist() == pytest.approx([50.0, 0.0, 200.0, 0.0, 50.0, 50.0, 0.0, 0.0, 1.0])
    assert project(view, (0.0, 0.0, 1.0))[0].tolist() == pytest.approx([200.0, 0.0], abs=1e-4)


def test_up_may_be_any_direction() -> None:
    view = View.look_at((0.0, 0.0, 5.0), (0.0, 0.0, 0.0), up=(0.0, 3.0, 0.0), width=40, height=30)
    assert project(view, (0.0, 0.5, 0.0))[0, 1] < 15.0
    assert project(view, (0.5, 0.0, 0.0))[0, 0] > 20.0


def test_rotations_are_rigid() -> None:
    eyes = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * 5
    rotations = View.look_at(eyes, (0.1, 0.2, 0.3)).cam_to_worlds[:, :3, :3]
    torch.testing.assert_close(rotations.transpose(1, 2) @ rotations, torch.eye(3).expand(20, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(20))


def test_several_cameras_and_their_parts() -> None:
    eyes = torch.tensor([[3.0, 0, 0], [0, 3, 0], [0, -3, 1]])
    views = View.look_at(eyes, (0.0, 0.0, 0.0))
    assert len(views) == 3
    assert [view.cam_to_worlds[0, :3, 3].tolist() for view in views] == eyes.tolist()
    assert views[-1].cam_to_worlds.data_ptr() == views.cam_to_worlds[2:].data_ptr(), "parts share the memory"
    assert torch.equal(views[1:].cam_to_worlds, views.cam_to_worlds[1:])
    with pytest.raises(IndexError, match=r"3 camera.* no index 3"):
        _ = views[3]


def test_parts_and_moves_keep_lens_and_distortion() -> None:
    distortion = torch.arange(8.0).reshape(2, 4)
    poses, Ks = torch.eye(4).repeat(2, 1, 1), torch.eye(3).repeat(2, 1, 1)
    view = View(poses, Ks, 20, 10, "opencv_fisheye", distortion)
    assert view.to("cpu") is view
    moved = view[1].to("meta")
    assert (moved.device.type, moved.Ks.device.type, moved.lens) == ("meta", "meta", "opencv_fisheye")
    assert moved.distortion is not None
    assert moved.distortion.device.type == "meta"
    assert torch.equal(view[1].distortion, distortion[1:])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": (1, 2, 3)}, "the eye is at the target"),
        ({"up": (1, 2, 3)}, r"up is parallel .* up=\(0, 1, 0\)"),
        ({"up": (0, 0, 0)}, "up is parallel"),
        ({"fov": 180.0}, "fov is 180.0, expected an angle in degrees"),
        ({"fov": math.nan}, "fov is nan"),
        ({"width": 0}, "0×600 pixels"),
        ({"eye": (1, 2)}, r"eye has the shape \(2,\), expected \(3,\) or \(C, 3\)"),
        ({"eye": (1, 2, math.inf)}, "finite"),
        ({"target": "there"}, "target is 'there', expected three numbers"),
        ({"eye": torch.ones(2, 3), "target": torch.zeros(3, 3)}, "different numbers of cameras"),
    ],
)
def test_mistakes(change: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"eye": (1, 2, 3), "target": (0, 0, 0), **change}
    with pytest.raises(SplatkitError, match=message):
        View.look_at(**settings)
