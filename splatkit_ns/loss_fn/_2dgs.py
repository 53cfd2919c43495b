"""The loss of 2D Gaussian Splatting (https://arxiv.org/abs/2403.17888, section 5.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.errors import ModuleError
from splatkit_ns.loss_fn.geometry import interior, masked_mean, normal_error, normal_error_kernel
from splatkit_ns.loss_fn.supervised import SupervisedLossFn
from splatkit_ns.parts.fitting import distortion_start, normals_start
from splatkit_ns.parts.payload_2dgs import Splat2DGSPayload
from splatkit_ns.ranges import NonNegative
from splatkit_ns.splat import SplatTrainingState
from splatkit_ns.triton_kernels import LazyKernel


@dataclass
class Splat2DGSLossFn(SupervisedLossFn[Splat2DGSPayload]):
    """3DGS's loss, consistency of normals and depth, and depth distortion.

    The paper's weight of distortion (1000 for single objects, 100 for unbounded scenes) is for the square of depths
    mapped to [0, 1]. gsplat's rasteriser computes it from absolute differences of unmapped depths, so the weight here
    is that of gsplat's example, and the term is divided by the scene's scale.

    Raises:
        ModuleError: at set-up, if distortion is weighted, but the renderer does not render it.
    """

    normal_consistency_lambda: Annotated[float, NonNegative] = 0.05
    """Weight of 1 - cos of the angle between the discs' normals and those of the depth image (the paper's beta)."""
    normal_consistency_start_iter: Annotated[int, NonNegative] = normals_start(7000)
    """The term of normals is used after this step."""
    distortion_lambda: Annotated[float, NonNegative] = 0.01
    """Weight of the distortion, which pulls the discs that a ray meets together, relative to the scene's scale. The
    paper weighs it ten times as much for single objects as for unbounded scenes."""
    distortion_start_iter: Annotated[int, NonNegative] = distortion_start(3000)
    """The term of distortion is used after this step."""

    @property
    def gpu_kernels(self) -> tuple[LazyKernel[Any], ...]:
        return (*super().gpu_kernels, normal_error_kernel)

    def on_setup(self, renderer: Any) -> None:
        if self.distortion_lambda > 0 and not getattr(renderer, "distloss", True):
            raise ModuleError(
                f"{self.module_name}.distortion_lambda is {self.distortion_lambda}, but {type(renderer).__name__} "
                "renders no distortion: set its distloss to True, or distortion_lambda to 0."
            )

    def wants_depth(self, step: int) -> bool:
        return self._wants_distortion(step) or self._wants_consistency(step) or super().wants_depth(step)

    def _wants_distortion(self, step: int) -> bool:
        return self.distortion_lambda > 0 and step > self.distortion_start_iter

    def _wants_consistency(self, step: int) -> bool:
        return self.normal_consistency_lambda > 0 and step > self.normal_consistency_start_iter

    def compute_loss(
        self,
        rendered_frames: Tensor,
        target_frames: Tensor,
        training_state: SplatTrainingState,
        rend_out: Splat2DGSPayload,
        step: int,
        scene_scale: float,
        masks: Tensor | None = None,
        pixel_weights: Tensor | None = None,
        **rest: Any,
    ) -> dict[str, Tensor]:
        """Compute the terms of 3DGS's loss, ``distortion`` and ``normal_consistency``, each weighted.

        Pixels outside the mask count in none of them. A normal of the depth image also depends on the four pixels
        beside it: if one of them is outside the mask or empty, the normal does not count, either.
        """
        terms = self.color_terms(rendered_frames, target_frames, training_state, masks, pixel_weights)
        if self._wants_distortion(step):
            (distortion,) = self._require("distortion", rend_out, "render_distort")
            mean = masked_mean(distortion[..., 0], masks)
            terms["distortion"] = self.distortion_lambda / scene_scale * mean
        if self._wants_consistency(step):
            (surface,) = self._require("normal_consistency", rend_out, "normals_from_depth")
            seen = rend_out.alphas[..., 0] > 0
            valid = interior(seen if masks is None else seen & masks)
            error = normal_error(rend_out.normals, surface, rend_out.alphas, valid)
            terms["normal_consistency"] = self.normal_consistency_lambda * error
        arguments = {**rest, "step": step, "rend_out": rend_out, "scene_scale": scene_scale}
        terms |= self.sky_terms(rendered_frames, target_frames, masks, arguments)
        return terms | self.geometry_terms(masks, arguments)

    def camera_normals(self, rend_out: Splat2DGSPayload, view: View) -> tuple[Tensor, Tensor]:
        """Return blended normals in the camera's OpenCV axes, (1, H, W, 3), and the mask of non-empty pixels."""
        normals = rend_out.normals @ view.cam_to_worlds[:, None, :3, :3]  # v @ R is R^T v
        return normals, torch.ones_like(rend_out.alphas[..., 0], dtype=torch.bool)

    def mask_for_normals(self, masks: Tensor) -> Tensor:
        """Return the mask itself: a disc's normal at a pixel depends on no other pixel."""
        return masks
