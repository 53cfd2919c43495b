"""Tours of the places that photographs were taken from."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

from splatkit_ns import View, orbit, tour
from splatkit_ns.camera_paths import focus
from splatkit_ns.cameras import fov_intrinsics
from splatkit_ns.errors import SplatkitError
from splatkit_ns.tours import FRAMES, Survey

CENTRE = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)


def eyes(views: list[View]) -> Tensor:
    return torch.cat([view.cam_to_worlds[:, :3, 3] for view in views]).double()


def looks(views: list[View]) -> Tensor:
    return torch.cat([view.cam_to_worlds[:, :3, 2] for view in views]).double()


def polar(views: list[View]) -> tuple[Tensor, Tensor, Tensor]:
    """Azimuths and elevations in degrees, and distances, from the centre."""
    offsets = eyes(views) - CENTRE
    distances = offsets.norm(dim=1)
    azimuths = torch.rad2deg(torch.atan2(offsets[:, 1], offsets[:, 0]))
    return azimuths, torch.rad2deg(torch.asin(offsets[:, 2] / distances)), distances


def around(azimuths: Tensor, elevations: Tensor, distances: Tensor, **picture: Any) -> list[View]:
    """Cameras that look at the centre."""
    az, el = torch.deg2rad(azimuths.double()), torch.deg2rad(elevations.double())
    offsets = torch.stack([el.cos() * az.cos(), el.cos() * az.sin(), el.sin()], dim=1)
    return list(View.look_at(CENTRE + distances[:, None] * offsets, CENTRE, **picture))


def arc(first: float = -50, last: float = 50, num: int = 21) -> list[View]:
    """Higher and farther to the left; in no order."""
    azimuths = torch.linspace(first, last, num)
    shares = (azimuths - first) / (last - first)
    order = torch.randperm(num, generator=torch.Generator().manual_seed(0))
    return around(azimuths[order], (10 + 30 * shares)[order], (2 + 2 * shares)[order])


def test_photographs_around_a_scene_make_their_circle() -> None:
    photographs = orbit(CENTRE, 3.0, 14, elevation=25.0, start=70.0)
    survey = Survey(photographs)
    assert (survey.kind, survey.covered) == ("circle", 360.0)
    found = tour(photographs, 40)
    expected = orbit(CENTRE, 3.0, 40, elevation=25.0, start=70.0)
    assert torch.allclose(eyes(found), eyes(expected), atol=0.02), "evenly spaced, and begins at the first photograph"
    assert float((looks(found) * looks(expected)).sum(1).min()) > math.cos(math.radians(0.5))


def test_a_side_without_photographs_is_not_shown() -> None:
    photographs = arc()
    survey = Survey(photographs)
    assert survey.kind == "arc"
    assert survey.covered == pytest.approx(100, abs=1)
    found = tour(photographs, 60)
    azimuths, elevations, distances = polar(found)
    assert float(azimuths[0]) == pytest.approx(0, abs=1), "begins in the middle"
    assert float(azimuths.min()) == pytest.approx(-50, abs=1)
    assert float(azimuths.max()) == pytest.approx(50, abs=1)
    # As high and far as the photographs on that side.
    inner = azimuths.abs() < 35
    shares = (azimuths + 50) / 100
    assert torch.allclose(elevations[inner], (10 + 30 * shares)[inner], atol=2)
    assert torch.allclose(distances[inner], (2 + 2 * shares)[inner], atol=0.15)
    # To and fro without a jerk, also from the last frame to the first.
    steps = torch.diff(torch.cat([eyes(found), eyes(found)[:1]]), dim=0).norm(dim=1)
    assert float(steps.max()) < 2 * float(steps.mean())
    towards = torch.nn.functional.normalize(CENTRE - eyes(found), dim=1)
    assert float((towards * looks(found)).sum(1).min()) > math.cos(math.radians(2))


@pytest.mark.parametrize(("gap", "kind"), [(80, "circle"), (100, "arc")])
def test_a_gap_of_a_quarter_opens_the_circle(gap: float, kind: str) -> None:
    azimuths = torch.linspace(gap / 2, 360 - gap / 2, 25)
    photographs = around(azimuths, torch.full((25,), 20.0), torch.full((25,), 3.0))
    assert Survey(photographs).kind == kind


def test_the_camera_looks_past_the_centre_as_the_photographs_do() -> None:
    """On one side they look 12 degrees to the left and 8 degrees above it."""
    photographs = arc(-60, 60, 25)
    for index, view in enumerate(photographs):
        if float(polar([view])[0]) > 20:
            turned = Rotation.from_euler("YX", [-12, 8], degrees=True).as_matrix()
            pose = view.cam_to_worlds.clone()
            pose[0, :3, :3] = pose[0, :3, :3] @ torch.from_numpy(turned).float()
            photographs[index] = dataclasses.replace(view, cam_to_worlds=pose)
    found = [view for view in tour(photographs, 60) if abs(float(polar([view])[0])) > 40]
    nearest = torch.cdist(eyes(found), eyes(photographs)).argmin(dim=1)
    theirs = looks(photographs)[nearest]
    assert len(set(nearest.tolist())) >= 6
    assert float((theirs * looks(found)).sum(1).min()) > math.cos(math.radians(5))
    centre = torch.nn.functional.normalize(focus(photographs) - eyes(found), dim=1)
    assert float((theirs * centre).sum(1).min()) < math.cos(math.radians(9)), "other than straight at one point"


def test_values_of_ones_own() -> None:
    survey = Survey(arc())
    azimuths, elevations, distances = polar(survey.cameras(36, turns=1.0, radius=5.0, elevation=-10.0))
    assert float(torch.diff(azimuths.sort().values).max()) == pytest.approx(10, abs=1), "all around"
    assert torch.allclose(elevations, torch.full_like(elevations, -10), atol=1)
    assert torch.allclose(distances, torch.full_like(distances, 5), atol=0.1)
    backwards = eyes(survey.cameras(36, turns=-1.0))
    assert torch.allclose(backwards[1:], eyes(survey.cameras(36, turns=1.0))[1:].flip(0), atol=1e-4)
    steps = torch.diff(eyes(survey.cameras(360, turns=1.0)), dim=0).norm(dim=1)
    assert float(steps.max()) < 3 * float(steps.mean()), "no jump on the side without photographs"
    still = survey.cameras(30, radius=5.0)
    assert float(polar(still)[0].max()) < 51, "a radius alone stays on the photographs' side"
    other = torch.tensor([2.5, -1.0, 0.5], dtype=torch.float64)
    found = Survey(arc(), centre=other).cameras(30)
    towards = torch.nn.functional.normalize(other - eyes(found), dim=1)
    assert torch.allclose(towards, looks(found), atol=1e-5), "a centre is in the middle"


def room(num: int = 60) -> list[View]:
    """Along a corridor, looking to all sides, and then, after a cut, along one beside it."""
    along = torch.linspace(0, 6, num // 2)
    first = torch.stack([along, 0 * along, 1 + 0 * along], dim=1)
    second = first + torch.tensor([0.0, 40.0, 0.0])
    places = torch.cat([first, second]).double()
    angles = torch.linspace(0, 4 * math.pi, num, dtype=torch.float64)
    return list(View.look_at(places, places + torch.stack([angles.cos(), angles.sin(), 0 * angles], dim=1)))


def test_a_room_is_walked_through_in_order() -> None:
    photographs = room()
    survey = Survey(photographs)
    assert survey.kind == "walk"
    found = survey.cameras(300)
    places, real = eyes(found), eyes(photographs)
    apart = torch.cdist(places, real).min(dim=1).values
    assert float(apart.max()) < 0.25, "nowhere far from a photograph, nor between the two corridors"
    assert float((places[:, 1] > 20).double().mean()) == pytest.approx(0.5, abs=0.02)
    half = looks(found)[:150]
    assert bool((torch.diff(places[:150, 0]) > 0).all())
    assert float((half[1:] * half[:-1]).sum(1).min()) > math.cos(math.radians(5)), "it turns smoothly"
    expected = looks(photographs)[torch.linspace(0, 59, 300).round().long()][:150]
    assert float((half * expected).sum(1).min()) > math.cos(math.radians(20))
    assert survey.frames() == FRAMES[0]
    assert Survey(room(400)).frames() == 400


@pytest.mark.parametrize(
    "photographs",
    [
        [View.look_at((1, 2, 3), (0, 0, 0))],
        [View.look_at((1, 2, 3), (0, 0, 0))] * 3,
        list(View.look_at(torch.ones(8, 3), torch.ones(8, 3) + torch.randn(8, 3))),
        # Straight down from a grid, as a drone does.
        list(View.look_at(grid := torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0), torch.tensor([9.0])),
                          grid - torch.tensor([0.0, 0, 1]), up=(0.0, 1, 0))),
        # One behind the other.
        list(View.look_at(line := torch.stack([torch.arange(9.0), torch.zeros(9), torch.zeros(9)], dim=1),
                          line + torch.tensor([1.0, 0, 0]))),
    ],
    ids=["one", "the same", "one place", "from above", "forwards"],
)  # fmt: skip
def test_odd_places(photographs: list[View]) -> None:
    """The cameras stay among the photographs and look in their directions."""
    found = tour(photographs, 20)
    assert len(found) == 20
    poses = torch.cat([view.cam_to_worlds for view in found]).double()
    assert torch.allclose(poses[:, :3, :3].transpose(1, 2) @ poses[:, :3, :3], torch.eye(3).double(), atol=1e-5)
    low, high = eyes(photographs).aminmax(dim=0)
    assert bool(((eyes(found) > low - 1.5) & (eyes(found) < high + 1.5)).all())
    if not bool(torch.isclose(low, high).all()):
        nearest = torch.cdist(eyes(found), eyes(photographs)).argmin(dim=1)
        assert float((looks(found) * looks(photographs)[nearest]).sum(1).min()) > 0.8


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 30), st.floats(20, 250))
def test_the_camera_never_leaves_what_was_seen(seed: int, num: int, extent: float) -> None:
    """Between the outermost photographs, and neither nearer, farther, higher nor lower than all of them."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(3, num, generator=generator)
    photographs = around(extent * draw[0], -30 + 80 * draw[1], 1 + draw[2])
    survey = Survey(photographs, centre=CENTRE)
    azimuths, elevations, distances = polar(survey.cameras(24))
    theirs = polar(photographs)
    if survey.kind == "arc":
        nearest = torch.remainder(azimuths[:, None] - theirs[0] + 180, 360).sub(180).abs().min(dim=1).values
        assert float(nearest.max()) <= max(45.0, extent / 2) + 0.1
        if extent < 180:  # otherwise the widest gap may lie between two photographs
            assert float(torch.remainder(azimuths + 20, 360).max()) <= extent + 20.1
    for mine, of_photographs in ((elevations, theirs[1]), (distances, theirs[2])):
        assert float(mine.min()) >= float(of_photographs.min()) - 0.01
        assert float(mine.max()) <= float(of_photographs.max()) + 0.01


