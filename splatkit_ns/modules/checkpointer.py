"""A module that saves checkpoints at regular intervals."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.files import check_output_dir, told_of_checkpoint
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.parts.steps import is_due
from splatkit_ns.ranges import NonNegative
from splatkit_ns.splat import SplatTrainingState


@dataclass
class SplatCheckpointer(SplatBaseModule[SplatRenderPayload]):
    """Writes ``step_001000.ckpt`` every n-th step and after the last, beside the trainer's own checkpoints.

    Raises:
        OptionsError: if a setting is negative.
        SplatkitError: at set-up, if the output folder cannot be written.
    """

    output_dir: str | Path
    """Folder of the checkpoints."""
    every: Annotated[int, NonNegative] = 1000
    """Steps between checkpoints; 0 turns it off."""
    keep: Annotated[int, NonNegative] = 0
    """The number of checkpoints to keep: the module deletes older ones once a newer one is complete. 0 keeps all."""

    @property
    def is_idle(self) -> bool:
        return self.every == 0

    def on_setup(self) -> None:
        check_output_dir(self.output_dir, self.module_name)
        self._written: list[str] = getattr(self, "_written", [])

    def post_step(
        self,
        logger: logging.Logger,
        step: int,
        max_steps: int,
        training_state: SplatTrainingState,
        world_rank: int,
        images_per_step: int = 1,
    ) -> None:
        """Save a checkpoint if one is due."""
        if world_rank != 0 or (step != max_steps and not is_due(step, self.every, images_per_step)):
            return
        folder = Path(self.output_dir)
        path = folder / f"step_{step:06d}.ckpt"
        before = [name for name in self._written if name != path.name]
        # Named before it is written, so that the checkpoint knows of itself when training resumes from it.
        self._written = [*before, path.name]
        tell = told_of_checkpoint(logger, f"The checkpoint of step {step}", path)

        def then(error: OSError | None) -> None:
            tell(error)
            if error is not None:
                self._written = before
            elif self.keep > 0:
                self._delete_older(folder)

        training_state.save_ckpt(path, then=then)

    def _delete_older(self, folder: Path) -> None:
        for name in self._written[: -self.keep]:
            (folder / name).unlink(missing_ok=True)
        self._written = self._written[-self.keep :]

    def state_dict(self) -> dict[str, Any]:
        return {"written": list(getattr(self, "_written", []))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._written = [Path(str(name)).name for name in state["written"]]
