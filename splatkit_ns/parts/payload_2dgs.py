"""The payload of a render of discs (2D Gaussian Splatting)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.parts.payload import SplatRenderPayload


@dataclass(kw_only=True)
class Splat2DGSPayload(SplatRenderPayload):
    """The result of a render of discs: colours and depth as for 3D Gaussians, and normals and distortion.

    Fields that need depth are None in a render without it.
    """

    key_for_gradient: ClassVar[str] = "gradient_2dgs"
    along_axis: ClassVar[frozenset[str]] = SplatRenderPayload.along_axis | {"depths_median", "render_distort"}
    averages: ClassVar[frozenset[str]] = SplatRenderPayload.averages | {"depths_median"}

    gradient_2dgs: Tensor
    """Zeros, (C, N, 2), whose ``.grad`` after backward is that of the discs' positions on the screen, per pixel.
    ``means2d.grad`` is only the part of it that goes through the low-pass filter of discs smaller than a pixel."""
    normals: Tensor
    """The discs' normals in world axes, facing the camera, summed with the blend weights: (C, H, W, 3), at most as long
    as ``alphas``."""
    normals_from_depth: Tensor | None = None
    """Unit normals in world axes of the surface that the depth image describes, facing the camera: (C, H, W, 3); 0 at
    the image's border, where neighbours are missing."""
    render_distort: Tensor | None = None
    """The spread of the discs along a ray: the sum over all pairs of them of the product of their blend weights and
    the distance of their depths, (C, H, W, 1) in world units; None unless the renderer's ``distloss`` is set."""
    depths_median: Tensor | None = None
    """Depth of the disc at which half of the light is gone, (C, H, W, 1) in world units."""

    @property
    def surface_depths(self) -> Tensor | None:
        """The median depth: at a step in depth the average lies in empty space."""
        return self.depths_median

    def extra_images(self, view: View) -> dict[str, Tensor]:
        """Normals of the discs and of the depth image, in world axes and in the camera's, and distortion.

        A normal of components in [-1, 1] is shown as a colour in [0, 1]. The camera's axes are x right, y up and z
        towards the viewer, so that a surface that faces the camera is blue. Pixels without a surface are black.
        """
        world = F.normalize(self.normals, dim=-1)
        opencv = world @ view.cam_to_worlds[:, None, :3, :3]  # v @ R is R^T v
        camera = opencv * opencv.new_tensor([1.0, -1.0, -1.0])
        images = {"normals": self._as_colors(world), "normals_camera": self._as_colors(camera)}
        if self.normals_from_depth is not None:
            images["normals_of_surface"] = self._as_colors(self.normals_from_depth)
        if self.render_distort is not None:
            images["distortion"] = self.render_distort
        return images

    def _as_colors(self, normals: Tensor) -> Tensor:
        there = (normals != 0).any(-1, keepdim=True) & (self.alphas > 0)
        return torch.where(there, (normals * 0.5 + 0.5).clamp(0, 1), 0.0) * self.alphas
