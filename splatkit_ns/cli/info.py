"""``splatkit info``: figures of files of Gaussians."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from splatkit_ns.errors import SplatkitError


@dataclass
class InfoOptions:
    """Describe files of Gaussians.

    The figures are the format, the number of Gaussians, spherical harmonics, the kind of training, positions, sizes,
    opacities, the number of Gaussians that are not finite, and the rows that parts have trained for each Gaussian.
    """

    file: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE [FILE …]")]
    """The files, of any format."""
    json: bool = False
    """Print a JSON list with one object for each file."""


def run(options: InfoOptions, console: Console | None = None) -> None:
    """Read and describe each file; files that can be read are described, even if others cannot.

    Args:
        options: see `InfoOptions`.
        console: the output for the figures; None means the terminal.

    Raises:
        SplatkitError: a file cannot be read.
    """
    import json

    from splatkit_ns.cli._description import describe, lines  # takes a second: not for --help
    from splatkit_ns.cli._files import say

    console = console or Console()
    if not options.file:
        raise SplatkitError("Name at least one file.")
    errors: list[str] = []
    found: list[dict[str, object]] = []
    for path in options.file:
        try:
            found.append(describe(path))
        except SplatkitError as error:
            errors.append(str(error))
            continue
        if not options.json:
            say(console, "\n".join(lines(found[-1])))
    if options.json:
        say(console, json.dumps(found, indent=1))
    if errors:
        raise SplatkitError("\n".join(errors))
