"""Cameras for a video that shows a scene from where it was photographed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from splatkit_ns.camera_paths import focus, plane_across
from splatkit_ns.cameras import View, as_vectors
from splatkit_ns.errors import SplatkitError

CLOSED_BELOW = math.radians(90)
"""Photographs surround a scene if the widest gap between two neighbours, seen from its middle, is smaller than this."""
TOWARDS = 0.7
"""Photographs look at one place if this is exceeded by the median cosine between their line of sight and the direction
to it."""
STEEPEST = math.radians(80)
"""The largest angle of a camera, and of its line of sight, above and below the horizon."""
LONGEST_SIDE = 800
"""The longest side of the images in pixels, if no size is given and the photographs are larger."""
WIDEST = 1.0
"""The largest tangent of half the field of view that is taken over from photographs: 90 degrees."""
CUT_STEP, CUT_ANGLE = 10.0, math.radians(60)
"""A walk is cut between two photographs if they are farther apart than so many median steps, or turned by more."""
FRAMES = (120, 600)
"""The smallest and the largest number of frames, if none is given."""

Kind = Literal["circle", "arc", "walk"]


def tour(
    views: Sequence[View],
    num: int = 120,
    *,
    up: Sequence[float] | Tensor = (0.0, 0.0, 1.0),
    fov: float | None = None,
    width: int | None = None,
    height: int | None = None,
) -> list[View]:
    """Cameras that move where photographs were taken, so that they show what the photographs have seen.

    Photographs around a scene make a circle, at their heights and distances. If a side of the scene has none, the
    camera goes to and fro before the other sides. If the photographs do not look at one place, as in a flat, it goes
    along the places they were taken from, in their order. The first two run in a loop.

    Args:
        views: the cameras of the photographs, at least one, in the order in which they were taken.
        num: the number of cameras, from 1.
        up: the direction that points upwards in the images, (3,).
        fov: the vertical field of view in degrees; None means that of the photographs, at most 90.
        width: of the images in pixels; None means the photographs' proportions.
        height: of the images in pixels, likewise. If neither is given, the longest side has at most 800.

    Returns:
        ``num`` views of one camera each.

    Raises:
        SplatkitError: there is no view, or a value is out of range.
    """
    return Survey(views, up).cameras(num, fov=fov, width=width, height=height)


@dataclass(frozen=True)
class Picture:
    """The size and field of view of images."""

    fov: float
    """Vertical, in degrees."""
    width: int
    height: int


class Survey:
    """The places that photographs were taken from, seen from the place that they show.

    Args:
        views: their cameras, at least one, in the order in which they were taken.
        up: the axis that points upwards, (3,).
        centre: the place, (3,); None means the one that the cameras look at.

    Attributes:
        kind: the photographs' places surround the centre (`circle`), leave out a side of it (`arc`), or do not belong
            to a centre (`walk`, never if one is given).
        covered: the angle in degrees, seen from the centre, from the first to the last of the places; 360 for a circle.

    Raises:
        SplatkitError: there is no view, or `up` is zero.
    """

    def __init__(
        self,
        views: Sequence[View],
        up: Sequence[float] | Tensor = (0.0, 0.0, 1.0),
        centre: Sequence[float] | Tensor | None = None,
    ) -> None:
        if not sum(map(len, views)):
            raise SplatkitError("There is no camera to follow.")
        axis = as_vectors(up, "up")[0]
        if not float(axis.norm()) > 0.0:
            raise SplatkitError("up is (0, 0, 0), expected the direction of the axis.")
        self._axes = torch.stack([*plane_across(axis / axis.norm()), axis / axis.norm()])
        self._views = views
        # In axes with z upwards.
        poses = torch.cat([view.cam_to_worlds.detach().cpu() for view in views]).double()
        self._eyes = poses[:, :3, 3] @ self._axes.T
        self._looks = poses[:, :3, 2] @ self._axes.T
        self._headings, self._pitches = _headings(self._looks, poses[:, :3, 0] @ self._axes.T)
        self._looks_at_centre = centre is not None
        if centre is not None:
            self._centre = self._axes @ as_vectors(centre, "centre")[0]
        elif float((self._eyes - self._eyes[0]).norm(dim=1).max()) > 0.0:
            self._centre = self._axes @ focus(views)
        else:  # all at one place
            self._centre = self._eyes[0] + self._looks[0]
        offsets = self._eyes - self._centre
        self._distances = offsets.norm(dim=1).clamp(min=1e-9)
        self._azimuths = torch.atan2(offsets[:, 1], offsets[:, 0])
        self._elevations = torch.asin((offsets[:, 2] / self._distances).clamp(-1, 1))
        ordered = self._azimuths.sort().values
        gaps = torch.diff(ordered, append=ordered[:1] + 2 * math.pi)
        widest = int(gaps.argmax())
        self._widest_gap = float(gaps[widest])
        self._inner_gap = float(gaps.sort().values[-2]) if len(gaps) > 1 else 0.0
        self._begin = float(ordered[(widest + 1) % len(ordered)])
        self.kind: Kind = self._kind()
        self.covered = 360.0 if self.kind == "circle" else 360.0 - math.degrees(self._widest_gap)

    def frames(self) -> int:
        """A number of frames for a video: more than the smallest only along many places."""
        return max(FRAMES[0], min(len(self._eyes), FRAMES[1])) if self.kind == "walk" else FRAMES[0]

    def picture(self, fov: float | None = None, width: int | None = None, height: int | None = None) -> Picture:
        """The size and field of view of images like the photographs.

        An image of other proportions shows as much as they do: the tangents of half its fields of view, across and
        upwards, have the same product. See `tour` for the arguments.
        """
        across, upwards = self._half_tangents()
        if width is None and height is None:
            longest = min(LONGEST_SIDE, max(max(view.width, view.height) for view in self._views))
            scale = longest / max(across, upwards)
            width, height = even(scale * across), even(scale * upwards)
        elif width is None:
            assert height is not None
            width = even(height * across / upwards)
        elif height is None:
            height = even(width * upwards / across)
        if fov is None:
            fov = 2 * math.degrees(math.atan(math.sqrt(across * upwards * height / width)))
        return Picture(fov, width, height)

    def cameras(
        self,
        num: int,
        *,
        turns: float | None = None,
        radius: float | None = None,
        elevation: float | None = None,
        fov: float | None = None,
        width: int | None = None,
        height: int | None = None,
    ) -> list[View]:
        """Cameras for a video.

        Args:
            num: see `tour`, as for the last three.
            turns: go around the centre so many times, wherever photographs were taken, counter-clockwise seen from
                above.
            radius: stay at this distance from the centre, in world units.
            elevation: stay at this angle above it, in degrees.
            fov: see `tour`.
            width: see `tour`.
            height: see `tour`.

        Raises:
            SplatkitError: a value is out of range.
        """
        if num < 1:
            raise SplatkitError(f"tour: num is {num}, expected at least one camera.")
        if self.kind == "walk" and turns is None and radius is None and elevation is None:
            eyes, looks = self._walk(num)
        else:
            eyes, looks = self._around(num, turns, radius, elevation)
        picture = self.picture(fov, width, height)
        eyes, looks = eyes @ self._axes, looks @ self._axes
        return list(View.look_at(eyes, eyes + looks, self._axes[2], picture.fov, picture.width, picture.height))

    def _kind(self) -> Kind:
        if not self._looks_at_centre:
            towards = ((self._centre - self._eyes) * self._looks).sum(1) / self._distances
            if float(towards.median()) < TOWARDS:
                return "walk"
        if self._widest_gap < CLOSED_BELOW:
            return "circle"
        if not self._looks_at_centre:
            # Places that lie behind each other, or above each other, are no arc.
            level = float((self._distances * self._elevations.cos()).median())
            heights, distances = self._eyes[:, 2], self._distances
            along = level * (2 * math.pi - self._widest_gap)
            if along <= max(float(heights.max() - heights.min()), float(distances.max() - distances.min())):
                return "walk"
        return "arc"

    def _half_tangents(self) -> tuple[float, float]:
        """The tangents of half the field of view, across and upwards: medians of the photographs'."""
        found: list[Tensor] = []
        for view in self._views:
            half = torch.tensor([view.width, view.height]) / 2 / view.Ks.detach().cpu().diagonal(dim1=1, dim2=2)[:, :2]
            if view.lens == "opencv_fisheye":
                half = half.clamp(max=math.pi / 4).tan()
            elif view.lens == "equirectangular":
                half = torch.full_like(half, WIDEST)
            found.append(half)
        across, upwards = torch.cat(found).median(dim=0).values.clamp(max=WIDEST).tolist()
        return across, upwards

    def _around(
        self, num: int, turns: float | None, radius: float | None, elevation: float | None
    ) -> tuple[Tensor, Tensor]:
        """Eyes (num, 3) and lines of sight (num, 3) around the centre."""
        extent = 2 * math.pi - self._widest_gap
        times = torch.arange(num, dtype=torch.float64) / num
        if turns is None and self.kind != "circle":
            angles = self._begin + extent * (0.5 + 0.5 * (2 * math.pi * times).sin())
            gap = self._inner_gap
        else:
            angles = float(self._azimuths[0]) + 2 * math.pi * (1.0 if turns is None else turns) * times
            gap = self._widest_gap
        # Wide enough that the camera neither bobs between neighbours nor jumps in the middle of a gap.
        reach = max(extent / 12, gap / 2, math.radians(5))
        apart = torch.remainder(angles[:, None] - self._azimuths + math.pi, 2 * math.pi) - math.pi
        shares = torch.softmax(-(apart**2) / (2 * reach**2) + self._elevations.cos().clamp(min=1e-3).log(), dim=1)
        distances = (shares @ self._distances.log()).exp() if radius is None else torch.full_like(angles, radius)
        rises = shares @ self._elevations if elevation is None else torch.full_like(angles, math.radians(elevation))
        if elevation is None:
            rises = rises.clamp(-STEEPEST, STEEPEST)
        eyes = self._centre + distances[:, None] * _direction(angles, rises)
        if self._looks_at_centre or turns is not None or radius is not None or elevation is not None:
            return eyes, self._centre - eyes
        # How far the photographs look past the centre there.
        aside = torch.atan2(self._headings[:, 1], self._headings[:, 0]) - self._azimuths - math.pi
        aside = shares @ (torch.remainder(aside + math.pi, 2 * math.pi) - math.pi)
        above = shares @ (self._pitches + self._elevations)
        return eyes, _direction(angles + math.pi + aside, (above - rises).clamp(-STEEPEST, STEEPEST))

    def _walk(self, num: int) -> tuple[Tensor, Tensor]:
        """Eyes (num, 3) and lines of sight (num, 3) along the photographs, in their order."""
        count = len(self._eyes)
        times = torch.linspace(0, count - 1, num, dtype=torch.float64)
        nearest = times.round().long()
        reach = min(max(count / 60, 0.7), 5.0)
        apart = times[:, None] - torch.arange(count)
        stretches = self._stretches()
        elsewhere = stretches[nearest][:, None] != stretches
        shares = torch.softmax((-(apart**2) / (2 * reach**2)).masked_fill(elsewhere, -torch.inf), dim=1)
        # Where headings cancel out, the nearest decides.
        headings = shares @ self._headings + 1e-3 * self._headings[nearest]
        return shares @ self._eyes, _direction(torch.atan2(headings[:, 1], headings[:, 0]), shares @ self._pitches)

    def _stretches(self) -> Tensor:
        """A number (N,) for each photograph, the same along a stretch without a cut."""
        if len(self._eyes) < 2:
            return torch.zeros(len(self._eyes), dtype=torch.long)
        steps = torch.diff(self._eyes, dim=0).norm(dim=1)
        cosines = (self._looks[1:] * self._looks[:-1]).sum(1)
        cuts = (steps > CUT_STEP * steps.median()) | (cosines < math.cos(CUT_ANGLE))
        return torch.cat([torch.zeros(1, dtype=torch.long), cuts.cumsum(0)])


def _headings(looks: Tensor, rights: Tensor) -> tuple[Tensor, Tensor]:
    """Unit directions (N, 2) on the ground in which cameras look, and angles (N,) above it, at most `STEEPEST`.

    Cameras that look almost straight up or down have the direction of an upright camera that is tilted to look there.
    """
    level = looks[:, :2]
    tilted = torch.stack([-rights[:, 1], rights[:, 0]], dim=1)
    steep = looks[:, 2].abs() > math.sin(STEEPEST)
    found = F.normalize(torch.where(steep[:, None], tilted, level), dim=1, eps=1e-12)
    return found, torch.asin(looks[:, 2].clamp(-1, 1)).clamp(-STEEPEST, STEEPEST)


def _direction(azimuths: Tensor, rises: Tensor) -> Tensor:
    """Unit vectors (M, 3) at angles (M,) on the ground and (M,) above it."""
    return torch.stack([rises.cos() * azimuths.cos(), rises.cos() * azimuths.sin(), rises.sin()], dim=1)


def even(pixels: float) -> int:
    """The nearest even number of pixels, which videos need, at least 2."""
    return max(2, 2 * round(pixels / 2))
