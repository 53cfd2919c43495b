"""The files that commands read and write: checks before the work, and one line about each result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from splatkit_ns import formats
from splatkit_ns.cli._placing import Up
from splatkit_ns.errors import OptionsError, SplatkitError
from splatkit_ns.files import folder_problem
from splatkit_ns.formats import FormatError, Gaussians
from splatkit_ns.formats.gaussians import NonFiniteError
from splatkit_ns.formats.offset_files import side_file
from splatkit_ns.ranges import flag

_UNITS = ("bytes", "KB", "MB", "GB")


def without_run(options: object, names: Sequence[str]) -> list[str]:
    """The problem with each of these options that is given, although only a run has what it is about."""
    given = [name for name in names if getattr(options, name) is not None]
    return [f"{flag(name)} is for a run: add --load-config" for name in given]


@dataclass(frozen=True)
class WrittenFile:
    """A file that a command has written."""

    path: Path
    num_bytes: int
    num_gaussians: int

    def line(self, base: tuple[str, int] | None = None) -> str:
        """Name, size and number of Gaussians.

        Args:
            base: name and bytes of another file, whose size this one's is compared with.
        """
        text = f"{self.path}: {shown_bytes(self.num_bytes)}, {self.num_gaussians:,} Gaussians"
        return text if base is None else f"{text}, {shown_ratio(self.num_bytes, base[1])} {base[0]}"


def check_outputs(
    outputs: Sequence[Path], *, overwrite: bool, inputs: Sequence[Path] = (), option: str = "--output"
) -> None:
    """Check that files can be written, and none is lost by it, before any work is done.

    Args:
        outputs: the files.
        overwrite: whether files that exist may be replaced.
        inputs: files that are read, which are never replaced.
        option: the name of the outputs in messages.

    Raises:
        OptionsError: names all faults.
    """
    problems: list[str] = [] if outputs else [f"{option} names no file, expected at least one"]
    taken = {path.resolve(): "is the file that is read; name another one" for path in inputs}
    for path in outputs:
        try:
            problem = _output_problem(path, overwrite)
        except OSError as error:  # no permission to look, a name that is too long
            problem = f"{path} cannot be written: {error.strerror}"
        target = path.resolve()
        if target in taken:
            problem = f"{path} {taken[target]}"
        taken.setdefault(target, "is named twice")
        if problem:
            problems.append(f"{option}: {problem}")
    if problems:
        raise OptionsError(problems)


def place_problem(files: Sequence[Path], *, overwrite: bool, other: str = "file") -> str | None:
    """The reason why files cannot be written, or would replace others.

    Args:
        files: all in one folder, which may be missing.
        overwrite: whether files that exist may be replaced.
        other: the word for what the user can name in place of these.

    Raises:
        OSError: it is not known: a name that is too long.
    """
    problem = folder_problem(files[0].parent)
    if problem is not None:
        return problem
    found = None if overwrite else next((each for each in files if each.exists() or each.is_symlink()), None)
    return f"{found} exists; name another {other}, or add --overwrite" if found else None


def _output_problem(path: Path, overwrite: bool) -> str | None:
    if path.is_dir():
        return f"{path} is a folder; expected a file, such as {path / 'scene.ply'}"
    try:
        reason = formats.find_format(path).why_unavailable()
    except FormatError as error:
        return str(error).rstrip(".")
    if reason is not None:
        return f"{path}: {reason}"
    return place_problem((path, side_file(path)), overwrite=overwrite)


def read_all(path: Path) -> Gaussians:
    """The Gaussians of a file, also those that are not finite.

    Raises:
        FormatError: the file cannot be read.
    """
    try:
        return formats.read(path)
    except NonFiniteError as error:
        return error.gaussians


def write_file(path: Path, gaussians: Gaussians, up: Up | None = None) -> WrittenFile:
    """Write Gaussians, all finite, in the format of the file's suffix.

    Args:
        path: of the file.
        gaussians: to write.
        up: their upward axis, for formats that tell it; None for z, as in nerfstudio's frame.

    Raises:
        SplatkitError: it cannot be written; an old file is then as it was.
    """
    tells = any(field.name == "up_axis" for field in fields(formats.find_format(path).options))
    axis = {"up_axis": "-y" if up == "minus-y" else up or "z"} if tells else {}
    try:
        formats.write(path, gaussians, **axis)
    except OSError as error:
        raise SplatkitError(f"{path}: {error.strerror or error}.") from error
    return WrittenFile(path, file_bytes(path), len(gaussians))


def file_bytes(path: Path) -> int:
    """Size of a file, or of all files in a folder, such as that of a SOG's meta.json, in bytes."""
    if path.name.lower() == "meta.json":
        path = path.parent
    files = [entry for entry in path.iterdir() if entry.is_file()] if path.is_dir() else [path]
    return sum(entry.stat().st_size for entry in files)


def shown_bytes(count: float) -> str:
    """A size with three digits and a unit, such as "1.23 MB"; a MB has 1,000,000 bytes."""
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.3g} {_UNITS[unit]}"


def shown_ratio(count: int, base: int) -> str:
    """The beginning of a comparison of sizes: "1 / 11.6 the size of", or "1.03 times the size of" for larger ones."""
    if abs(count - base) < 0.005 * base:
        return "the size of"
    return (f"1 / {base / count:.3g}" if count < base else f"{count / base:.3g} times") + " the size of"
