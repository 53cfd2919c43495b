"""The options of all commands that open a run, with their help."""

from __future__ import annotations

from typing import Annotated, Literal

from tyro.conf import arg

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
