"""The base of all writers, and several of them as one."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import Self

from splatkit_ns.errors import HookFailedError, SplatkitError, hook_failure
from splatkit_ns.hooks.registry import Registry, check_is_list


class Writer(abc.ABC):
    """The base of writers of a run's scalars, images and settings."""

    @abc.abstractmethod
    def write_scalar(self, name: str, scalar: float | Tensor, step: int) -> None:
        """Write a number.

        Args:
            name: of the curve, like ``val/psnr``.
            scalar: a number, or a tensor with one element.
            step: 1-based.
        """

    @abc.abstractmethod
    def write_image(self, name: str, image: Tensor, step: int) -> None:
        """Write an image.

        Args:
            name: of the image.
            image: (H, W, 3) in [0, 1], on any device.
            step: 1-based.
        """

    @abc.abstractmethod
    def write_config(self, name: str, config_dict: Mapping[str, Any], step: int) -> None:
        """Write the run's settings.

        Args:
            name: like ``config``.
            config_dict: nested; values are plain, or can be turned into strings.
            step: 1-based, 0 before the first.
        """

    def close(self) -> None:  # noqa: B027 - most writers have nothing to close
        """Write everything that is still buffered; nothing is written after it."""

    @classmethod
    def for_run(cls, log_dir: Path, experiment_name: str, project_name: str) -> Self:
        """Make a writer for a run; by default from the folder for logs alone."""
        del experiment_name, project_name
        return cls(log_dir)  # type: ignore[call-arg]


WRITER_REGISTRY: Registry[Writer] = Registry("writer", Writer)
"""Writers that a config can name."""


class Writers(Writer):
    """Several writers as one.

    Raises:
        HookFailedError: when one of them fails to write; names it, and keeps the cause.
    """

    def __init__(self, writers: Sequence[Writer]) -> None:
        self.writers = list(writers)

    def _call_all(self, method: str, name: str, value: Any, step: int) -> None:
        for writer in self.writers:
            try:
                getattr(writer, method)(name, value, step)
            except (SplatkitError, HookFailedError):
                raise
            except Exception as error:
                raise hook_failure(f"{type(writer).__name__}.{method}", step, error) from error

    def write_scalar(self, name: str, scalar: float | Tensor, step: int) -> None:
        """Write a number to all; it is read from its device once."""
        self._call_all("write_scalar", name, float(scalar), step)

    def write_image(self, name: str, image: Tensor, step: int) -> None:
        """Write an image to all."""
        self._call_all("write_image", name, image.detach().cpu(), step)

    def write_config(self, name: str, config_dict: Mapping[str, Any], step: int) -> None:
        """Write the settings to all."""
        self._call_all("write_config", name, config_dict, step)

    def close(self) -> None:
        """Close all, also those after one that fails; then the first failure is raised."""
        failures: list[Exception] = []
        for writer in self.writers:
            try:
                writer.close()
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]


def open_writers(names: Sequence[str], log_dir: Path, experiment_name: str, project_name: str) -> Writer | None:
    """Make the writers of a run.

    Args:
        names: that `WRITER_REGISTRY` knows.
        log_dir: the folder of files.
        experiment_name: for services that show it.
        project_name: for services that show it.

    Returns:
        One writer for all; None for no names.

    Raises:
        SplatkitError: a name is unknown, or its writer cannot be made; those that have been made are closed.
    """
    check_is_list(names, "writers")
    classes = [(name, WRITER_REGISTRY.get(name)) for name in names]
    writers: list[Writer] = []
    try:
        for name, cls in classes:
            writers.append(_make(name, cls, log_dir, experiment_name, project_name))
    except BaseException:
        with suppress(Exception):  # what they could not be opened for says more
            Writers(writers).close()
        raise
    return Writers(writers) if writers else None


def _make(name: str, cls: type[Writer], log_dir: Path, experiment_name: str, project_name: str) -> Writer:
    if getattr(cls.for_run, "__func__", None) is vars(Writer)["for_run"].__func__:
        return WRITER_REGISTRY.make(name, cls, log_dir)  # as `for_run` does, but checks the class's own arguments
    return WRITER_REGISTRY.make(name, cls.for_run, log_dir, experiment_name, project_name)
