"""``splatkit info``: figures of files of Gaussians, and of runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from splatkit_ns.errors import SplatkitError
from splatkit_ns.opening_options import Trust
from splatkit_ns.printing import say


@dataclass
class InfoOptions:
    """Describe files of Gaussians, and runs.

    The figures are the format, the number of Gaussians, spherical harmonics, the kind of training, positions, sizes,
    opacities, the number of Gaussians that are not finite, and the rows that parts have trained for each Gaussian. Of a
    run's config.yml: the method, the data and the checkpoints, and whether it can be opened safely.
    """

    file: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE [FILE …]")]
    """The files, of any format, or SOG folders; also the config.yml of a run."""
    json: bool = False
    """Print a JSON list with one object for each file."""
    trust: Trust = ()


def run(options: InfoOptions, console: Console | None = None) -> None:
    """Read and describe each file; files that can be read are described, even if others cannot.

    Args:
        options: see `InfoOptions`.
        console: the output for the figures; None means the terminal.

    Raises:
        SplatkitError: a file cannot be read.
    """
    import json

    console = console or Console()
    if not options.file:
        raise SplatkitError("Name at least one file.")
    errors: list[str] = []
    found: list[dict[str, object]] = []
    for path in options.file:
        try:
            figures, shown = _described(path, options)
            found.append(figures)
        except SplatkitError as error:
            errors.append(str(error))
            continue
        if not options.json:
            say(console, "\n".join(shown))
    if options.json:
        say(console, json.dumps(found, indent=1))
    if errors:
        raise SplatkitError("\n".join(errors))


def _described(path: Path, options: InfoOptions) -> tuple[dict[str, object], list[str]]:
    """The figures of a file, and the same as lines."""
    is_sog = os.path.isfile(path / "meta.json")
    if path.suffix.lower() in (".yml", ".yaml") or (os.path.isdir(path) and not is_sog):  # the error names the config
        from splatkit_ns.cli._run_description import describe_run, run_lines  # loads nerfstudio: not for other files

        figures = describe_run(path, options.trust)
        return figures, run_lines(figures)
    from splatkit_ns.cli._description import describe, lines

    figures = describe(path)
    return figures, lines(figures)
