"""Registries: the classes that a config can choose by name."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, overload

from splatkit_ns.errors import ModuleError, SplatkitError
from splatkit_ns.importing import import_object, why_not_called

ItemT = TypeVar("ItemT")
ClassT = TypeVar("ClassT", bound=type[Any])
"""A class that is registered; it stays what it is, also for type checkers."""

logger = logging.getLogger("splatkit_ns")


def check_is_list(found: Any, setting: str) -> None:
    """Check that a setting is a collection of names.

    Raises:
        ModuleError: it is a single name, or cannot be iterated over.
    """
    if isinstance(found, str) or not isinstance(found, Iterable):
        one = f'("{found}",), with the comma' if isinstance(found, str) else '("LogHook",)'
        raise ModuleError(f"{setting} is {found!r}, expected a tuple or list of names: {one}.")


class Registry(Generic[ItemT]):
    """Classes of one kind, by name.

    Args:
        kind: the word for an entry in messages, like ``"hook"``.
        base: the base class of every entry.
    """

    def __init__(self, kind: str, base: type[ItemT]) -> None:
        self.kind = kind
        self.base = base
        self._classes: dict[str, type[ItemT]] = {}

    @overload
    def register(self, name: str | None = None) -> Callable[[ClassT], ClassT]: ...

    @overload
    def register(self, name: ClassT) -> ClassT: ...

    def register(self, name: Any = None) -> Any:
        """Decorator that puts a class into the registry, under its own name unless another is given.

        It may be written without parentheses, too.

        A class registered later under the same name takes the place of the earlier one, with a warning in the log.

        Raises:
            SplatkitError: the decorated object is no class of the registry's kind.
        """

        def decorate(cls: type[ItemT]) -> type[ItemT]:
            self._check(cls, repr(cls))
            known = name or cls.__name__
            earlier = self._classes.get(known)
            if earlier is not None and _origin(earlier) != _origin(cls):  # the same one: its module was reloaded
                logger.warning("The %s %r is now %s, in place of %s.", self.kind, known, _origin(cls), _origin(earlier))
            self._classes[known] = cls
            return cls

        if inspect.isclass(name):
            given: Any = name
            name = None
            return decorate(given)
        return decorate

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._classes)

    def get(self, name: str) -> type[ItemT]:
        """The class of that name, or the one at an import path ``package.module:Class``.

        Raises:
            SplatkitError: there is none; names the nearest ones.
        """
        if ":" in name:
            cls = import_object(name, f"The {self.kind} {name!r}")
            self._check(cls, name)
            return cls
        if name in self._classes:
            return self._classes[name]
        by_lower_case = {known.lower(): known for known in self._classes}
        near = [by_lower_case[match] for match in difflib.get_close_matches(name.lower(), by_lower_case, cutoff=0.5)]
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise SplatkitError(
            f"There is no {self.kind} named {name!r}. {hint}Known: {', '.join(self.names())}. "
            f"A {self.kind} of your own is named by its import path: package.module:Class."
        )

    def build(self, name: str, **settings: Any) -> ItemT:
        """Make an instance of the class of that name.

        Raises:
            SplatkitError: there is no such class, or these settings do not suffice to make one.
        """
        return self.make(name, self.get(name), **settings)

    def make(self, name: str, make: Callable[..., ItemT], *arguments: Any, **settings: Any) -> ItemT:
        """Make an instance by calling a class or function.

        Args:
            name: of the class, for messages.
            make: the class, or a function in place of it.
            arguments: handed over by position.
            settings: handed over by name.

        Raises:
            SplatkitError: it does not take these arguments, or the class is abstract.
        """
        problem = why_not_called(make, *arguments, **settings)
        if problem is not None:
            raise SplatkitError(
                f"The {self.kind} {name!r} cannot be made: {problem}. A {self.kind} that is chosen by name needs "
                f"defaults for its own arguments, and every method that {self.base.__name__} leaves open."
            )
        return make(*arguments, **settings)

    def _check(self, cls: object, name: str) -> None:
        if not (inspect.isclass(cls) and issubclass(cls, self.base)):
            raise SplatkitError(f"{name} is not a {self.kind}: expected a subclass of {self.base.__name__}.")


def _origin(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
