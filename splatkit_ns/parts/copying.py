"""Run-time copies of modules: settings stay as they were given, what a run changes is its own."""

from __future__ import annotations

import logging
from copy import deepcopy
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger("splatkit_ns")


class Uncopied:
    """Holds a module that cannot be copied (it owns a lock, an open file, …) in configs, which are copied."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __deepcopy__(self, memo: dict[int, Any]) -> Uncopied:
        return self


def holdable(module: Any) -> Any:
    """The module itself, or `Uncopied` around it where it cannot be copied."""
    try:
        deepcopy(module)
    except Exception as error:  # whatever the user's object raises: it is then used as it is
        _say_uncopied(module, error)
        return Uncopied(module)
    return module


def running_copy(module: T | Uncopied) -> T:
    """A copy of a module for one run; the module itself where it cannot be copied."""
    if isinstance(module, Uncopied):
        return module.module
    try:
        return deepcopy(module)
    except Exception as error:  # as in `holdable`, which would make a second copy
        _say_uncopied(module, error)
        return module


def _say_uncopied(module: Any, error: Exception) -> None:
    logger.debug("%s cannot be copied (%s: %s).", type(module).__name__, type(error).__name__, error)
