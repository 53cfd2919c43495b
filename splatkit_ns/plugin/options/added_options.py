"""The options of a run besides nerfstudio's, and the check of the file that ``--load-config`` names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from splatkit_ns.plugin.options.groups import GroupOptions
from splatkit_ns.plugin.options.images_per_step import ImagesPerStep
from splatkit_ns.plugin.options.length import RunLength
from splatkit_ns.plugin.run.folder.config_file import hint_of_config

OBJECT = "!!python/object:"
"""Begins the config in every ``config.yml``."""


@dataclass
class AddedOptions(GroupOptions, RunLength, ImagesPerStep):
    """Options that nerfstudio does not have; the command line refuses a ``load_config`` that it could not read."""

    def __post_init__(self) -> None:
        path: Path | None = getattr(self, "load_config", None)
        if path is None:
            return
        named = f"--load-config: {path}"
        if not path.is_file():
            hint = hint_of_config(path) or "ns-train prints the path when it starts."
            raise ValueError(f"{named} {'is a folder' if path.is_dir() else 'does not exist'}. {hint}")
        if OBJECT not in path.read_text("utf-8", errors="replace"):
            raise ValueError(f"{named} is no config.yml of a run.")
