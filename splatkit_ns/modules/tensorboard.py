"""A module that writes scalars and images of training for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from splatkit_ns.image_metrics.psnr import psnr
from splatkit_ns.memory import peak_memory
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.event_files import event_writer
from splatkit_ns.parts.files import check_output_dir
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.parts.steps import is_due
from splatkit_ns.ranges import NonNegative
from splatkit_ns.splat import SplatTrainingState


@dataclass
class SplatTensorboard(SplatBaseModule[SplatRenderPayload]):
    """Writes loss and its terms, PSNR, number of Gaussians, learning rates, memory and images for TensorBoard.

    ``tensorboard --logdir`` shows them.

    Raises:
        OptionsError: if a setting is negative.
        ModuleError: at set-up, if the package tensorboard is missing.
        SplatkitError: at set-up, if the output folder cannot be written.
    """

    output_dir: str | Path
    """Folder of the event files."""
    scalars_every: Annotated[int, NonNegative] = 50
    """Steps between scalars; 0 turns them off."""
    images_every: Annotated[int, NonNegative] = 1000
    """Steps between images (ground truth beside the render); 0 turns them off."""

    @property
    def is_idle(self) -> bool:
        return self.scalars_every == 0 and self.images_every == 0

    def on_setup(self, world_rank: int) -> None:
        self._writer: Any = None
        if world_rank != 0:
            return
        check_output_dir(self.output_dir, self.module_name)
        self._writer = event_writer(self.output_dir, self.module_name)

    def post_step(
        self,
        step: int,
        loss: Tensor,
        loss_terms: Mapping[str, Tensor],
        rendered_frames: Tensor,
        target_frames: Tensor,
        masks: Tensor | None,
        training_state: SplatTrainingState,
        images_per_step: int = 1,
    ) -> None:
        """Write the scalars and images that are due in this step."""
        if self._writer is None:
            return
        if self.scalars_every > 0 and is_due(step, self.scalars_every, images_per_step):
            scalars: dict[str, Any] = {"train/loss": loss.detach()}
            scalars |= {f"train/loss/{name}": term.detach() for name, term in loss_terms.items()}
            scalars["train/psnr"] = psnr(rendered_frames, target_frames, masks)
            scalars["gaussians"] = len(training_state)
            scalars |= {
                f"learning_rate/{name}": optimizer.param_groups[0]["lr"]
                for name, optimizer in training_state.optimizers.items()
            }
            scalars["memory/peak_MiB"] = peak_memory(training_state.device) / 2**20
            for name, value in scalars.items():
                self._writer.add_scalar(name, float(value), step)
        if self.images_every > 0 and is_due(step, self.images_every, images_per_step):
            pair = torch.cat([target_frames[0], rendered_frames[0].detach().clamp(0, 1)], dim=1)
            self._writer.add_image("train/target_and_render", pair.cpu(), step, dataformats="HWC")

    def on_cleanup(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
