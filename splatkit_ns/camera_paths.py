"""Series of cameras for videos: orbits around a point, and smooth paths through given views."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from splatkit_ns.cameras import View, as_vectors
from splatkit_ns.errors import SplatkitError
from splatkit_ns.rotations import matrices_of_unit, quaternions

Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(values of weight 0, values of weight 1, weights (M, 1)) -> values; weights outside [0, 1] go on beyond the two."""


def orbit(
    centre: Sequence[float] | Tensor,
    radius: float,
    num: int,
    elevation: float = 20.0,
    *,
    up: Sequence[float] | Tensor = (0.0, 0.0, 1.0),
    start: float = 0.0,
    turns: float = 1.0,
    fov: float = 50.0,
    width: int = 800,
    height: int = 600,
) -> list[View]:
    """Cameras on a circle around a point, all of which look at it: a turntable.

    The cameras are evenly spaced, and the one after the last would be the first again, so that a video of them runs in
    a loop.

    Args:
        centre: the point to look at, (3,), in world units.
        radius: the distance of the cameras from it in world units, more than 0.
        num: the number of cameras, from 1.
        elevation: the height of the cameras above the centre, as an angle in degrees between -90 and 90; with a
            negative angle they look up from below.
        up: the axis of the circle, (3,), which points upwards in the images.
        start: the angle of the first camera in degrees. With the default `up`, 0 is in direction +x and 90 in +y.
        turns: the number of turns, counter-clockwise seen from above; a negative number turns clockwise.
        fov: the vertical field of view in degrees.
        width: of the images in pixels.
        height: of the images in pixels.

    Returns:
        ``num`` views of one camera each.

    Raises:
        SplatkitError: a value is out of range.
    """
    if not radius > 0.0:
        raise SplatkitError(f"orbit: radius is {radius}, expected a distance of more than 0.")
    if num < 1:
        raise SplatkitError(f"orbit: num is {num}, expected at least one camera.")
    if not -90.0 < elevation < 90.0:
        raise SplatkitError(f"orbit: elevation is {elevation}, expected an angle between -90 and 90 degrees.")
    target, axis = as_vectors(centre, "centre")[0], as_vectors(up, "up")[0]
    if not float(axis.norm()) > 0.0:
        raise SplatkitError("orbit: up is (0, 0, 0), expected the direction of the axis.")
    axis = axis / axis.norm()
    first, second = plane_across(axis)
    angles = math.radians(start) + 2 * math.pi * turns * torch.arange(num, dtype=torch.float64)[:, None] / num
    rise = math.radians(elevation)
    outward = math.cos(rise) * (angles.cos() * first + angles.sin() * second) + math.sin(rise) * axis
    return list(View.look_at(target + radius * outward, target, axis, fov, width, height))


def focus(views: Sequence[View]) -> Tensor:
    """The point that cameras look at.

    Args:
        views: the cameras, at least one.

    Returns:
        The point, (3,) float64, with the least sum of squared distances from their lines of sight. If the lines are
        nearly parallel, it is as far before the cameras as they are apart.

    Raises:
        SplatkitError: the cameras all stand at one point, or there is none.
    """
    if not sum(map(len, views)):
        raise SplatkitError("focus: there is no view.")
    poses = torch.cat([view.cam_to_worlds.detach().cpu() for view in views]).double()
    eyes, forward = poses[:, :3, 3], torch.nn.functional.normalize(poses[:, :3, 2], dim=-1)
    middle, spread = eyes.mean(0), float((eyes - eyes.mean(0)).norm(dim=1).max())
    if not spread > 0.0:
        raise SplatkitError("focus: all cameras stand at one point.")
    ahead = middle + 2 * spread * torch.nn.functional.normalize(forward.mean(0), dim=0)
    across = torch.eye(3, dtype=torch.float64) - forward[:, :, None] * forward[:, None]
    # A little pull towards the point ahead decides where parallel lines leave it open.
    weak = 1e-3 * len(eyes)
    return torch.linalg.solve(
        across.sum(0) + weak * torch.eye(3, dtype=torch.float64), (across @ eyes[..., None]).sum(0)[:, 0] + weak * ahead
    )


