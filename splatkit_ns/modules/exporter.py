"""Saves the trained Gaussians and the state of training at chosen steps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splatkit_ns.errors import ModuleError
from splatkit_ns.formats import format_names
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.files import check_output_dir, write_or_warn
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.parts.steps import check_steps
from splatkit_ns.splat import SplatTrainingState


@dataclass
class SplatExporter(SplatBaseModule[SplatRenderPayload]):
    """Writes ``splats/step_007000.ply`` and ``ckpts/step_007000.ckpt`` at chosen steps.

    PLY files open in every viewer of Gaussian splats, and the other formats are smaller; training resumes from the
    checkpoints. Each file is written whole or not at all, by the process of rank 0 alone; if the disk is full, training
    goes on without it. List it after modules that keep a state: a checkpoint holds the states of modules as they are
    when it is written.

    Raises:
        ModuleError: at set-up, if the format is unknown or a step is no whole number of at least 1.
        SplatkitError: at set-up, if the output folder cannot be written.
    """

    output_dir: str | Path
    """Folder of the exports; its subfolders are splats and ckpts."""
    export_steps: Sequence[int] = field(default_factory=list[int])
    """Steps after which to export, counted from 1; include the last step to keep the final model. None: off."""
    save_splat: bool = True
    """Save the Gaussians."""
    save_ckpt: bool = True
    """Save checkpoints to resume from."""
    splat_format: str = "ply"
    """Format of the Gaussians' files, and their suffix: ply, compressed.ply, spz, sog, splat or glb, or one that
    you registered."""

    @property
    def is_idle(self) -> bool:
        return not self.export_steps

    def on_setup(self, logger: logging.Logger, max_steps: int, world_rank: int) -> None:
        if self.splat_format not in format_names():
            raise ModuleError(
                f"{self.module_name}.splat_format is {self.splat_format!r}, expected one of: "
                f"{', '.join(format_names())}."
            )
        self._steps = check_steps(self.module_name, "export_steps", self.export_steps, max_steps, logger)
        if world_rank == 0:
            check_output_dir(self.output_dir, self.module_name)

    def post_step(
        self,
        logger: logging.Logger,
        step: int,
        training_state: SplatTrainingState,
        world_rank: int,
        renderer: Any,
    ) -> None:
        """Export when it is time."""
        if step not in self._steps or world_rank != 0:
            return
        splat, ckpt = self.splat_path(step), self.ckpt_path(step)
        if self.save_splat and write_or_warn(
            logger, f"The Gaussians of step {step}", lambda: self._save_splat(splat, training_state, renderer)
        ):
            logger.info("Saved %d Gaussians to %s", len(training_state), splat)
        if self.save_ckpt and write_or_warn(
            logger, f"The checkpoint of step {step}", lambda: training_state.save_ckpt(ckpt)
        ):
            logger.info("Saved a checkpoint to %s", ckpt)

    def _save_splat(self, path: Path, training_state: SplatTrainingState, renderer: Any) -> None:
        training_state.to_splat_model(renderer.splat_mode).save(path, format=self.splat_format)

    def splat_path(self, step: int) -> Path:
        """Where the Gaussians of a step (counted from 1) are saved."""
        return Path(self.output_dir) / "splats" / f"step_{step:06d}.{self.splat_format}"

    def ckpt_path(self, step: int) -> Path:
        """Where the checkpoint of a step (counted from 1) is saved."""
        return Path(self.output_dir) / "ckpts" / f"step_{step:06d}.ckpt"
