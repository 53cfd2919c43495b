"""Runs that nerfstudio's commands would not open: of methods that it does not know, as `SplatTrainer` has made them of
a method and other parts, or they are registered in another shell only; and runs whose folders were moved."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from splatkit_ns.parts.old_configs import FillsInDefaults
from splatkit_ns.plugin.run.folder.checkpoint_files import checkpoint_paths
from splatkit_ns.plugin.run.folder.command_line import opened_folder

SEPARATOR = "+"
"""Stands between the name of a method and those of the parts that take the place of its own."""


def name_with_parts(method: str, parts: Iterable[str]) -> str:
    """The name of a method with other parts, under which its runs lie, such as ``splatkit-3dgs+MyLoss``."""
    return SEPARATOR.join([method, *parts])


def registered_name(method: str) -> str:
    """The name that ``ns-train`` knows, of a name that `name_with_parts` has made."""
    return method.partition(SEPARATOR)[0]


class OpensAnywhere(FillsInDefaults):
    """The config of a run, which nerfstudio's commands open where it lies, whatever its method is called."""

    method_name: str | None
    relative_model_dir: Path

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Let the commands, which look the method up by its name, find this config if they know none."""
        super().__setstate__(state)
        known = getattr(sys.modules.get("nerfstudio.configs.method_configs"), "all_methods", {})
        known.setdefault(self.method_name, self)

    def get_base_dir(self) -> Path:
        """The run's folder; a command that opens a run whose checkpoints lie beside its ``config.yml`` has that one."""
        folder = opened_folder(sys.argv)
        if folder is not None and checkpoint_paths(folder / self.relative_model_dir):
            return folder
        return super().get_base_dir()  # type: ignore[reportAttributeAccessIssue]  # of nerfstudio's config
