"""Cameras as one value: pose, intrinsics, image size and lens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from splatkit_ns.errors import SplatkitError

Vectors = Sequence[float] | Sequence[Sequence[float]] | Tensor
"""Three numbers, or C times three."""

LensModel = Literal["pinhole", "opencv", "opencv_fisheye", "equirectangular"]
"""The mapping from rays to pixels. opencv has up to nine coefficients: OpenCV's k1, k2, p1, p2, k3, k4, k5, k6 in this
order, of which k4 to k6 divide, and a fourth radial term, which OpenCV does not have; those not given are 0.
opencv_fisheye has the coefficients k1 to k4 of OpenCV's model, or none, which makes it equidistant. In an
equirectangular image, longitude goes to the right and latitude up; half a turn, 180 degrees, is K's first focal length
in pixels across, and its second one upwards."""


@dataclass(frozen=True, eq=False)
class View:
    """C cameras that render images of one size through lenses of one kind."""

    cam_to_worlds: Tensor
    """Camera-to-world matrices, (C, 4, 4), OpenCV axes (x right, y down, z forward), world units."""
    Ks: Tensor
    """Intrinsics in pixels, (C, 3, 3)."""
    width: int
    """Width of the images in pixels."""
    height: int
    """Height of the images in pixels."""
    lens: LensModel = "pinhole"
    """The lens model."""
    distortion: Tensor | None = None
    """The coefficients of the lens model, (C, D); None for lenses that have none."""

    @classmethod
    def look_at(
        cls,
        eye: Vectors,
        target: Vectors,
        up: Vectors = (0.0, 0.0, 1.0),
        fov: float = 50.0,
        width: int = 800,
        height: int = 600,
    ) -> View:
        """Pinhole cameras that look at a point, which they see in the middle of the image.

        Args:
            eye: the position of the camera, (3,), or of C cameras, (C, 3), in world units; the view is on its device.
            target: the point to look at, (3,) or (C, 3).
            up: the direction that points upwards in the image, (3,) or (C, 3), of any length. In scenes that
                nerfstudio has oriented this is +z, the default.
            fov: the vertical field of view, that of the image's height, in degrees, between 0 and 180.
            width: of the images in pixels.
            height: of the images in pixels.

        Raises:
            SplatkitError: the eye is at the target, `up` is parallel to the line of sight, or a value is out of range.
        """
        device = eye.device if isinstance(eye, Tensor) else torch.device("cpu")
        given = {"eye": eye, "target": target, "up": up}
        try:
            eyes, targets, ups = torch.broadcast_tensors(*(as_vectors(v, name, device) for name, v in given.items()))
        except RuntimeError:
            raise SplatkitError("look_at: eye, target and up are for different numbers of cameras.") from None
        Ks = fov_intrinsics(fov, width, height).to(device)
        return cls(_looking(eyes, targets, ups).float(), Ks.expand(len(eyes), 3, 3), width, height)

    def panorama(self) -> View:
        """The same cameras with equirectangular images of the same size, which show all directions."""
        return dataclasses.replace(
            self, Ks=self._centred(self.width / 2, self.height), lens="equirectangular", distortion=None
        )

    def fisheye(self, fov: float = 180.0) -> View:
        """The same cameras with equidistant fisheye images of the same size.

        Args:
            fov: the vertical field of view, that of the image's height, in degrees, at most 360.

        Raises:
            SplatkitError: the field of view is out of range.
        """
        if not 0.0 < fov <= 360.0:
            raise SplatkitError(f"fov is {fov}, expected an angle in degrees, more than 0 and at most 360.")
        focal = self.height / math.radians(fov)
        return dataclasses.replace(self, Ks=self._centred(focal, focal), lens="opencv_fisheye", distortion=None)

    def _centred(self, focal_x: float, focal_y: float) -> Tensor:
        K = [[focal_x, 0.0, self.width / 2], [0.0, focal_y, self.height / 2], [0.0, 0.0, 1.0]]
        return self.Ks.new_tensor(K).expand(len(self), 3, 3)

    def __len__(self) -> int:
        return len(self.cam_to_worlds)

    def __getitem__(self, index: int | slice) -> View:
        """One of the cameras, or some of them, as a view that shares the memory."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"the view has {len(self)} camera(s), there is no index {index}.")
            start = index % len(self)
            index = slice(start, start + 1)
        distortion = None if self.distortion is None else self.distortion[index]
        return dataclasses.replace(
            self, cam_to_worlds=self.cam_to_worlds[index], Ks=self.Ks[index], distortion=distortion
        )

    def __iter__(self) -> Iterator[View]:
        """The cameras one by one."""
        return (self[i] for i in range(len(self)))

    @property
    def device(self) -> torch.device:
        """The device of the poses."""
        return self.cam_to_worlds.device

    def to(self, device: torch.device | str, non_blocking: bool = False) -> View:
        """The view on a device; itself if it is there already.

        Args:
            device: the device.
            non_blocking: as for a tensor's `to`.
        """
        if self.device == torch.device(device):
            return self
        pose, Ks, distortion = (
            None if tensor is None else tensor.to(device, non_blocking=non_blocking)
            for tensor in (self.cam_to_worlds, self.Ks, self.distortion)
        )
        return dataclasses.replace(self, cam_to_worlds=pose, Ks=Ks, distortion=distortion)

    @property
    def world_to_cams(self) -> Tensor:
        """World-to-camera matrices, (C, 4, 4); differentiable."""
        rotation = self.cam_to_worlds[:, :3, :3].transpose(1, 2)
        translation = -rotation @ self.cam_to_worlds[:, :3, 3:]
        return torch.cat([torch.cat([rotation, translation], dim=2), self.cam_to_worlds[:, 3:]], dim=1)

    def detach(self) -> View:
        """The view without the gradients that its tensors may have."""
        distortion = None if self.distortion is None else self.distortion.detach()
        return dataclasses.replace(
            self, cam_to_worlds=self.cam_to_worlds.detach(), Ks=self.Ks.detach(), distortion=distortion
        )

    def smaller(self, downscale: int) -> View:
        """The view with both sides of the image divided by `downscale` and rounded down; nothing is read back."""
        if downscale == 1:
            return self
        Ks = torch.cat([self.Ks[:, :2] / downscale, self.Ks[:, 2:]], dim=1)
        return dataclasses.replace(self, Ks=Ks, width=self.width // downscale, height=self.height // downscale)

    def crop(self, left: int, top: int, width: int, height: int) -> View:
        """The view of a part of the image, of `width` times `height` pixels from the pixel (left, top) on."""
        offset = torch.zeros_like(self.Ks)
        offset[:, 0, 2] = left
        offset[:, 1, 2] = top
        return dataclasses.replace(self, Ks=self.Ks - offset, width=width, height=height)


def fov_intrinsics(fov: float, width: int, height: int) -> Tensor:
    """Intrinsics (3, 3) in pixels, float32, of a pinhole camera with square pixels that looks through their middle.

    Args:
        fov: the vertical field of view in degrees.
        width: of the image in pixels.
        height: of the image in pixels.

    Raises:
        SplatkitError: the field of view is not between 0 and 180 degrees, or a side has no pixel.
    """
    if not 0.0 < fov < 180.0:
        raise SplatkitError(f"fov is {fov}, expected an angle in degrees, more than 0 and less than 180.")
    if width < 1 or height < 1:
        raise SplatkitError(f"an image of {width}×{height} pixels has none, expected a width and a height from 1.")
    focal = height / 2 / math.tan(math.radians(fov) / 2)
    return torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def as_vectors(value: Vectors, name: str, device: torch.device | str = "cpu") -> Tensor:
    """Vectors as a tensor (C, 3) of float64, because rounding would turn cameras that are far from the origin.

    Args:
        value: one vector or C of them.
        name: the name of the argument, for messages.
        device: the device of the result.

    Raises:
        SplatkitError: the value is something else, or not finite.
    """
    try:
        vectors = torch.as_tensor(value, dtype=torch.float64, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise SplatkitError(
            f"{name} is {value!r}, expected three numbers, or a row of three for each camera."
        ) from None
    if vectors.dim() not in (1, 2) or vectors.shape[-1] != 3 or not bool(torch.isfinite(vectors).all()):
        raise SplatkitError(
            f"{name} has the shape {tuple(vectors.shape)}, expected (3,) or (C, 3), with finite numbers."
        )
    return vectors.reshape(-1, 3)


def _looking(eyes: Tensor, targets: Tensor, ups: Tensor) -> Tensor:
    """Camera-to-world matrices (C, 4, 4), OpenCV axes, of (C, 3) eyes, targets and directions that point up."""
    forward = targets - eyes
    distance = forward.norm(dim=1, keepdim=True)
    if bool((distance == 0).any()):
        raise SplatkitError("look_at: the eye is at the target. Move one of them, so that there is a line of sight.")
    forward = forward / distance
    right = torch.linalg.cross(forward, ups)
    length = right.norm(dim=1, keepdim=True)
    if bool((length <= 1e-6 * ups.norm(dim=1, keepdim=True)).any()):
        raise SplatkitError(
            "look_at: up is parallel to the line of sight, so the image could be turned any way. Give another one, "
            "such as up=(0, 1, 0) to look straight down."
        )
    right = right / length
    poses = torch.eye(4, dtype=eyes.dtype, device=eyes.device).repeat(len(eyes), 1, 1)
    poses[:, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward, eyes], dim=2)
    return poses
