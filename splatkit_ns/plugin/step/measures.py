"""The figures of training and evaluation images, and pictures of the latter."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizer
from torch import Tensor

from splatkit_ns.image_metrics.metrics import ImageMetrics
from splatkit_ns.parts.context import StepContext
from splatkit_ns.parts.dispatch import ModuleDispatcher
from splatkit_ns.plugin.data.photographs.images import evaluation_target

CAMERA_IMAGE = "camera_image"
"""The output that photographs are compared with if there is one: what an image model makes of the render."""


class Measures:
    """Measures images.

    Args:
        lpips: whether evaluation images get LPIPS.
        camera_optimizer: has figures of its own for the log.
    """

    def __init__(self, lpips: bool, camera_optimizer: CameraOptimizer) -> None:
        self.metrics = ImageMetrics(lpips=lpips)
        self._camera_optimizer = camera_optimizer
        self._is_quick = False

    @property
    def aligns(self) -> bool:
        """Whether evaluation images are also measured after their cameras have been aligned with them: if training
        corrects poses, which makes all cameras drift together, away from those that are held out."""
        return self._camera_optimizer.config.mode != "off" and not self._is_quick

    @contextmanager
    def quickly(self) -> Generator[None]:
        """Leave out in the block what takes long: LPIPS, and aligned cameras."""
        before, self._is_quick = self._is_quick, True
        try:
            with self.metrics.without_lpips():
                yield
        finally:
            self._is_quick = before

    def of_training_image(self, context: StepContext) -> dict[str, Any]:
        """PSNR of the step's image, and the number of Gaussians."""
        assert context.target_frames is not None
        assert context.rendered_frames is not None
        mask = None if context.masks is None else context.masks[0]
        return self._for_log(context.rendered_frames[0], context.target_frames[0], mask, context)

    def of_outputs(self, outputs: Mapping[str, Any], batch: Mapping[str, Any], context: StepContext) -> dict[str, Any]:
        """PSNR of an evaluation image, and the number of Gaussians."""
        target, mask = evaluation_target(batch, outputs["background"])
        return self._for_log(compared(outputs), target, mask, context)

    def _for_log(self, rendered: Tensor, target: Tensor, mask: Tensor | None, context: StepContext) -> dict[str, Any]:
        found: dict[str, Any] = {
            "psnr": self.metrics.psnr(rendered.detach().clamp(0, 1), target, mask),
            "gaussian_count": len(context.training_state),
        }
        self._camera_optimizer.get_metrics_dict(found)
        return found

    def difference(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Tensor:
        """The mean absolute difference of an evaluation image from its render."""
        target, mask = evaluation_target(batch, outputs["background"])
        return self.metrics.l1(compared(outputs), target, mask)

    def of_evaluation_image(
        self, outputs: Mapping[str, Any], batch: Mapping[str, Any], dispatcher: ModuleDispatcher
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The metrics over the valid pixels, and a picture of ground truth and render side by side.

        During an evaluation that is announced to modules, they are told the result.
        """
        target, mask = evaluation_target(batch, outputs["background"])
        rendered = compared(outputs)
        found = self.metrics.all(rendered, target, mask)
        if dispatcher.is_validating and dispatcher.listens_to("post_validation_image"):
            dispatcher.run(
                "post_validation_image",
                metrics={"l1": float(self.metrics.l1(rendered, target, mask)), **found},
                image_name=str(batch.get("image_name", batch.get("image_idx", ""))),
                rendered_frames=rendered[None],
                target_frames=target[None],
            )
        return found, {"img": torch.cat([target, rendered], dim=1)}


def compared(outputs: Mapping[str, Any]) -> Tensor:
    """The output of a model that is compared with the photograph."""
    return outputs.get(CAMERA_IMAGE, outputs["rgb"])
