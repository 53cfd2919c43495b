"""A module that saves the trained Gaussians and the state of training at chosen steps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from splatkit_ns.formats import all_formats
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.files import check_output_dir, told_of_checkpoint, write_or_warn
from splatkit_ns.parts.nesting import part_with
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.parts.steps import no_steps, reachable_steps, reaches_one_of
from splatkit_ns.ranges import Range, Steps
from splatkit_ns.splat import SplatTrainingState


class KnownFormat(Range):
    """The names of the file formats that are registered when the setting is checked, and can be used here."""

    def __init__(self) -> None:
        super().__init__("", lambda value: self.complaint(value) is None)

    def complaint(self, value: Any) -> str | None:
        """The reason why a format cannot be written, as the end of a sentence; None if it can."""
        known = all_formats()
        if value not in known:
            return f"is {value!r}, expected one of: {', '.join(known)}"
        reason = known[value].why_unavailable()
        return None if reason is None else f"is {value!r}: {reason}"


@dataclass
class SplatExporter(SplatBaseModule[SplatRenderPayload]):
    """Writes ``splats/step_007000.ply`` and ``ckpts/step_007000.ckpt`` at chosen steps.

    PLY files open in every viewer of Gaussian splats, and the other formats are smaller; training resumes from the
    checkpoints. Each file is written whole or not at all, by the process of rank 0 alone; if the disk is full, training
    goes on without it. A checkpoint is of the whole step, with the states of all modules after it.

    Raises:
        OptionsError: if the format is unknown or a step is no whole number of at least 1.
        SplatkitError: at set-up, if the output folder cannot be written.
    """

    output_dir: str | Path
    """Folder of the exports; its subfolders are splats and ckpts."""
    export_steps: Annotated[Sequence[int], Steps] = field(default_factory=list[int])
    """Steps after which to export, counted from 1; include the last step to keep the final model. None: off."""
    save_splat: bool = True
    """Save the Gaussians."""
    save_ckpt: bool = True
    """Save checkpoints to resume from."""
    splat_format: Annotated[str, KnownFormat()] = "ply"
    """Format of the Gaussians' files, and their suffix: ply, compressed.ply, spz, sog, splat, glb or usd, or one
    that you registered."""

    @property
    def is_idle(self) -> bool:
        return no_steps(self.export_steps)

    def on_setup(self, logger: logging.Logger, max_steps: int, world_rank: int, renderer: Any = None) -> None:
        self._steps = reachable_steps(self.module_name, "export_steps", self.export_steps, max_steps, logger)
        if world_rank != 0:
            return
        check_output_dir(self.output_dir, self.module_name)
        has_sky = getattr(part_with(renderer, "sky_degree"), "sky_degree", None) is not None
        if self._steps and self.save_splat and has_sky:
            logger.warning("%s writes the Gaussians without the sky. `splatkit export` adds it.", self.module_name)

    def post_step(
        self,
        logger: logging.Logger,
        step: int,
        training_state: SplatTrainingState,
        world_rank: int,
        renderer: Any,
        images_per_step: int = 1,
    ) -> None:
        """Export if this is one of the steps."""
        if world_rank != 0 or not reaches_one_of(step, self._steps, images_per_step):
            return
        splat, ckpt = self.splat_path(step), self.ckpt_path(step)
        if self.save_splat and write_or_warn(
            logger, f"The Gaussians of step {step}", lambda: self._save_splat(splat, training_state, renderer)
        ):
            logger.info("Saved %d Gaussians to %s", len(training_state), splat)
        if self.save_ckpt:
            training_state.save_ckpt(ckpt, then=told_of_checkpoint(logger, f"The checkpoint of step {step}", ckpt))

    def _save_splat(self, path: Path, training_state: SplatTrainingState, renderer: Any) -> None:
        training_state.to_splat_model(renderer.splat_mode).save(path, format=self.splat_format)

    def splat_path(self, step: int) -> Path:
        """The file of the Gaussians of a step, counted from 1."""
        return Path(self.output_dir) / "splats" / f"step_{step:06d}.{self.splat_format}"

    def ckpt_path(self, step: int) -> Path:
        """The file of the checkpoint of a step, counted from 1."""
        return Path(self.output_dir) / "ckpts" / f"step_{step:06d}.ckpt"
