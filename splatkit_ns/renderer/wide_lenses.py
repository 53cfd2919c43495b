"""Panoramas and fisheye images made of narrower images, pinhole images or fisheyes, that are rendered and resampled."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from splatkit_ns.cameras import LensModel, View
from splatkit_ns.parts.payload import SplatRenderPayload

LENSES: tuple[LensModel, ...] = ("opencv_fisheye", "equirectangular")
"""The lenses whose images can be put together from pinhole images."""
AXES = tuple(axis for axis in itertools.product((-1.0, 0.0, 1.0), repeat=3) if any(axis))
"""The viewing axes of the pinhole images, to the faces, edges and corners of a cube. Splatting is exact only near the
axis of a pinhole image: the six faces of a cube alone gave 3 dB less on a scene with large Gaussians."""
FACES = tuple(axis for axis in AXES if sum(map(abs, axis)) == 1)
"""The viewing axes of fisheyes, in which an angle from the axis bends a Gaussian far less."""
BLENDING = 0.03
"""Pinhole images are blended over an angle of this, in radians, because they draw a Gaussian a little differently."""
FISHEYE_BLENDING = 0.3
"""The same for fisheyes, which are few, so that a broad band costs little."""
SUPERSAMPLING = 2.0
"""Pixels of a pinhole image's middle for each pixel of the wide image, along each side."""
BORDER = 2
"""Pixels around a pinhole image that are not sampled, because normals of depth are missing there."""
NEWTON_ROUNDS = 20

Draw = Callable[[View, Tensor | None], SplatRenderPayload]
"""Renders a view with one pinhole camera, or a fisheye without coefficients, on a background (1, 3), or on black."""


def render_wide(draw: Draw, view: View, backgrounds: Tensor | None, draws_fisheyes: bool = False) -> SplatRenderPayload:
    """Render cameras with a lens among `LENSES`.

    The narrower images are interpolated linearly; values that are averages over Gaussians themselves, such as expected
    depth, are weighted by alpha. Depth along an axis becomes the distance from the camera. A pixel that sees nothing,
    which is more than 180 degrees from a fisheye's axis, has the background's colour.

    Args:
        draw: renders the narrower images.
        view: C cameras.
        backgrounds: colours behind the Gaussians, (C, 3); None means black.
        draws_fisheyes: whether it draws fisheyes, of which six take the place of 26 pinhole images.

    Returns:
        A payload with images (C, H, W, ...), and without screen positions.
    """
    payloads: list[SplatRenderPayload] = []
    images: list[dict[str, Tensor]] = []
    for number, camera in enumerate(view):
        background = None if backgrounds is None else backgrounds[number : number + 1]
        payload, found = _render_camera(draw, camera, background, draws_fisheyes)
        payloads.append(payload)
        images.append(found)
    merged = {name: torch.cat([found[name] for found in images]) for name in images[0]}
    return dataclasses.replace(
        payloads[0],
        **merged,
        width=view.width,
        height=view.height,
        n_cameras=len(view),
        info={},
        means2d=view.Ks.new_zeros(len(view), 0, 2),
        gaussian_ids=None,
    )


def _render_camera(
    draw: Draw, camera: View, background: Tensor | None, draws_fisheyes: bool
) -> tuple[SplatRenderPayload, dict[str, Tensor]]:
    """The payload of one of the narrower images, and the wide images by name, (1, H, W, ...)."""
    directions = pixel_directions(camera).reshape(-1, 3)
    focal = SUPERSAMPLING * _pixels_per_radian(camera)
    axes = F.normalize(directions.new_tensor(FACES if draws_fisheyes else AXES), dim=1)
    blending = FISHEYE_BLENDING if draws_fisheyes else BLENDING
    nearest = torch.full_like(directions[:, 0], torch.pi)
    for axis in axes:
        nearest = torch.minimum(nearest, _angles(directions, axis))
    sums: dict[str, Tensor] = {}
    weight_sums = directions.new_zeros(len(directions), 1)
    payload = None
    for axis in axes:
        weights = (1 - (_angles(directions, axis) - nearest) / blending).clamp(min=0) * (directions != 0).any(1)
        pixels = weights.nonzero()[:, 0]
        if len(pixels) == 0:
            continue
        to_camera = _axes_towards(axis)
        rays = directions[pixels] @ to_camera[:3, :3]
        part_view, places = _narrower(camera.cam_to_worlds @ to_camera, rays, focal, draws_fisheyes)
        payload = draw(part_view, background)
        part = weights[pixels, None]
        weight_sums.index_add_(0, pixels, part)
        stretch = torch.ones_like(rays[:, 2:]) if draws_fisheyes else 1 / rays[:, 2:]
        for name, values in _sampled(payload, places, stretch).items():
            total = sums.setdefault(name, directions.new_zeros(len(directions), values.shape[1]))
            total.index_add_(0, pixels, part * values)
    assert payload is not None, "at least the middle of an image sees something"
    images = {name: total / weight_sums.clamp(min=1e-12) for name, total in sums.items()}
    images["renders"] += (weight_sums == 0) * (0 if background is None else background)
    for name in payload.averages & images.keys():
        images[name] /= images["alphas"].clamp(min=1e-12)
    return payload, {name: image.reshape(1, camera.height, camera.width, -1) for name, image in images.items()}


