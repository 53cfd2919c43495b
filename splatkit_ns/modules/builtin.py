"""The built-in modules as one group of settings, for the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splatkit_ns.modules.checkpointer import SplatCheckpointer
from splatkit_ns.modules.evaluator import SplatEvaluator
from splatkit_ns.modules.exporter import SplatExporter
from splatkit_ns.modules.progress import SplatProgressTracker
from splatkit_ns.modules.resolution import SplatResolutionSchedule
from splatkit_ns.modules.tensorboard import SplatTensorboard
from splatkit_ns.modules.timer import SplatTimer
from splatkit_ns.modules.transients import SplatTransientMasks
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.copying import running_copy
from splatkit_ns.parts.old_configs import FillsInDefaults


@dataclass
class BuiltinModules(FillsInDefaults):
    """The modules that ``ns-train`` can attach to a run. Each is off until its steps are given; relative folders lie in
    the run's folder."""

    own: tuple[str, ...] = ()
    """Modules of your own, as import paths: package.module:Class, or package.module:instance."""
    progress: SplatProgressTracker = field(default_factory=lambda: SplatProgressTracker(update_every=0))
    """A progress bar, in place of nerfstudio's table: set update-every."""
    evaluator: SplatEvaluator = field(default_factory=lambda: SplatEvaluator(output_dir="eval"))
    """Metrics on the evaluation images: set eval-steps."""
    exporter: SplatExporter = field(default_factory=lambda: SplatExporter(output_dir="export"))
    """PLY files and checkpoints at chosen steps: set export-steps."""
    checkpointer: SplatCheckpointer = field(
        default_factory=lambda: SplatCheckpointer(output_dir="checkpoints", every=0)
    )
    """Checkpoints at regular steps, beside the trainer's own: set every."""
    tensorboard: SplatTensorboard = field(
        default_factory=lambda: SplatTensorboard(output_dir="tensorboard", scalars_every=0, images_every=0)
    )
    """Scalars and images for TensorBoard: set scalars-every or images-every."""
    resolution: SplatResolutionSchedule = field(default_factory=lambda: SplatResolutionSchedule(max_downscale=1))
    """Small images first: set max-downscale."""
    transients: SplatTransientMasks = field(default_factory=lambda: SplatTransientMasks(begin=0.0))
    """Masks of what stands in one photograph only: set begin, such as 0.3."""
    timer: SplatTimer = field(default_factory=lambda: SplatTimer(every=0))
    """The time that each part of a step takes: set every."""

    def active(self, folder: Path) -> list[SplatBaseModule[Any]]:
        """Run-time copies of the modules that are on.

        Args:
            folder: of the run, in which relative output folders lie.
        """
        entries = [getattr(self, entry.name) for entry in dataclasses.fields(self) if entry.name != "own"]
        copies: list[SplatBaseModule[Any]] = [running_copy(entry) for entry in entries if not entry.is_idle]
        for module in copies:
            output_dir = getattr(module, "output_dir", None)
            if output_dir is not None:
                setattr(module, "output_dir", folder / output_dir)  # noqa: B010
        return copies
