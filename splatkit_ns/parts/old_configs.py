"""A base of configs with which a ``config.yml`` of an earlier release still loads after options have been added."""

from __future__ import annotations

import dataclasses
from typing import Any


class FillsInDefaults:
    """A config dataclass whose fields that a stored config lacks get their defaults.

    YAML and pickle restore an object's attributes without calling its ``__init__``. A plain default is then found on
    the class, but one that a factory makes would be missing.
    """

    def __setstate__(self, state: dict[str, Any]) -> None:
        for field in dataclasses.fields(self):  # type: ignore[reportArgumentType]
            if field.name not in state and field.default_factory is not dataclasses.MISSING:
                setattr(self, field.name, field.default_factory())
        self.__dict__.update(state)