def test_a_turned_scene_has_a_turned_tour() -> None:
    turn = torch.eye(4)
    turn[:3, :3] = torch.from_numpy(Rotation.from_rotvec([1.0, -2.0, 0.5]).as_matrix()).float()
    turned = [dataclasses.replace(view, cam_to_worlds=turn @ view.cam_to_worlds) for view in arc()]
    found = tour(turned, 12, up=turn[:3, 2])
    expected = tour(arc(), 12)
    assert torch.allclose(eyes(found), eyes(expected) @ turn[:3, :3].double().T, atol=1e-4)
    assert torch.allclose(looks(found), looks(expected) @ turn[:3, :3].double().T, atol=1e-4)


def test_images_are_like_the_photographs() -> None:
    portrait = Survey(orbit(CENTRE, 3.0, 8, fov=60.0, width=900, height=1600))
    own = portrait.picture()
    assert (own.width, own.height) == (450, 800)
    assert own.fov == pytest.approx(60, abs=0.01)
    lying = portrait.picture(width=1600, height=900)
    across = 2 * math.degrees(math.atan(math.tan(math.radians(lying.fov) / 2) * 1600 / 900))
    assert across == pytest.approx(60, abs=0.01), "as much as the photographs show, lying"
    assert portrait.picture(height=400).width == 226
    assert portrait.picture(width=90).height == 160
    assert portrait.picture(fov=30.0).fov == 30.0
    small = Survey(orbit(CENTRE, 3.0, 8, fov=100.0, width=64, height=48)).picture()
    assert (small.width, small.height, round(small.fov)) == (64, 64, 90), "photographs of very wide lenses"
    view = tour(orbit(CENTRE, 3.0, 8, fov=60.0, width=900, height=1600), 2)[0]
    assert torch.allclose(view.Ks[0], fov_intrinsics(60.0, 450, 800), atol=0.1)
    fisheye = View.look_at((0, 0, 0), (1, 0, 0), width=200, height=100).fisheye(60.0)
    assert Survey([fisheye]).picture(width=100, height=100).fov < 90
    assert Survey([fisheye.panorama()]).picture().fov == pytest.approx(90)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tour([]), "There is no camera to follow"),
        (lambda: tour(arc(), 0), "num is 0"),
        (lambda: tour(arc(), up=(0, 0, 0)), "up is"),
        (lambda: tour(arc(), fov=180.0), "fov is 180"),
        (lambda: Survey(arc(), centre=(1, 2)), r"centre has the shape \(2,\)"),
    ],
)
def test_mistakes(call: Any, message: str) -> None:
    with pytest.raises(SplatkitError, match=message):
        call()
