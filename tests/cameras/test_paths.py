"""Orbits and smooth paths."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy.interpolate import CubicHermiteSpline
from scipy.spatial.transform import Rotation
from torch import Tensor

from splatkit_ns.camera_paths import focus, orbit, path, slerp
from splatkit_ns.cameras import View
from splatkit_ns.errors import SplatkitError
from tests.cameras.test_views import project


def positions(views: list[View]) -> Tensor:
    return torch.cat([view.cam_to_worlds[:, :3, 3] for view in views])


def angles_between(views: list[View]) -> list[float]:
    """The angles in degrees by which each camera is turned against the one before it."""
    turns = [Rotation.from_matrix(view.cam_to_worlds[0, :3, :3].double().numpy()) for view in views]
    return [math.degrees((a.inv() * b).magnitude()) for a, b in pairwise(turns)]


def test_an_orbit_has_its_radius_and_height_and_looks_at_its_centre() -> None:
    centre = (1.0, -2.0, 0.5)
    views = orbit(centre, 3.0, 7, elevation=30.0, width=80, height=60)
    offsets = positions(views) - torch.tensor(centre)
    torch.testing.assert_close(offsets.norm(dim=1), torch.full((7,), 3.0))
    torch.testing.assert_close(offsets[:, 2], torch.full((7,), 1.5))
    for view in views:
        assert project(view, centre)[0].tolist() == pytest.approx([40.0, 30.0], abs=1e-4)
        assert project(view, (1.0, -2.0, 0.7))[0, 1] < 30.0


def test_where_an_orbit_begins_and_which_way_it_turns() -> None:
    views = orbit((0.0, 0.0, 0.0), 2.0, 4, elevation=0.0)
    expected = torch.tensor([[2.0, 0, 0], [0, 2, 0], [-2, 0, 0], [0, -2, 0]])
    torch.testing.assert_close(positions(views), expected, atol=1e-6, rtol=0)
    back = orbit((0.0, 0.0, 0.0), 2.0, 4, elevation=0.0, turns=-1.0, start=90.0)
    torch.testing.assert_close(positions(back), expected[[1, 0, 3, 2]], atol=1e-6, rtol=0)


def test_an_orbit_closes() -> None:
    """The camera after the last is the first: every turn between neighbours is the same, around the end, too."""
    views = orbit((0.3, 0.0, 0.0), 2.0, 9, elevation=10.0)
    steps = torch.cat([positions(views), positions(views[:1])]).diff(dim=0).norm(dim=1)
    torch.testing.assert_close(steps, steps[:1].expand(9))
    turns = angles_between([*views, views[0]])
    assert turns == pytest.approx([turns[0]] * 9, abs=1e-3)


def test_an_orbit_about_another_axis() -> None:
    views = orbit((0.0, 0.0, 0.0), 2.0, 6, elevation=0.0, up=(0.0, -5.0, 0.0), width=80, height=60)
    torch.testing.assert_close(positions(views)[:, 1], torch.zeros(6), atol=1e-6, rtol=0)
    assert all(project(view, (0.0, -0.5, 0.0))[0, 1] < 30.0 for view in views)


def keys() -> list[View]:
    """Unevenly spaced views that turn in different ways."""
    eyes = torch.tensor([[3.0, 0, 1], [1, 3, 0.5], [-2, 2, 2], [-3, -1, 0], [0, -3, 1]])
    targets = torch.tensor([[0.0, 0, 0], [0.2, 0, 0], [0, 0.5, 0.3], [0, 0, 0], [0.4, 0, 0]])
    return list(View.look_at(eyes, targets, width=80, height=60))


def test_a_path_passes_through_its_views() -> None:
    views = path(keys(), 4 * 6 + 1)
    for key, view in zip(keys(), views[::6], strict=True):
        torch.testing.assert_close(view.cam_to_worlds, key.cam_to_worlds, atol=1e-5, rtol=0)
        torch.testing.assert_close(view.Ks, key.Ks)
    assert all((view.width, view.height) == (80, 60) for view in views)


def test_positions_are_those_of_catmull_rom() -> None:
    """A cubic through the views whose slope at each is half the way from the one before it to the one after it."""
    points = positions(keys()).double().numpy()
    slopes = points.copy()
    slopes[1:-1] = (points[2:] - points[:-2]) / 2
    slopes[0], slopes[-1] = points[1] - points[0], points[-1] - points[-2]
    times = torch.linspace(0, 4, 33).numpy()
    expected = torch.from_numpy(CubicHermiteSpline(range(5), points, slopes)(times)).float()
    torch.testing.assert_close(positions(path(keys(), 33)), expected, atol=1e-5, rtol=0)


def test_a_path_has_no_jerks() -> None:
    """Twice as many frames halve every turn from frame to frame, and neighbouring turns are alike."""
    turns = angles_between(path(keys(), 401))
    assert max(abs(a - b) for a, b in pairwise(turns)) < 0.05 * max(turns)
    assert max(angles_between(path(keys(), 801))) == pytest.approx(max(turns) / 2, rel=0.02)
    for view in path(keys(), 50):
        rotation = view.cam_to_worlds[0, :3, :3]
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_keys", [3, 4, 7])
def test_a_closed_path_runs_in_a_loop(num_keys: int) -> None:
    """Through views around a whole turn, after which quaternions have changed their sign."""
    ring = orbit((0.0, 0.0, 0.0), 2.0, num_keys, elevation=15.0)
    views = path(ring, num_keys * 10, closed=True)
    assert len(views) == num_keys * 10
    for key, view in zip(ring, views[::10], strict=True):
        torch.testing.assert_close(view.cam_to_worlds, key.cam_to_worlds, atol=1e-5, rtol=0)
    turns = angles_between([*views, views[0]])
    assert max(turns) < 1.3 * min(turns), "no frame is left out or turned the long way round"


def test_a_path_between_two_views_is_a_straight_line_and_a_steady_turn() -> None:
    two = orbit((0.0, 0.0, 0.0), 1.0, 4, elevation=0.0)[:2]
    views = path(View(torch.cat([v.cam_to_worlds for v in two]), torch.cat([v.Ks for v in two]), 800, 600), 10)
    torch.testing.assert_close(positions(views)[3], torch.tensor([2 / 3, 1 / 3, 0.0]), atol=1e-6, rtol=0)
    assert angles_between(views) == pytest.approx([10.0] * 9, abs=1e-3)


def test_slerp_is_scipys() -> None:
    a, b = Rotation.random(2, random_state=1)
    quats = torch.from_numpy(Rotation.concatenate([a, b]).as_quat(canonical=True))
    mixed = slerp(quats[:1], quats[1:], torch.tensor([[0.25]], dtype=torch.float64))
    turn = torch.tensor((a.inv() * b).as_rotvec())
    sign = 1.0 if float((quats[0] * quats[1]).sum()) >= 0 else -1.0
    if sign < 0:  # quaternions on different sides: slerp goes the long way
        turn = turn * (1 - 2 * math.pi / float(turn.norm()))
    expected = a * Rotation.from_rotvec((0.25 * turn).numpy())
    assert (expected.inv() * Rotation.from_quat(mixed[0].numpy())).magnitude() < 1e-6


def test_distortion_follows() -> None:
    poses, Ks = torch.eye(4).repeat(2, 1, 1), torch.eye(3).repeat(2, 1, 1)
    view = View(poses, Ks, 20, 10, "opencv", torch.tensor([[0.0, 1.0], [1.0, 3.0]]))
    middle = path(view, 3)[1]
    assert middle.lens == "opencv"
    torch.testing.assert_close(middle.distortion, torch.tensor([[0.5, 2.0]]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: orbit((0, 0, 0), 0.0, 3), "radius is 0.0"),
        (lambda: orbit((0, 0, 0), 1.0, 0), "num is 0"),
        (lambda: orbit((0, 0, 0), 1.0, 3, 90.0), "elevation is 90.0"),
        (lambda: orbit((0, 0, 0), 1.0, 3, up=(0, 0, 0)), "up is"),
        (lambda: orbit((0, 0), 1.0, 3), r"centre has the shape \(2,\)"),
        (lambda: path(keys()[:1], 5), "at least 2 views and 2 frame.* found 1 and 5"),
        (lambda: path(keys(), 1), "found 5 and 1"),
        (
            lambda: path([keys()[0], View.look_at((1, 0, 0), (0, 0, 0))], 5),
            "one image size and lens, found 80×60 pinhole and 800×600 pinhole",
        ),
    ],
)
def test_mistakes(call: Any, message: str) -> None:
    with pytest.raises(SplatkitError, match=message):
        call()


def test_the_focus_of_an_orbit_is_its_centre() -> None:
    centre = focus(orbit((3.0, -2.0, 1.0), 5.0, 12, elevation=25.0))
    assert torch.allclose(centre, torch.tensor([3.0, -2.0, 1.0], dtype=torch.float64), atol=0.02)


def test_the_focus_of_parallel_cameras_is_before_them() -> None:
    """Three in a row look along y; none of their lines meet."""
    eyes = torch.tensor([[-1.0, 0, 0], [0, 0, 0], [1, 0, 0]])
    centre = focus([View.look_at(eyes, eyes + torch.tensor([0.0, 1, 0]))])
    assert torch.allclose(centre, torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64), atol=0.01)


def test_focus_needs_cameras() -> None:
    with pytest.raises(SplatkitError, match="there is no view"):
        focus([])
    with pytest.raises(SplatkitError, match="all cameras stand at one point"):
        focus([View.look_at((1, 1, 1), (2, 2, 2))])
