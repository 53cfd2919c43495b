"""Runs of methods that nerfstudio does not know: `SplatTrainer` has made them of a method and other parts, or they are
registered in another shell only."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from splatkit_ns.parts.old_configs import FillsInDefaults

SEPARATOR = "+"
"""Stands between the name of a method and those of the parts that take the place of its own."""


def name_with_parts(method: str, parts: Iterable[str]) -> str:
    """The name of a method with other parts, under which its runs lie, such as ``splatkit-3dgs+MyLoss``."""
    return SEPARATOR.join([method, *parts])


def registered_name(method: str) -> str:
    """The name that ``ns-train`` knows, of a name that `name_with_parts` has made."""
    return method.partition(SEPARATOR)[0]


class OpensByName(FillsInDefaults):
    """The config of a run. nerfstudio's commands look its method up by name, and find this config if they know none."""

    method_name: str | None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        known = getattr(sys.modules.get("nerfstudio.configs.method_configs"), "all_methods", {})
        known.setdefault(self.method_name, self)
