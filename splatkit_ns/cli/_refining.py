"""A short training of given Gaussians, as their run was trained, without a change of their number."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from splatkit_ns import formats
from splatkit_ns.densification import SplatDensification
from splatkit_ns.errors import SplatkitError
from splatkit_ns.files import check_writable
from splatkit_ns.formats import Gaussians
from splatkit_ns.modules.builtin import BuiltinModules
from splatkit_ns.modules.progress import SplatProgressTracker
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.plugin.loading import LoadedRun
from splatkit_ns.plugin.reporting.console import quiet_console, reset_writers
from splatkit_ns.plugin.run.folder.config_file import KNOWN, is_within
from splatkit_ns.plugin.trainer import SplatkitTrainer, SplatkitTrainerConfig
from splatkit_ns.splat.rng import seed_everything

_LEARNT = ("part_params.", "camera_optimizer.")
"""The beginnings of the names of what a model learns besides the Gaussians."""


@dataclass
class NoDensification(SplatDensification[SplatRenderPayload]):
    """Neither adds, removes nor moves Gaussians."""

    def densify(self, **kwargs: Any) -> None:
        """Do nothing."""


class _Refinement(SplatkitTrainer):
    """Prints no table of results, because its folder is deleted."""

    def _after_train(self) -> None:
        self.training_state = "completed"
        self._log.flush()


def check_modules(config: SplatkitTrainerConfig, trust: Sequence[str]) -> None:
    """Check that the modules which a run names by import path, and that training would import, are trusted.

    Raises:
        SplatkitError: one is not.
    """
    names = [path for path in config.modules.own if not is_within(path.partition(":")[0], (*KNOWN, *trust))]
    if names:
        raise SplatkitError(
            f"--refine trains as the run was trained, with its module(s) {', '.join(names)}. If they are your own, add "
            f"--trust {names[0].partition(':')[0]}."
        )


def refine(run: LoadedRun, gaussians: Gaussians, steps: int, folder: Path, device: str | None) -> Gaussians:
    """Train Gaussians of a run on.

    What the run's parts and its camera optimizer have learnt is there from the first step, and is trained on, too. The
    schedules of learning rates are those of a whole run of so many steps.

    Args:
        run: of a checkpoint.
        gaussians: finite, in the run's frame.
        steps: the number of steps.
        folder: temporary files are made in it.
        device: "cuda" or "cpu"; None means that of the opened run.

    Returns:
        As many Gaussians, in the same order.

    Raises:
        SplatkitError: the training fails.
        StoppedBySignal: Ctrl+C.
    """
    check_writable(folder, "splatkit prune")
    with TemporaryDirectory(dir=folder, prefix=".refinement-") as place:
        start = Path(place, "start.ply")
        formats.write(start, gaussians)
        config = _config(run, start, steps, device or str(run.pipeline.device).partition(":")[0])
        reset_writers()
        seed_everything(config.machine.seed)
        try:
            with quiet_console():  # opening the run has said what there is to say, and the folder is deleted
                trainer = _Refinement(config)
                trainer.setup()
            _load_learnt(trainer.pipeline.model, run.pipeline.model)
            trainer.train()
        finally:
            reset_writers()
        model = trainer.pipeline.model
        return model.training_state.to_splat_model(model.renderer.splat_mode).to_gaussians()


def _config(run: LoadedRun, start: Path, steps: int, device: str) -> SplatkitTrainerConfig:
    config = deepcopy(run.config)
    config.output_dir, config.experiment_name, config.timestamp = start.parent, "refinement", "run"
    config.load_dir = config.load_checkpoint = config.load_config = config.load_step = None
    config.max_num_iterations, config.full_length = steps, 0
    config.steps_per_save = steps + 1
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    config.hooks = config.writers = ()
    config.held_out = False
    config.vis = "none"
    config.viewer.quit_on_train_completion = True
    config.logging.local_writer.enable = False
    config.modules = BuiltinModules(own=config.modules.own, progress=SplatProgressTracker())
    config.machine.device_type = "cuda" if device == "cuda" else "cpu"
    config.pipeline.model.init_ply = start
    config.pipeline.model.densification = NoDensification()
    return config


def _load_learnt(model: Any, trained: Any) -> None:
    """Give the model what the run's own has learnt besides the Gaussians.

    The checkpoint is not read again: a run that trains on may have deleted it.
    """
    own, stored = (dict(each.named_parameters()) | dict(each.named_buffers()) for each in (model, trained))
    for name, value in stored.items():
        if name.startswith(_LEARNT) and name in own and own[name].shape == value.shape:
            own[name].data.copy_(value)
