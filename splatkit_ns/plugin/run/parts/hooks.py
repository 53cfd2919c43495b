"""The connection of a trainer with the hooks and writers that its config names."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from nerfstudio.engine.trainer import Trainer
from nerfstudio.utils import writer as nerfstudio_writer
from torch import Tensor

from splatkit_ns.errors import HookFailedError, SplatkitError, describe_os_error
from splatkit_ns.hooks import HOOK_REGISTRY, HookModule, Writer, open_writers
from splatkit_ns.hooks.registry import check_is_list
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.dispatch import VALIDATION_HOOKS, ModuleDispatcher
from splatkit_ns.plugin.reporting.writers import (
    WRITER_REGISTRY,  # imported from there so that the writers that need nerfstudio are registered
)

__all__ = ["RunHooks", "name_problems"]

logger = logging.getLogger("splatkit_ns")


class HooksConfig(Protocol):
    """The part of a run's config that says which hooks and writers it has."""

    hooks: Any
    """The names of hooks; in Python also instances."""
    writers: tuple[str, ...]
    experiment_name: str | None
    project_name: str | None
    logging: Any

    def is_wandb_enabled(self) -> bool: ...
    def is_tensorboard_enabled(self) -> bool: ...
    def is_comet_enabled(self) -> bool: ...


def name_problems(config: HooksConfig) -> list[str]:
    """The problems of the hooks and writers that a config names: unknown names, with similar ones that exist.

    In Python `config.hooks` may hold instances of `Hook`, too; they need no check.
    """
    problems: list[str] = []
    for setting, names, registry in (
        ("hooks", config.hooks, HOOK_REGISTRY),
        ("writers", config.writers, WRITER_REGISTRY),
    ):
        try:
            check_is_list(names, setting)
        except SplatkitError as error:
            problems.append(str(error))
            continue
        for name in names:
            if isinstance(name, str):
                try:
                    registry.get(name)
                except SplatkitError as error:
                    problems.append(str(error))
    return problems


class RunHooks:
    """The hooks and writers of one run.

    Args:
        config: the config that names hooks and writers.
        modules: the run's modules. The config's hooks are added to them as one module; a program may add others.
        folder: the run's folder.
    """

    def __init__(self, config: HooksConfig, modules: list[SplatBaseModule[Any]], folder: Path) -> None:
        self._config, self._all_modules, self._folder = config, modules, folder
        self._bridge: _Bridge | None = None

    @property
    def modules(self) -> list[HookModule]:
        """The modules that run hooks: the module with the config's hooks, and those that a program has added."""
        return [module for module in self._all_modules if isinstance(module, HookModule)]

    @contextmanager
    def setting_up(self, trainer: Trainer) -> Generator[None]:
        """Run the first hook before the trainer's set-up, which is the block, and the last hooks if it fails.

        Args:
            trainer: the trainer that is given to hooks.
        """
        if self._config.hooks:
            self._all_modules.append(HookModule(self._config.hooks))  # after all others
        try:
            for module in self.modules:
                module.begin(trainer)
            yield
            self._open_writers()  # after nerfstudio's: W&B has one run a process
        except BaseException as error:
            for module in self.modules:
                module.on_exception(error)
            with _logged_failures():
                self._end()
            raise

    @contextmanager
    def running(self, dispatcher: ModuleDispatcher) -> Generator[None]:
        """Tell modules of an exception in the training, which is the block, and let them clean up in any case.

        An error in cleaning up after an exception is only logged, because the exception is more informative.
        """
        try:
            yield
        except BaseException as error:
            dispatcher.report_exception(error)
            with _logged_failures():
                self._end(dispatcher)
            raise
        self._end(dispatcher)

    def _end(self, dispatcher: ModuleDispatcher | None = None) -> None:
        try:
            if dispatcher is not None:
                dispatcher.cleanup()
        finally:
            try:
                for module in self.modules:
                    module.on_cleanup()  # does nothing if the dispatcher has called it
            finally:
                self._close_writers()

    def wants_validation(self, dispatcher: ModuleDispatcher) -> bool:
        """Whether a writer, nerfstudio's or ours, or a module listens to evaluations."""
        config = self._config
        if config.is_wandb_enabled() or config.is_tensorboard_enabled() or config.is_comet_enabled():
            return True
        return self._bridge is not None or any(dispatcher.listens_to(hook) for hook in VALIDATION_HOOKS)

    def _open_writers(self) -> None:
        config = self._config
        log_dir = self._folder / config.logging.relative_log_dir
        opened = open_writers(
            config.writers, log_dir, config.experiment_name or "unnamed", config.project_name or "splatkit"
        )
        if opened is not None:
            for module in self.modules:
                module.trainer.logger = opened
            self._bridge = _Bridge(opened)
            nerfstudio_writer.EVENT_WRITERS.append(self._bridge)

    def _close_writers(self) -> None:
        """Close the writers, and remove them from nerfstudio's list; if the disk is full, their last lines are lost."""
        if self._bridge is None:
            return
        bridge, self._bridge = self._bridge, None
        if bridge in nerfstudio_writer.EVENT_WRITERS:
            nerfstudio_writer.EVENT_WRITERS.remove(bridge)
        for module in self.modules:
            module.trainer.logger = None
        try:
            bridge.writer.close()
        except OSError as error:
            logger.warning("The end of the log cannot be written: %s.", describe_os_error(error))


@contextmanager
def _logged_failures() -> Generator[None]:
    try:
        yield
    except Exception as error:
        logger.error("Cleaning up failed, too: %s", error)


@contextmanager
def _disk_faults_as_such() -> Generator[None]:
    """Raise a writer's disk error as `OSError`: `RunLog.flush` catches it by that class, so that the run goes on."""
    try:
        yield
    except HookFailedError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise


class _Bridge:
    """Passes nerfstudio's log on to our writers, with 1-based steps."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    @_disk_faults_as_such()
    def write_scalar(self, name: str, scalar: float | Tensor, step: int) -> None:
        self.writer.write_scalar(name, scalar, step + 1)

    @_disk_faults_as_such()
    def write_scalar_dict(self, name: str, scalar_dict: Mapping[str, float | Tensor], step: int) -> None:
        for key, scalar in scalar_dict.items():
            self.writer.write_scalar(f"{name}/{key}", scalar, step + 1)

    @_disk_faults_as_such()
    def write_image(self, name: str, image: Tensor, step: int) -> None:
        self.writer.write_image(name, image, step + 1)

    @_disk_faults_as_such()
    def write_config(self, name: str, config_dict: Mapping[str, Any], step: int) -> None:
        self.writer.write_config(name, config_dict, step)
