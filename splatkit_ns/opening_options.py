"""The options of all commands that open a run, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

LoadStep = Annotated[
    int | None,
    arg(
        aliases=("--step",),
        help="Step of the checkpoint to take, as its file name has it. If not given, the newest.",
    ),
]
DataFolder = Annotated[Path | None, arg(help="Folder of the data set, if it has moved since the run.")]
Trust = Annotated[
    tuple[str, ...],
    arg(
        help="Packages or modules of your own parts, such as my_parts, that the run's config may name. Others than "
        "nerfstudio's and ours are refused, since a config may name any program."
    ),
]
Device = Annotated[
    Literal["cuda", "cpu"] | None,
    arg(help="The device that renders. If not given, the GPU if there is one, else the CPU."),
]