def _angles(directions: Tensor, axis: Tensor) -> Tensor:
    """The angles (P,) between unit vectors (P, 3) and a unit vector (3,), exact for small ones, too."""
    return 2 * torch.asin(((directions - axis).norm(dim=1) / 2).clamp(max=1))


def _axes_towards(forward: Tensor) -> Tensor:
    """The turn (4, 4) from the axes of a camera that looks along a direction (3,) to those in which it is given."""
    side = forward.new_tensor((1.0, 0, 0) if abs(float(forward[1])) > 0.9 else (0, 1.0, 0))
    right = F.normalize(torch.linalg.cross(side, forward), dim=0)
    turn = torch.eye(4, dtype=forward.dtype, device=forward.device)
    turn[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)
    return turn


def _narrower(cam_to_worlds: Tensor, rays: Tensor, focal: float, is_fisheye: bool) -> tuple[View, Tensor]:
    """A camera whose image just holds the unit rays (P, 3), in its axes, and their places in pixels (P, 2)."""
    if is_fisheye:
        across = rays[:, :2].norm(dim=1, keepdim=True)
        places = rays[:, :2] * (torch.atan2(across, rays[:, 2:]) / across.clamp(min=1e-12)) * focal
    else:
        places = rays[:, :2] / rays[:, 2:] * focal
    first = places.amin(0).floor().long() - BORDER
    left, top = first.tolist()
    width, height = (places.amax(0).ceil().long() + BORDER - first).tolist()
    K = rays.new_tensor([[focal, 0, -left], [0, focal, -top], [0, 0, 1]])
    lens: LensModel = "opencv_fisheye" if is_fisheye else "pinhole"
    return View(cam_to_worlds, K[None], width, height, lens), places - first


def _sampled(payload: SplatRenderPayload, places: Tensor, stretch: Tensor) -> dict[str, Tensor]:
    """The values (P, ...) of all images at places (P, 2); those of `averages` are multiplied by alpha, depths by the
    distance (P, 1) of a point at depth 1."""
    width, height = payload.width, payload.height
    grid = 2 * places / places.new_tensor([width, height]) - 1
    found: dict[str, Tensor] = {}
    for name, image in payload.items():
        if not isinstance(image, Tensor) or image.dim() != 4 or image.shape[:3] != (1, height, width):
            continue
        if name in payload.averages:
            image = image * payload.alphas
        image = image.to(grid).permute(0, 3, 1, 2)
        values = F.grid_sample(image, grid[None, None], padding_mode="border", align_corners=False)[0, :, 0].T
        found[name] = values * stretch if name in payload.along_axis else values
    return found


def pixel_directions(camera: View) -> Tensor:
    """The directions from which the pixels' middles get their light, in the camera's axes.

    Args:
        camera: a view with one camera, of a lens among `LENSES`.

    Returns:
        (H, W, 3) of length 1; zeros for pixels that see nothing.
    """
    K, device = camera.Ks[0], camera.Ks.device
    x = (torch.arange(camera.width, device=device) + 0.5 - K[0, 2]) / K[0, 0]
    y = (torch.arange(camera.height, device=device) + 0.5 - K[1, 2]) / K[1, 1]
    y, x = torch.meshgrid(y, x, indexing="ij")
    if camera.lens == "equirectangular":
        longitude, latitude = math.pi * x, math.pi * y
        across = torch.cos(latitude)
        return torch.stack([across * longitude.sin(), latitude.sin(), across * longitude.cos()], dim=-1)
    radius = torch.hypot(x, y)
    angle, is_seen = _angles_of_fisheye(radius, camera.distortion)
    share = torch.where(radius > 0, angle.sin() / radius.clamp(min=1e-12), 1.0)
    return torch.stack([x * share, y * share, angle.cos()], dim=-1) * is_seen[..., None]


def _angles_of_fisheye(radius: Tensor, distortion: Tensor | None) -> tuple[Tensor, Tensor]:
    """The angles from the axis, radians, at which a fisheye sees these distances from its middle, in focal lengths.

    It solves r = a (1 + k1 a^2 + k2 a^4 + k3 a^6 + k4 a^8), OpenCV's model, by Newton's method.

    Returns:
        The angles, and whether they are those of rays, from 0 to pi.
    """
    k1, k2, k3, k4 = (0.0,) * 4 if distortion is None else (*distortion[0, :4], *[0.0] * (4 - len(distortion[0, :4])))
    angle, error = radius.clone(), torch.zeros_like(radius)
    for _ in range(NEWTON_ROUNDS):
        a2 = angle * angle
        error = angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4)))) - radius
        slope = 1 + a2 * (3 * k1 + a2 * (5 * k2 + a2 * (7 * k3 + a2 * 9 * k4)))
        angle = (angle - error / slope.clamp(min=1e-3)).clamp(0, 2 * math.pi)
    return angle, (angle <= math.pi) & (error.abs() < 1e-4)


def _pixels_per_radian(camera: View) -> float:
    """The resolution of the image's middle."""
    focal = float(camera.Ks[0].diagonal()[:2].max())
    return focal / math.pi if camera.lens == "equirectangular" else focal
