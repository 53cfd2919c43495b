"""3D Gaussian Splatting (https://arxiv.org/abs/2308.04079)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from splatkit_ns.cameras import LensModel, View
from splatkit_ns.formats import SplatRenderMode
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.ranges import NonNegative, Positive
from splatkit_ns.rasterize import Backend, gsplat_need, rasterization
from splatkit_ns.rasterize.unscented import has_unscented_transform
from splatkit_ns.renderer.base import RenderMode, RenderOptions, ScreenGradients, checked_state
from splatkit_ns.renderer.sky import SkyRenderer
from splatkit_ns.splat import SplatModel, SplatTrainingState
from splatkit_ns.triton_kernels import LazyKernel

WIDEST_FISHEYE = math.radians(120.0)
"""The angle from the axis, in radians, at the nearer edges of a fisheye image up to which it is drawn directly."""

WIDEST_OF_GSPLAT = math.radians(80.0)
"""The same with gsplat's unscented transform, which sees nothing beside the camera."""


@dataclass
class Splat3DGSRenderer(SkyRenderer[SplatRenderPayload]):
    """A renderer that projects Gaussians to ellipses on the screen (EWA splatting) and blends them front to back."""

    capturable: ClassVar[bool] = True
    lenses: ClassVar[tuple[LensModel, ...]] = ("pinhole", "opencv", "opencv_fisheye")
    rasterize_mode: Literal["classic", "antialiased"] = "classic"
    """antialiased scales opacities by the area that the 0.3 pixel blur adds (Mip-Splatting's 2D filter): better when
    zooming out, but viewers that ignore the mark in its files show Gaussians too thick."""
    near_plane: Annotated[float, NonNegative] = 0.01
    """Gaussians nearer than this are not drawn, in world units."""
    far_plane: Annotated[float, Positive] = 1e10
    """Gaussians farther than this are not drawn, in world units."""
    eps2d: Annotated[float, NonNegative] = 0.3
    """Blur added to every ellipse's covariance, in square pixels."""
    radius_clip: Annotated[float, NonNegative] = 0.0
    """Gaussians with a radius of at most this many pixels are not drawn; 0 draws all."""
    absgrad: bool = False
    """Also sum up absolute gradients of the projected centres (AbsGS), as some densification rules need."""
    packed: bool = False
    """Keep only visible Gaussians in memory, on a GPU, with gsplat's compiled code: slower, except for very large
    scenes."""
    backend: Backend = "splatkit"
    """Project with kernels of our own, or on a GPU with gsplat's, which need a compiler of CUDA code. Photographs with
    lenses that are not undistorted are then drawn with the unscented transform of gsplat 1.5.3 and newer."""

    @property
    def splat_mode(self) -> SplatRenderMode:
        return "mip" if self.rasterize_mode == "antialiased" else "default"

    @property
    def gsplat_need(self) -> str | None:
        return gsplat_need(self.backend, self.packed)

    @property
    def gpu_kernels(self) -> tuple[LazyKernel[Any], ...]:
        from splatkit_ns.rasterize.cuda_rasterization import own_kernels, sh_kernel

        return () if self.packed else (own_kernels, sh_kernel)

    def lens_kernels(self, lenses: Iterable[LensModel]) -> tuple[LazyKernel[Any], ...]:
        from splatkit_ns.rasterize.projection import LENS_KERNELS

        uses_ours = not self.packed and self.backend == "splatkit"
        return tuple(kernel for lens, kernel in LENS_KERNELS.items() if uses_ours and lens in lenses)

    def screen_gradients(self, lenses: Iterable[LensModel] = ("pinhole",)) -> ScreenGradients | None:
        """See `SplatRenderer.screen_gradients`; gsplat's unscented transform, which draws other lenses, has none."""
        by_gsplat = self.backend == "gsplat" and any(lens != "pinhole" for lens in lenses)
        return None if by_gsplat else super().screen_gradients(lenses)

    def draws_itself(self, view: View, is_training: bool = False) -> bool:
        """Whether `render` draws the views of a lens.

        Packed renders are for pinhole cameras alone, and so is gsplat's projection before it had the unscented
        transform. Images of fisheyes that see nearly all directions, or with gsplat more than half of them, are made of
        pinhole images, except in training: Gaussians near the direction straight back are drawn badly.
        """
        uses_gsplat = self.backend == "gsplat" and view.device.type == "cuda"
        only_pinhole = self.packed or (uses_gsplat and not has_unscented_transform())
        if view.lens == "opencv_fisheye" and not (only_pinhole or is_training):
            half_sides = view.Ks.new_tensor([view.width, view.height]) / 2 / view.Ks[:, [0, 1], [0, 1]]
            return float(half_sides.min()) <= (WIDEST_OF_GSPLAT if uses_gsplat else WIDEST_FISHEYE)
        return view.lens in (("pinhole",) if only_pinhole else self.lenses)

    def render(
        self, training_state: SplatTrainingState | SplatModel, view: View, options: RenderOptions = RenderOptions()
    ) -> SplatRenderPayload:
        """Render all cameras of a view; see `SplatRenderer.render`."""
        training_state = checked_state(self, training_state)
        params, degree = training_state.params, options.degree_of(training_state)
        images, alphas, info = rasterization(
            params["means"],
            params["quats"],
            training_state.scales,
            self.remaining(training_state.opacities, options),
            params["sh0"],
            view.world_to_cams,
            view.Ks,
            view.width,
            view.height,
            sh_degree=degree,
            sh_rest=params["shN"] if degree else None,
            backgrounds=self.backgrounds_of(options),
            render_mode=options.render_mode,
            absgrad=self.absgrad,
            list_space=options.list_space,
            lens=view.lens,
            distortion=view.distortion,
            **self._settings(view.device),
        )
        fields = image_fields(images, alphas, info, options.render_mode)
        fields |= self.before_sky(fields["renders"], alphas, view)
        return SplatRenderPayload(**fields, means2d=info["means2d"])

    def blend_weight_sums(self, training_state: SplatTrainingState, view: View, pixel_weights: Tensor) -> Tensor:
        """Compute each Gaussian's share in the weighted pixels of an image.

        Blend weights are the derivatives of an image with respect to values of the Gaussians, such as colours.

        Args:
            training_state: the Gaussians, N of them.
            view: a view with one camera.
            pixel_weights: weight of each pixel, (H, W).

        Returns:
            Sum over pixels of the pixel's weight times alpha and transmittance of the Gaussian there, (N,).

        Raises:
            ValueError: the weights have another shape.
        """
        if pixel_weights.shape != (view.height, view.width):
            raise ValueError(
                f"blend_weight_sums: pixel_weights must have shape (H, W) = ({view.height}, {view.width}), found "
                f"{tuple(pixel_weights.shape)}."
            )
        view = view.detach()
        # three channels on a background, because kernels for them have been compiled already; one would be enough
        values = torch.zeros(len(training_state), 3, device=training_state.device, requires_grad=True)
        with torch.enable_grad():
            image, _, _ = rasterization(
                training_state.means.detach(),
                training_state.params["quats"].detach(),
                training_state.scales.detach(),
                training_state.opacities.detach(),
                values,
                view.world_to_cams,
                view.Ks,
                view.width,
                view.height,
                backgrounds=values.new_zeros(1, 3),
                lens=view.lens,
                distortion=view.distortion,
                **self._settings(view.device),
            )
            image_weights = pixel_weights.to(image)[None, ..., None].expand_as(image).contiguous()
            (sums,) = torch.autograd.grad(image, values, image_weights)
        return sums[:, 0]

    def _settings(self, device: torch.device) -> dict[str, Any]:
        return {
            "near_plane": self.near_plane,
            "far_plane": self.far_plane,
            "radius_clip": self.radius_clip,
            "eps2d": self.eps2d,
            "packed": self.packed,
            "rasterize_mode": self.rasterize_mode,
            "backend": self.backend if device.type == "cuda" else "splatkit",
        }


def image_fields(images: Tensor, alphas: Tensor, info: dict[str, Any], render_mode: RenderMode) -> dict[str, Any]:
    """Return the payload's fields that every renderer fills alike.

    Args:
        images: colour channels, then one of depth if ``render_mode`` has it: (C, H, W, 3 | 4).
        alphas: (C, H, W, 1).
        info: the rasteriser's dict.
        render_mode: see `RenderMode`.
    """
    depth = images[..., -1:] if "D" in render_mode else None
    expected = "ED" in render_mode
    return {
        "renders": images[..., :3],
        "alphas": alphas,
        "width": info["width"],
        "height": info["height"],
        "n_cameras": info["n_cameras"],
        "info": info,
        "gaussian_ids": info.get("gaussian_ids"),
        "depths_expected": depth if expected else None,
        "depths_accumulated": None if expected else depth,
    }
