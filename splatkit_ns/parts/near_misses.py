"""Methods that are named nearly like one that would be called."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any

CUTOFF = 0.85
"""The least similarity of two names, from 0 to 1: ``post_stepp`` is 0.95 like ``post_step``, a helper ``setup`` 0.77
like ``on_setup``."""

HOOK_PREFIXES = ("on_", "pre_", "post_", "before_", "after_")
"""Prefixes of hook names, here and in other frameworks."""


def near_misses(part: object, known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Find public methods of a user's class that are never called, but have nearly the name of one that is.

    Args:
        part: an instance; methods that classes of this package have, too, count as called, and so do those whose names
            other methods of its class use.
        known: names of the methods that are called, besides those of the classes of this package.

    Returns:
        Pairs of a method's name and the known one it resembles.
    """
    ours, theirs = _attributes(part)
    called = [*known, *(name for name, value in ours.items() if inspect.isfunction(value) and not name.startswith("_"))]
    used = _names_used(theirs)
    for name, value in theirs.items():
        if name.startswith("_") or name in {*ours, *known, *used} or not inspect.isroutine(value):
            continue
        for near in difflib.get_close_matches(name.lower(), called, n=1, cutoff=CUTOFF):
            yield name, near


def foreign_hooks(part: object, known: Collection[str]) -> list[str]:
    """Find public methods of a user's class that look like hooks of another framework, such as ``on_train_start``.

    Args:
        part: an instance; methods whose names other methods of its class use are its own helpers.
        known: names of the methods that are called, and others that are told of anyway.

    Returns:
        Their names.
    """
    ours, theirs = _attributes(part)
    used = _names_used(theirs)
    return [
        name
        for name, value in theirs.items()
        if name.startswith(HOOK_PREFIXES) and inspect.isfunction(value) and name not in {*ours, *known, *used}
    ]


def replaced_methods(part: object, methods: Collection[str], base: type) -> Iterator[tuple[str, str]]:
    """Find methods of a user's class that take the place of those of a built-in class, and do not call them.

    Args:
        part: an instance.
        methods: the names of the methods that are looked at.
        base: the class whose methods do nothing.

    Returns:
        Pairs of a method's name and the built-in class that has it.
    """
    classes = type(part).__mro__
    for name in methods:
        having = [cls for cls in classes if name in vars(cls) and cls is not base and issubclass(cls, base)]
        theirs = [vars(cls)[name] for cls in having if not is_own_class(cls)]
        ours = next((cls for cls in having if is_own_class(cls)), None)
        codes = [value.__code__ for value in theirs if inspect.isfunction(value)]
        if ours and codes and not any({"super", name} & {*code.co_names} for code in codes):
            yield name, ours.__name__


def _attributes(part: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """The attributes that classes of this package give to a part, and those that its other classes do."""
    classes = type(part).__mro__
    ours = {name: value for cls in classes if is_own_class(cls) for name, value in vars(cls).items()}
    return ours, {name: value for cls in classes if not is_own_class(cls) for name, value in vars(cls).items()}


def _names_used(attributes: Mapping[str, Any]) -> set[str]:
    """The names that the methods among these attributes use."""
    return {name for value in attributes.values() if inspect.isfunction(value) for name in value.__code__.co_names}


def is_own_class(cls: type) -> bool:
    """Whether this package defines a class."""
    return cls.__module__.partition(".")[0] == "splatkit_ns"