def path(views: Sequence[View] | View, num: int, *, closed: bool = False) -> list[View]:
    """Cameras that move smoothly through the given ones, for the frames of a video.

    Positions, rotations and intrinsics follow Catmull-Rom curves with even knots, evaluated by Barry and Goldman's
    pyramid (SIGGRAPH 1988) of linear interpolations, and for rotations, of spherical ones (slerp) of quaternions.
    Every two neighbouring views are the same number of frames apart, whatever their distance.

    Args:
        views: the cameras to pass through, at least two, of one image size, lens model and device.
        num: the number of frames. An open path has the first and the last view as its first and last frame.
        closed: go on from the last view to the first, and stop one frame before that, so that the video runs in a loop.

    Returns:
        ``num`` views of one camera each.

    Raises:
        SplatkitError: there are too few views or frames, or the views do not fit together.
    """
    keys = [camera for view in views for camera in view]
    smallest = 1 if closed else 2
    if len(keys) < 2 or num < smallest:
        raise SplatkitError(f"path: expected at least 2 views and {smallest} frame(s), found {len(keys)} and {num}.")
    model = keys[0]
    for view in keys:
        if (view.width, view.height, view.lens) != (model.width, model.height, model.lens):
            raise SplatkitError(
                f"path: all views must have one image size and lens, found {model.width}×{model.height} {model.lens} "
                f"and {view.width}×{view.height} {view.lens}."
            )
    times = torch.arange(num, dtype=torch.float64, device=model.device)
    times = times * len(keys) / num if closed else times * (len(keys) - 1) / (num - 1)
    if closed:
        keys = [keys[-1], *keys, *keys[:2]]
    poses = torch.cat([view.cam_to_worlds for view in keys]).double()

    def curve(values: Tensor, mix: Mix) -> Tensor:
        return _catmull_rom(values, times, closed, mix)

    moved = torch.eye(4, dtype=torch.float64, device=poses.device).repeat(num, 1, 1)
    moved[:, :3, :3] = matrices_of_unit(curve(_aligned(quaternions(poses[:, :3, :3])), slerp))
    moved[:, :3, 3] = curve(poses[:, :3, 3], _lerp)
    Ks = curve(torch.cat([view.Ks for view in keys]).double().flatten(1), _lerp).reshape(-1, 3, 3)
    lenses = [view.distortion for view in keys if view.distortion is not None]
    distortion = curve(torch.cat(lenses).double(), _lerp).float() if len(lenses) == len(keys) else None
    return list(dataclasses.replace(model, cam_to_worlds=moved.float(), Ks=Ks.float(), distortion=distortion))


def slerp(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Spherical linear interpolation (Shoemake 1985) of unit vectors (M, D), at weights (M, 1).

    Quaternions of opposite sign are not brought to the same side here.
    """
    cosine = (a * b).sum(-1, keepdim=True)
    across = b - cosine * a
    sine = across.norm(dim=-1, keepdim=True)
    turned = weights * torch.atan2(sine, cosine)
    return turned.cos() * a + turned.sin() * across / sine.clamp(min=1e-12)


def _lerp(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    return a + weights * (b - a)


def _catmull_rom(keys: Tensor, times: Tensor, closed: bool, mix: Mix) -> Tensor:
    """Values (M, D) of the curve through keys (N, D).

    Args:
        keys: if the curve is closed, they begin with the last and end with the first two once more.
        times: (M,), counted in keys from the first.
        closed: whether the curve returns to its beginning.
        mix: the interpolation of two values.
    """
    if not closed:  # one more key at each end, in a straight line from the last two
        one = torch.ones_like(times[:1, None])
        keys = torch.cat([mix(keys[:1], keys[1:2], -one), keys, mix(keys[-2:-1], keys[-1:], 2 * one)])
    begin = times.floor().long().clamp(max=len(keys) - 4)
    t = (times - begin)[:, None]
    p0, p1, p2, p3 = (keys[begin + i] for i in range(4))
    a1, a2, a3 = mix(p0, p1, t + 1), mix(p1, p2, t), mix(p2, p3, t - 1)
    b1, b2 = mix(a1, a2, (t + 1) / 2), mix(a2, a3, t / 2)
    return mix(b1, b2, t)


def plane_across(axis: Tensor) -> tuple[Tensor, Tensor]:
    """Two unit vectors across a unit axis that make a right-handed system with it; +x and +y for +z."""
    near = torch.eye(3, dtype=axis.dtype)[0 if abs(float(axis[0])) < 0.9 else 1]
    first = near - (near @ axis) * axis
    first = first / first.norm()
    return first, torch.linalg.cross(axis, first)


def _aligned(quats: Tensor) -> Tensor:
    """The same rotations (N, 4), with signs by which each is at most a quarter turn from the one before it."""
    flips = (quats[1:] * quats[:-1]).sum(1) < 0
    signs = torch.cat([flips.new_zeros(1), flips]).cumsum(0) % 2
    return quats * (1 - 2 * signs[:, None])
