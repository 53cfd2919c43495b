"""Run-time copies of modules: settings stay as they were given, and the changes of a run are its own.

Every module is copied, deeply. If it holds an object that cannot be copied (a lock, an open file, a tensor that is part
of a graph), the copy shares the attribute in which that object is, and has its own of all others.
"""

from __future__ import annotations

import logging
from copy import copy, deepcopy
from typing import Any, TypeVar

from splatkit_ns.errors import ModuleError

T = TypeVar("T")

logger = logging.getLogger("splatkit_ns")


class Uncopied:
    """Holds a module that cannot be copied whole in configs, which are copied; `running_copy` copies it for a run."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __deepcopy__(self, memo: dict[int, Any]) -> Uncopied:
        return self


def copyable_or_wrapped(module: Any) -> Any:
    """The module itself, or `Uncopied` around it if it cannot be copied whole."""
    try:
        deepcopy(module)
    except Exception:  # whatever the user's object raises
        return Uncopied(module)
    return module


def running_copy(module: T | Uncopied) -> T:
    """A copy of a module for one run, which shares only attributes that cannot be copied.

    Raises:
        ModuleError: the module cannot be copied at all.
    """
    given: Any = module.module if isinstance(module, Uncopied) else module
    try:
        return deepcopy(given)
    except Exception as error:  # whatever the user's object raises
        return _copy_by_attributes(given, error)


def _copy_by_attributes(module: Any, error: Exception) -> Any:
    """Copy a module attribute by attribute.

    Args:
        module: to be copied.
        error: the reason why it cannot be copied whole.

    Raises:
        ModuleError: it has no attributes of its own, or refuses to be copied.
    """
    name = type(module).__name__
    try:
        made, attributes = copy(module), dict(vars(module))
    except Exception as cause:  # as above
        raise ModuleError(
            f"{name} cannot be copied for the run ({type(error).__name__}: {error}). Make what cannot be copied in "
            "on_setup, or give the class a __deepcopy__ method."
        ) from cause
    memo = {id(module): made}  # what refers to the module refers to the copy then
    for attribute, value in attributes.items():
        try:
            vars(made)[attribute] = deepcopy(value, memo)
        except Exception as cause:  # as above
            logger.debug("%s.%s is shared, not copied (%s: %s).", name, attribute, type(cause).__name__, cause)
            vars(made)[attribute] = value
    return made
