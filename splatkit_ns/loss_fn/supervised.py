"""The common part of the losses of 3DGS and 2DGS: colours, regularisers, and depth and normals of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.errors import ModuleError
from splatkit_ns.image_metrics.pixel_errors import l1, mse
from splatkit_ns.image_metrics.ssim import ssim, triton_kernel
from splatkit_ns.loss_fn.base import SplatLossFn, TargetName
from splatkit_ns.loss_fn.geometry import (
    DepthKind,
    NormalAxes,
    alpha_error,
    axis_depths,
    depth_error,
    interior,
    inverse_depth_error,
    is_explained,
    masked_mean,
    normal_error,
    pixel_rays,
    z_depths,
)
from splatkit_ns.parts.payload import PayloadT, SplatRenderPayload
from splatkit_ns.ranges import Fraction, NonNegative, Positive
from splatkit_ns.rasterize.surfaces import normals_of_depth
from splatkit_ns.splat import SplatTrainingState
from splatkit_ns.triton_kernels import LazyKernel


@dataclass
class SupervisedLossFn(SplatLossFn[PayloadT]):
    """(1 - lambda) L1 + lambda (1 - SSIM), with optional regularisers, depth and normals.

    A subclass with a `pre_step` of its own has to call that of ``super``.
    """

    ssim_lambda: Annotated[float, Fraction] = 0.2
    """Weight of 1 - SSIM; L1 gets the rest."""
    mse_lambda: Annotated[float, NonNegative] = field(default=0.0, kw_only=True)
    """Weight of the mean squared error, which PSNR measures, beside L1 and SSIM; 0 is off."""
    alpha_lambda: Annotated[float, NonNegative] = field(default=0.1, kw_only=True)
    """Weight of the mean absolute error of alpha, if masks or alpha channels tell it
    (--pipeline.datamanager.mask-mode segment, sky or alpha); 0 is off."""
    sky_lambda: Annotated[float, NonNegative] = field(default=0.1, kw_only=True)
    """Weight of the mean alpha where the renderer's sky explains the photograph without any Gaussians; 0 is off. It has
    no effect without a sky, and on photographs whose alpha is known."""
    opacity_reg: Annotated[float, NonNegative] = 0.0
    """Weight of the mean opacity. 3DGS-MCMC uses 0.01, so that superfluous Gaussians fade away."""
    scale_reg: Annotated[float, NonNegative] = 0.0
    """Weight of the mean standard deviation, in world units. 3DGS-MCMC uses 0.01."""
    depth_lambda: Annotated[float, NonNegative] = 0.0
    """Weight of the mean absolute error of depth, relative to the scene's scale, or of inverse depth, relative to its
    mean; 0 is off. The data must have depth images."""
    depth_lambda_final: Annotated[float | None, Positive] = field(default=None, kw_only=True)
    """The weight at the last step, to which depth-lambda falls exponentially, such as 0.001 for depth that is not
    exact; None means that it stays."""
    depth_kind: DepthKind = "z"
    """Kind of the data's depth images: z, the depth along the camera's axis, as depth cameras write it; ray, the
    distance from the camera, as lidars measure it; or inverse, 1 / z with an unknown scale and shift in each image, as
    networks for single photographs estimate it."""
    normal_lambda: Annotated[float, NonNegative] = 0.0
    """Weight of the mean of 1 - cos of the angle to the data's normals; 0 is off. The data must have normal images."""
    normal_axes: NormalAxes = "opencv"
    """Camera axes of the data's normals: opencv (x right, y down, z forward), opengl (x right, y up,
    z backward)."""

    def pre_step(self, step: int, max_steps: int, training_state: SplatTrainingState) -> None:
        if self.depth_lambda > 0 and self.depth_lambda_final is not None:
            if not hasattr(self, "_falling_weight"):
                # a tensor, because the kernels of a CUDA graph would keep a number
                self._falling_weight = torch.zeros((), device=training_state.device)
            share = step / max(1, max_steps)
            self._falling_weight.fill_(self.depth_lambda * (self.depth_lambda_final / self.depth_lambda) ** share)

    def wants_depth(self, step: int) -> bool:
        return self.depth_lambda > 0 or self.normal_lambda > 0

    @property
    def wanted_targets(self) -> frozenset[TargetName]:
        wanted: dict[TargetName, float] = {"target_depths": self.depth_lambda, "target_normals": self.normal_lambda}
        return frozenset(name for name, weight in wanted.items() if weight > 0)

    @property
    def gpu_kernels(self) -> tuple[LazyKernel[Any], ...]:
        return (triton_kernel,) if self.ssim_lambda > 0 else ()

    def color_terms(
        self,
        rendered_frames: Tensor,
        target_frames: Tensor,
        training_state: SplatTrainingState,
        masks: Tensor | None,
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute L1, D-SSIM and the regularisers, each weighted; pixels outside the mask count in none of them.

        Args:
            rendered_frames: (1, H, W, 3).
            target_frames: (1, H, W, 3) in [0, 1].
            training_state: the Gaussians, for the regularisers.
            masks: (1, H, W) bool, True = use this pixel.
            weights: (1, H, W), the weights of the pixels; None for 1.
        """
        terms = {"l1": (1 - self.ssim_lambda) * l1(rendered_frames, target_frames, masks, weights)}
        if self.ssim_lambda > 0:
            rendered, target = rendered_frames.permute(0, 3, 1, 2), target_frames.permute(0, 3, 1, 2)
            similarity = ssim(rendered, target, mask=masks, weights=weights)
            terms["dssim"] = self.ssim_lambda * (1 - similarity)
        if self.mse_lambda > 0:
            terms["mse"] = self.mse_lambda * mse(rendered_frames, target_frames, masks, weights)
        if self.opacity_reg > 0:
            terms["opacity_reg"] = self.opacity_reg * training_state.opacities.mean()
        if self.scale_reg > 0:
            terms["scale_reg"] = self.scale_reg * training_state.scales.mean()
        return terms

    def geometry_terms(self, masks: Tensor | None, step: Mapping[str, Any]) -> dict[str, Tensor]:
        """Compute the errors of alpha, depth and normals, each weighted; empty if nothing is known of them.

        Args:
            masks: (1, H, W) bool, True = use this pixel.
            step: the arguments of `compute_loss`, by name.

        Raises:
            ModuleError: an argument that a term needs is missing or None.
        """
        terms: dict[str, Tensor] = {}
        alphas: Tensor | None = step.get("target_alphas")
        if alphas is not None and self.alpha_lambda > 0:
            (rend_out,) = self._require("alpha", step, "rend_out")
            terms["alpha"] = self.alpha_lambda * alpha_error(rend_out.alphas, alphas, masks)
        if self.depth_lambda > 0:
            terms["depth"] = self._depth_weight() * self._depth_term(masks, step)
        if self.normal_lambda > 0:
            rend_out, targets, view = self._require("normal", step, "rend_out", "target_normals", "view")
            normals, valid = self.camera_normals(rend_out, view)
            if masks is not None:
                valid = valid & self.mask_for_normals(masks)
            if self.normal_axes == "opengl":
                targets = torch.cat([targets[..., :1], -targets[..., 1:]], dim=-1)
            valid = valid & torch.isfinite(targets).all(-1)
            terms["normal"] = self.normal_lambda * normal_error(normals, targets, rend_out.alphas, valid)
        return terms

    def sky_terms(
        self, rendered_frames: Tensor, target_frames: Tensor, masks: Tensor | None, step: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Compute the mean alpha where the sky alone explains the photograph, weighted; empty without a sky.

        There is no need for Gaussians in these pixels, and those that are there float between camera and sky. The
        photograph is compared as it is without what an image model makes of the render.

        Args:
            rendered_frames: (1, H, W, 3), after the image model.
            target_frames: (1, H, W, 3).
            masks: (1, H, W) bool, True = use this pixel.
            step: the arguments of `compute_loss`, by name.
        """
        rend_out: SplatRenderPayload | None = step.get("rend_out")
        is_known = step.get("target_alphas") is not None
        if self.sky_lambda == 0 or is_known or rend_out is None or rend_out.skies is None:
            return {}
        with torch.no_grad():
            canonical = target_frames - (rendered_frames - rend_out.renders)
            explained = is_explained(rend_out.skies, canonical)
        return {"sky": self.sky_lambda * masked_mean(rend_out.alphas[..., 0] * explained, masks)}

    def _depth_term(self, masks: Tensor | None, step: Mapping[str, Any]) -> Tensor:
        """The error of depth, without its weight."""
        rend_out, targets, view, scale = self._require(
            "depth", step, "rend_out", "target_depths", "view", "scene_scale"
        )
        depths = self._require("depth", rend_out, "depths_expected")[0]
        valid = mask_or_all(masks, depths)
        if self.depth_kind == "inverse":
            return inverse_depth_error(axis_depths(depths, view), targets, rend_out.alphas, valid)
        return depth_error(depths, z_depths(targets, self.depth_kind, view), valid) / scale

    def _depth_weight(self) -> float | Tensor:
        """The weight of depth at this step.

        Raises:
            ModuleError: it falls, and `pre_step` has not run.
        """
        if self.depth_lambda_final is None:
            return self.depth_lambda
        if not hasattr(self, "_falling_weight"):
            raise ModuleError(
                f"{self.module_name}.depth_lambda_final is set, but its pre_step has not run. A loss of your own with "
                "a pre_step has to call that of super(), and a training loop of your own that of its parts."
            )
        return self._falling_weight

    def camera_normals(self, rend_out: Any, view: View) -> tuple[Tensor, Tensor]:
        """Return normals in the camera's OpenCV axes, times alpha, (1, H, W, 3), and the mask of reliable ones.

        Here they are those of the depth image; a renderer that draws normals has better ones.
        """
        depths = self._require("normal", rend_out, "depths_expected")[0]
        rays = None if view.lens == "pinhole" else pixel_rays(view)
        normals = normals_of_depth(depths, view.Ks, rays=rays) * rend_out.alphas.detach()
        return normals, interior(rend_out.alphas[..., 0] > 0)

    def mask_for_normals(self, masks: Tensor) -> Tensor:
        """Return the pixels of a mask whose normals depend on no pixel outside it."""
        return interior(masks)

    def _require(self, term: str, values: Mapping[str, Any] | SplatRenderPayload, *names: str) -> list[Any]:
        found = [values[name] if name in values else None for name in names]  # noqa: SIM401
        for name, value in zip(names, found, strict=True):
            if value is None:
                raise ModuleError(
                    f"{self.module_name}.{term}_lambda is above 0, which needs {name}, but there is none. A loss of "
                    "your own that calls super().compute_loss must pass on all arguments: take **kwargs, pass them."
                )
        return found


def mask_or_all(masks: Tensor | None, image: Tensor) -> Tensor:
    """Return the mask, or one of all pixels if it is None, for an image (C, H, W, X)."""
    return torch.ones(image.shape[:-1], dtype=torch.bool, device=image.device) if masks is None else masks
