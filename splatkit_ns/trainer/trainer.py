"""The Python entry to training: nerfstudio's trainer, set up from parts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from copy import deepcopy
from os import PathLike
from pathlib import Path
from typing import Any

from splatkit_ns.data_provider import SplatDataProvider
from splatkit_ns.densification import SplatDensification
from splatkit_ns.errors import OptionsError, SplatkitError
from splatkit_ns.files import check_writable
from splatkit_ns.image_model import SplatImageModel
from splatkit_ns.loss_fn import SplatLossFn
from splatkit_ns.modules import SplatBaseModule
from splatkit_ns.parts.checks import check_instance
from splatkit_ns.parts.copying import running_copy
from splatkit_ns.plugin.options.check import option_problems
from splatkit_ns.plugin.run.folder.own_methods import name_with_parts
from splatkit_ns.plugin.run.folder.run_folder import RunFolder
from splatkit_ns.plugin.run.opaque_parts import opaque_part, part_itself
from splatkit_ns.plugin.run.parts.modules import check_parts, draws_progress
from splatkit_ns.plugin.run.processes.rank_processes import end_if_imported, number_of_ranks
from splatkit_ns.plugin.trainer import SplatkitTrainerConfig
from splatkit_ns.renderer import SplatRenderer
from splatkit_ns.trainer.config import SplatTrainerConfig
from splatkit_ns.trainer.result import SplatTrainerResult
from splatkit_ns.trainer.running import check_script, train_here, train_in_ranks


class SplatTrainer:
    """Trains Gaussians from Python, with the same steps, checkpoints and writers as ``ns-train``.

    Renderer, loss, densification and modules are copied for each run, so that what a run changes stays out of yours;
    the result holds the copies. A copy shares an attribute that cannot be copied, such as a lock, with its original.

    The run is filed under its method's name, and the classes of parts of other classes than the method's after it:
    ``splatkit-3dgs-adc+Splat2DGSRenderer``.

    Args:
        config: method and settings of the run.
        data_provider: the data set to train on.
        renderer: None means that of the config's method, as for the other parts; without a method, 3DGS's.
        loss_fn: see `renderer`.
        densification: see `renderer`.
        modules: further modules, whose hooks are called in this order.
        ckpt_path: the checkpoint to resume from, of `SplatExporter`, `SplatTrainingState.save_ckpt` or ``ns-train``.
        viewer: run nerfstudio's viewer during training.
        image_model: see `renderer`; 3DGS has none.

    Raises:
        SplatkitError: something is not what it should be, a setting is out of range, the output folder cannot be
            written, or the checkpoint does not exist.
    """

    def __init__(
        self,
        config: SplatTrainerConfig,
        data_provider: SplatDataProvider,
        renderer: SplatRenderer[Any] | None = None,
        loss_fn: SplatLossFn[Any] | None = None,
        densification: SplatDensification[Any] | None = None,
        modules: Sequence[SplatBaseModule[Any]] = (),
        ckpt_path: str | PathLike[str] | None = None,
        viewer: bool = False,
        image_model: SplatImageModel[Any] | None = None,
    ) -> None:
        check_instance(config, SplatTrainerConfig, "config")
        check_instance(data_provider, SplatDataProvider, "data_provider")
        is_first = not config.machine_rank  # which alone reads and writes files
        if is_first and ckpt_path is not None and not Path(ckpt_path).is_file():
            raise SplatkitError(f"ckpt_path: there is no file {ckpt_path}.")
        self.config = config
        self.data_provider = data_provider
        self.modules = modules
        self.ckpt_path = None if ckpt_path is None else Path(ckpt_path)
        self.viewer = viewer
        self._parts = {
            "renderer": renderer,
            "image_model": image_model,
            "loss_fn": loss_fn,
            "densification": densification,
        }
        self._check()
        if is_first:
            check_writable(config.output_dir, "SplatTrainerConfig.output_dir")

    def run(self) -> SplatTrainerResult:
        """Train, up to ``max_steps``; from a checkpoint, only the steps that are missing.

        Each call is a new run in a folder of its own. The seeds of all global random generators are set. Of several
        machines, it returns on machine 0; on others it raises `SystemExit` with status 0 at the end.

        Raises:
            SplatkitError: the data, the checkpoint or a module does not fit, a loss is not finite, or several processes
                cannot import the program.
            StoppedBySignal: a signal asked to stop; everything is saved and cleaned up.
            HookFailedError: a module's hook raised.
        """
        end_if_imported()
        modules = [running_copy(module) for module in self.modules]
        config = self._run_config([])
        if number_of_ranks(config) > 1:
            check_script()
        config.set_timestamp()
        config.save_config()
        try:
            if number_of_ranks(config) == 1:
                return train_here(config, modules)
            return train_in_ranks(config, modules)
        finally:
            RunFolder(config).release()

    def _check(self) -> None:
        """Check settings and parts together.

        Raises:
            ModuleError: a part is no instance of what it should be.
            OptionsError: names every setting that does not exist or is out of its range.
        """
        problems: list[str] = []
        try:
            check_parts(**self._parts, modules=self.modules)
        except OptionsError as error:
            problems += error.problems
        config = self._run_config(problems)
        problems += option_problems(config, self._name_of, self.modules)
        if problems:
            raise OptionsError(list(dict.fromkeys(problems)))

    def _name_of(self, place: str) -> str:
        """The name that Python has for an option, for messages; see `SplatTrainerConfig.name_of`."""
        for name, part in self._parts.items():
            owner = f"pipeline.model.{name}."
            if part is not None and place.startswith(owner):
                return f"{part.module_name}.{place.removeprefix(owner).removeprefix('module.')}"
        return self.config.name_of(place)

    def _run_config(self, problems: list[str]) -> SplatkitTrainerConfig:
        """nerfstudio's config of this run.

        Args:
            problems: is appended to, a line for each setting that cannot be made.
        """
        config = self.config.method_config()
        datamanager = self.data_provider.datamanager_config()
        datamanager.data = datamanager.dataparser.data  # nerfstudio names the experiment after it
        config.pipeline.datamanager = datamanager
        others: list[str] = []  # the classes of parts that take the place of the method's
        changes = any(self.config.changes_part(name) for name, part in self._parts.items() if part is not None)
        memo: dict[int, Any] = {}  # what parts share, their copies share
        for name, part in self._parts.items():
            if part is not None:
                if type(part) is not type(part_itself(getattr(config.pipeline.model, name))):
                    others.append(type(part).__name__)
                holder = opaque_part(part)
                setattr(config.pipeline.model, name, deepcopy(holder, memo) if changes else holder)
        config.method_name = name_with_parts(str(config.method_name), others)
        config.load_checkpoint = self.ckpt_path
        config.logging.local_writer.enable = sys.stdout.isatty() and not draws_progress(self.modules)
        config.logging.profiler = "none"
        config.viewer.quit_on_train_completion = True
        config.vis = "viewer" if self.viewer else "none"
        self.config.set_in(config, problems)
        return config
