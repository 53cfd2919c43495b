"""``splatkit convert``: a file of Gaussians in other formats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from tyro.conf import Positional, arg

from splatkit_ns import ranges
from splatkit_ns.printing import say
from splatkit_ns.ranges import Positive, Range, one_of

THREE_NUMBERS = Range("three finite numbers", lambda values: all(map(math.isfinite, values)))


@dataclass
class ConvertOptions:
    """Write a file of Gaussians in other formats.

    The suffixes say which: .ply, .compressed.ply, .spz, .sog, .splat, .glb, .spz.glb, .usd. The input stays as it is,
    and a file that exists is not replaced unless you say so.
    """

    input: Annotated[Positional[Path], arg(metavar="INPUT")]
    """The file to read, a SOG folder, or a checkpoint of a run (.ckpt), for which its data are not needed."""
    output: Annotated[Positional[tuple[Path, ...]], arg(metavar="OUTPUT [OUTPUT …]")]
    """The files to write."""
    up: Literal["y", "z", "minus-y"] | None = None
    """Turn the scene. y, minus-y: z is up in the input, as in all that nerfstudio exports, and this axis will be. z: y
    is up in the input. If not given, the axes stay as they are."""
    scale: Annotated[float, Positive] = 1.0
    """New units per unit of the input."""
    rotate: Annotated[tuple[float, float, float], THREE_NUMBERS] = (0.0, 0.0, 0.0)
    """Turn the scene by angles in degrees: about the x axis, then about y, then about z. --up comes before."""
    translate: Annotated[tuple[float, float, float], THREE_NUMBERS] = (0.0, 0.0, 0.0)
    """Move the scene at the end, in the new axes and units."""
    sh_degree: Annotated[int | None, one_of(0, 1, 2, 3)] = None
    """Leave out spherical harmonics above this degree: smaller files, whose colours depend less on the direction."""
    overwrite: bool = False
    """Replace files that exist."""


def run(options: ConvertOptions, console: Console | None = None) -> None:
    """Read, move, write.

    Args:
        options: see `ConvertOptions`.
        console: the output for the report; None means the terminal.

    Raises:
        SplatkitError: a file cannot be read or written, or an option cannot be used; the message says which.
    """
    # formats take a second to import: not for --help
    from splatkit_ns import formats
    from splatkit_ns.cli._files import check_outputs, file_bytes, write_file
    from splatkit_ns.cli._placing import limit_sh_degree, moved_by, turn_about, turn_and_scale
    from splatkit_ns.formats.frames import split_offset, transform
    from splatkit_ns.formats.offset_files import read_offset, write_offset

    console = console or Console()
    ranges.check(options, shown=ranges.flag)
    check_outputs(options.output, overwrite=options.overwrite, inputs=[options.input], option="OUTPUT")
    if options.input.suffix == ".ckpt":
        from splatkit_ns.cli._checkpoint_files import read_gaussians  # imports nerfstudio

        gaussians = read_gaussians(options.input, console)
    else:
        gaussians = formats.read(options.input)
    offset, frame = read_offset(options.input)
    move = turn_and_scale(None if options.up == "z" else options.up, options.scale)
    if options.up == "z":
        move = turn_and_scale("y", 1.0).inverse().then(move)
    move = move.then(turn_about(options.rotate))
    if offset is not None:
        offset = move.apply(offset) + options.translate
    elif any(options.translate):
        move, offset = split_offset(gaussians, move.then(moved_by(options.translate)))
    gaussians = limit_sh_degree(transform(gaussians, move), options.sh_degree)
    base = (options.input.name, file_bytes(options.input))
    for path in options.output:
        written = write_file(path, gaussians, options.up)
        beside = write_offset(path, offset, frame)
        say(console, written.line(base))
        if beside:
            say(console, f"{beside}: the offset of its coordinates")
