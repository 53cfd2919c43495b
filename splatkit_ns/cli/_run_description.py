"""Figures of a run, from its ``config.yml``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from splatkit_ns.plugin.loading import checkpoint_folder, read_config
from splatkit_ns.plugin.reporting.console import collected_notes
from splatkit_ns.plugin.run.folder.checkpoint_files import checkpoint_paths, step_of


def describe_run(path: Path, trust: Sequence[str]) -> dict[str, Any]:
    """Figures of a run, as JSON can hold them. Its data and checkpoints are not opened.

    Args:
        path: the ``config.yml``.
        trust: packages that it may name besides nerfstudio's and ours.

    Raises:
        SplatkitError: it is no config of a splatkit method, or names objects that are not trusted.
    """
    with collected_notes() as notes:
        config = read_config(path, trust, shown="")
    data = config.pipeline.datamanager.data or config.data or config.pipeline.datamanager.dataparser.data
    return {
        "file": str(path),
        "method": config.method_name,
        "max_steps": config.max_num_iterations,
        "data": str(data),
        "checkpoint_steps": sorted(step_of(file) for file in checkpoint_paths(checkpoint_folder(config, path))),
        "notes": notes,
    }


def run_lines(figures: dict[str, Any]) -> list[str]:
    """The figures as people read them."""
    steps, most = ", ".join(map(str, figures["checkpoint_steps"])), figures["max_steps"]
    return [
        figures["file"],
        f"  method       {figures['method']}, up to {most if isinstance(most, str) else f'{most:,}'} steps",
        f"  data         {figures['data']}",
        f"  checkpoints  {f'of step {steps}, as their names count: the first is 0' if steps else 'none'}",
        "  names        no objects but those of nerfstudio, splatkit-ns and --trust",
        *(f"  note         {note}" for note in figures["notes"]),
    ]
