"""Cameras as one value: pose, intrinsics, image size and lens."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LensModel = Literal["pinhole", "opencv", "opencv_fisheye", "equirectangular"]
"""How a ray becomes a pixel. Renderers say which of them they draw."""


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

    def __len__(self) -> int:
        return len(self.cam_to_worlds)

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
