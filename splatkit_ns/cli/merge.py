"""``splatkit merge``: several files of Gaussians in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from splatkit_ns.errors import OptionsError, SplatkitError
from splatkit_ns.printing import say, warn

if TYPE_CHECKING:
    from splatkit_ns.formats import Gaussians
    from splatkit_ns.formats.gaussians import DoubleArray


@dataclass
class MergeOptions:
    """Write the Gaussians of several files into one.

    All of them are taken to be in one frame; splatkit convert turns, scales and moves a file before. The inputs stay as
    they are, and a file that exists is not replaced unless you say so.
    """

    input: Annotated[Positional[tuple[Path, ...]], arg(metavar="INPUT INPUT [INPUT …]")]
    """The files to read, of any formats, or SOG folders."""
    output: tuple[Path, ...]
    """The files to write, of any formats; each gets all Gaussians."""
    overwrite: bool = False
    """Replace files that exist."""


def run(options: MergeOptions, console: Console | None = None) -> None:
    """Read all, join, write.

    Args:
        options: see `MergeOptions`.
        console: the output for the report; None means the terminal.

    Raises:
        SplatkitError: a file cannot be read or written, or the files are in different frames; the message says which.
    """
    # formats take a second to import: not for --help
    from splatkit_ns import formats
    from splatkit_ns.cli._files import check_outputs, write_file
    from splatkit_ns.formats.gaussians import join
    from splatkit_ns.formats.offset_files import write_offset

    console = console or Console()
    inputs = options.input
    if len(inputs) < 2:
        raise OptionsError([f"INPUT: expected at least two files, found {len(inputs)}"])
    twice = [
        path for number, path in enumerate(inputs) if path.resolve() in {each.resolve() for each in inputs[:number]}
    ]
    if twice:
        raise OptionsError([f"INPUT: {path} is named twice" for path in twice])
    check_outputs(options.output, overwrite=options.overwrite, inputs=inputs)
    parts = [formats.read(path) for path in inputs]
    parts, offset, frame = _in_one_frame(inputs, parts)
    whole = join(parts)
    for path, part in zip(inputs, parts, strict=True):
        _say_part(console, path, part, whole)
    for path in options.output:
        written = write_file(path, whole)
        write_offset(path, offset, frame)
        say(console, written.line())


def _in_one_frame(
    paths: Sequence[Path], parts: Sequence[Gaussians]
) -> tuple[list[Gaussians], DoubleArray | None, str | None]:
    """The Gaussians with the offset of the first file, that offset, and the name of its frame.

    Raises:
        SplatkitError: some files have an offset and others have none, or offsets are in different frames.
    """
    from splatkit_ns.formats.offset_files import read_offset

    found = [read_offset(path) for path in paths]
    offset, frame = found[0]
    for path, (other, its_frame) in zip(paths, found, strict=True):
        if (other is None) != (offset is None) or its_frame != frame:
            raise SplatkitError(
                f"{paths[0]} and {path} are in different frames: the first has {_named(offset, frame)} beside it, the "
                f"second {_named(other, its_frame)}."
            )
    if offset is None:
        return list(parts), None, None
    steps = [other - offset for other, _ in found if other is not None]
    moved = [
        replace(part, means=(part.means + step).astype(part.means.dtype))
        for part, step in zip(parts, steps, strict=True)
    ]
    return moved, offset, frame


def _named(offset: DoubleArray | None, frame: str | None) -> str:
    if offset is None:
        return "no offset"
    return f"an offset in {'a frame without a name' if frame is None else f'the frame {frame}'}"


def _say_part(console: Console, path: Path, part: Gaussians, whole: Gaussians) -> None:
    """Print what an input brings, and what the result does not keep of it."""
    say(console, f"{path}: {len(part):,} Gaussians of SH degree {part.sh_degree}")
    if part.render_mode != whole.render_mode:
        marked = f"the result is marked as {whole.render_mode!r}, as the first file is"
        warn(
            console, f"These are Gaussians of the kind {part.render_mode!r}; {marked}: viewers may draw them otherwise."
        )
    lost = [name for name in part.extra if name not in whole.extra]
    if lost:
        warn(console, f"The extra rows {', '.join(lost)} are left out: not all files have them.")
