"""Setting an option of a run by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from splatkit_ns.errors import did_you_mean
from splatkit_ns.plugin.run.opaque_parts import WRAPPERS, part_itself


class OptionError(ValueError):
    """An option cannot be set; the message follows the option's name."""


def set_option(config: Any, place: str, value: Any) -> None:
    """Set an option of a run's config.

    Args:
        config: a dataclass; dataclasses and dicts within it are searched.
        place: names joined by dots, such as ``pipeline.model.init_ply``.
        value: the option is set to a copy of it; a string becomes a path if the option is a path.

    Raises:
        OptionError: there is no such option.
    """
    *owners, name = place.split(".")
    owner = config
    for step in owners:
        owner = _entry(owner, step)
    _entry(owner, name)
    if isinstance(owner, dict):
        owner[name] = deepcopy(value)
        return
    kind = str(next(field.type for field in dataclasses.fields(owner) if field.name == name))
    is_path = isinstance(value, str) and "Path" in kind and "str" not in kind
    setattr(owner, name, Path(value) if is_path else deepcopy(value))


def _entry(owner: Any, name: str) -> Any:
    """An entry of a dict, or a field of a dataclass."""
    if isinstance(owner, WRAPPERS):
        kind = type(part_itself(owner)).__name__
        raise OptionError(f": {kind} is no dataclass of its settings, so {name!r} has to be set where it is made")
    if isinstance(owner, Mapping):
        entries: dict[str, Any] = {str(key): value for key, value in owner.items()}
    elif dataclasses.is_dataclass(owner) and not isinstance(owner, type):
        entries = {field.name: getattr(owner, field.name) for field in dataclasses.fields(owner)}
    else:
        raise OptionError(f": {type(owner).__name__} is no dataclass, so {name!r} cannot be set in it")
    if name in entries:
        return entries[name]
    hint = did_you_mean(name, sorted(entries), otherwise="it has", most=1)
    kind = "the dict" if isinstance(owner, Mapping) else type(owner).__name__
    raise OptionError(f" does not exist: {kind} has no {name!r}; {hint}")
