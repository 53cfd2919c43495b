"""The import of objects that a user names by their import path."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from splatkit_ns.errors import SplatkitError


def why_not_called(make: Callable[..., Any], *arguments: Any, **settings: Any) -> str | None:
    """Return the reason why an object cannot be called like this; None if it can, even if the call would then fail.

    Args:
        make: the object: a class, a class method, or any function.
        arguments: positional arguments of the call.
        settings: keyword arguments of the call.
    """
    cls = make if inspect.isclass(make) else getattr(make, "__self__", None)
    if inspect.isclass(cls) and inspect.isabstract(cls):
        return f"{cls.__name__} has no {', '.join(sorted(getattr(cls, '__abstractmethods__', ())))} of its own"
    try:
        inspect.signature(make).bind(*arguments, **settings)
    except TypeError as error:
        return str(error)
    except ValueError:  # some functions in C have no signature
        return None
    return None


def import_object(path: str, where: str, error_type: type[SplatkitError] = SplatkitError) -> Any:
    """Import the object at an import path.

    Args:
        path: ``package.module:name``; the name may have dots.
        where: the place of the path, with which messages begin.
        error_type: type of the error.

    Raises:
        SplatkitError: the object does not exist, or the import fails; it has the type ``error_type``.
    """
    source, _, name = path.partition(":")
    if not (source and name):
        raise error_type(f"{where}: expected package.module:name.")
    try:
        found: Any = importlib.import_module(source)
    except Exception as error:  # user code may raise any exception while it is imported
        hint = " Install it, or put its folder on PYTHONPATH." if isinstance(error, ModuleNotFoundError) else ""
        raise error_type(f"{where}: {source} cannot be imported: {type(error).__name__}: {error}.{hint}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found))
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise error_type(f"{where}: {source} has no {name!r}.{hint}")
        found = getattr(found, part)
    return found
