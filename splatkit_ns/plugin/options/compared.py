"""The options that have to be the same on all machines of a run."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

OWN = {
    *("output_dir", "experiment_name", "project_name", "timestamp", "relative_model_dir", "data"),
    *("load_dir", "load_step", "load_config", "load_checkpoint"),
    *("vis", "viewer", "logging", "writers"),
    *("machine.machine_rank", "machine.dist_url"),
}
"""Options that each machine may have for itself: places, and what machine 0 alone does."""


def compared_options(config: Any, shown: Callable[[str], str]) -> dict[str, str]:
    """The options that have to be the same, and their values as text.

    Paths are left out, because the same files may be at other places. What has no text of its own, such as an object
    of a user's, is compared by its class.

    Args:
        config: of a run.
        shown: gives the name that messages use for an option, from its place in the config.
    """
    found: dict[str, str] = {}
    _collect(config, "", found)
    return {shown(place): value for place, value in found.items()}


def _collect(value: Any, place: str, found: dict[str, str]) -> None:
    if place in OWN or isinstance(value, Path):
        return
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if place:
            found[place] = type(value).__qualname__
        for field in dataclasses.fields(value):
            _collect(getattr(value, field.name), f"{place}.{field.name}".lstrip("."), found)
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            _collect(entry, f"{place}.{name}", found)
    elif isinstance(value, list | tuple):
        found[place] = f"{len(value)} entries"
        for i, entry in enumerate(value):
            _collect(entry, f"{place}.{i}", found)
    elif value is None or isinstance(value, str | int | float | enum.Enum):
        found[place] = str(value)
    else:
        found[place] = getattr(value, "__qualname__", type(value).__qualname__)
