"""Checks of the parts that users give to a run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from splatkit_ns import ranges
from splatkit_ns.errors import ModuleError, OptionsError
from splatkit_ns.parts.base import SplatBaseModule


def check_instance(found: Any, expected: type, name: str) -> None:
    """Check that something is an instance of a class.

    Args:
        found: the object to check.
        expected: the class.
        name: of the argument, for messages.

    Raises:
        ModuleError: it is the class itself, another class, or an instance of something else.
    """
    if isinstance(found, expected):
        return
    if inspect.isclass(found):
        raise ModuleError(
            f"{name} is the class {found.__name__} itself, expected an instance of it: write {found.__name__}(…)."
        )
    raise ModuleError(
        f"{name} is {found!r} of type {type(found).__name__}, expected an instance of {expected.__name__}."
    )


def check_method(part: Any, method: str, name: str) -> None:
    """Check that a part has its main method.

    Raises:
        ModuleError: it has none, or only the base's.
    """
    implementation = getattr(type(part), method, None)
    of_torch = getattr(nn.Module, method, None)  # such as `apply`, which does something else
    if implementation in (None, of_torch) or getattr(implementation, "__isabstractmethod__", False):
        raise ModuleError(f"{name}: {type(part).__name__} has no {method}() of its own, but the run calls it.")


def check_modules(modules: Any) -> None:
    """Check that something is a sequence of module instances.

    Raises:
        ModuleError: it is not.
    """
    if not isinstance(modules, Sequence) or isinstance(modules, str):
        raise ModuleError(f"modules is {modules!r}, expected a list of module instances.")
    for number, module in enumerate(modules):
        check_instance(module, SplatBaseModule, f"modules[{number}]")


def check_settings(parts: Mapping[str, SplatBaseModule[Any]]) -> None:
    """Check the settings of parts against the ranges at their fields.

    Args:
        parts: by the name that messages use.

    Raises:
        OptionsError: names every setting that is out of its range, with its part.
    """
    problems = [problem for name, part in parts.items() for problem in ranges.problems(part, name)]
    if problems:
        raise OptionsError(problems)
