"""``splatkit prune``: a run or a file with a given number of Gaussians."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from splatkit_ns.opening_options import DataFolder, Device, LoadStep, Trust
from splatkit_ns.ranges import NonNegative


@dataclass
class PruneOptions:
    """Keep a given number of Gaussians, those that the training photographs show most.

    Says what it cost at the held-out photographs, and can train the rest on to make up for it. Run and file stay as
    they are.
    """

    load_config: Path
    """The run's config.yml."""
    output: tuple[Path, ...]
    """The files to write, of any formats."""
    to: str | None = None
    """The Gaussians to keep: a number, or a share of all, such as 25%."""
    size: str | None = None
    """In place of --to: the largest size of each file, such as 10MB; as many Gaussians are kept as fit."""
    refine: Annotated[int, NonNegative] = 0
    """Train the Gaussians that are kept for so many steps, as the run was trained, without adding or removing any."""
    input: Path | None = None
    """A file of that run, in nerfstudio's frame, to take in place of the run's own Gaussians."""
    overwrite: bool = False
    """Replace files that exist."""
    load_step: LoadStep = None
    data: DataFolder = None
    trust: Trust = ()
    device: Device = None
