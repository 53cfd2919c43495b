"""The file formats of Gaussians, found by name or by a path's suffix.

Each module of this package that does not begin with an underscore is imported at the first use, and registers the
format that it implements with `register`. A format of your own is registered the same way, from anywhere.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from splatkit_ns.formats._advice import advice_for_content, advice_for_name
from splatkit_ns.formats.gaussians import FormatError, Gaussians, NonFiniteError, drop_non_finite

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NoOptions:
    """The options of a format that has none."""


def _no_version(path: Path) -> str:
    return ""


def _available() -> None:
    return None


@dataclass(frozen=True)
class SplatFormat:
    """A file format: its name, its suffixes, and the functions that read and write it."""

    name: str
    """The name in options and messages, which is also the suffix of files that we name ourselves: "ply", "spz"."""
    suffixes: tuple[str, ...]
    """Ends of file names that mean this format, in lower case, such as ".spz". The longest that fits a name decides."""
    about: str
    """One line: which programs open it, and what it costs."""
    read: Callable[[Path], Gaussians]
    """Read a file. Raises `FormatError` for any fault of the file, and takes no more memory than a small multiple of
    the file's size."""
    write: Callable[[Path, Gaussians, Any], None]
    """Write at least one Gaussian, all finite, atomically; the last argument is an instance of `options`."""
    options: type[Any] = NoOptions
    """A dataclass of the options for writing; each field has a default."""
    version: Callable[[Path], str] = _no_version
    """The version of the format that a file claims, with its encoding if there are several; an empty text for
    formats without versions. Raises `FormatError` for files of another kind."""
    keeps_extra: bool = False
    """Whether it stores `Gaussians.extra`. Otherwise they are dropped before `write`, with a warning."""
    why_unavailable: Callable[[], str | None] = _available
    """The reason why it cannot be used here, such as a package that is not installed; None if it can."""


_FORMATS: dict[str, SplatFormat] = {}


def register(format: SplatFormat) -> SplatFormat:
    """Make a format known under its name, in place of any other of that name.

    Returns:
        The format, so that a module can keep it in a variable.

    Raises:
        ValueError: its suffixes are no tuple, or not lower case, or its options are no dataclass.
    """
    suffixes: Any = format.suffixes
    if isinstance(suffixes, str):  # whose letters would each be a suffix
        raise ValueError(f"the suffixes of the format {format.name!r} are {suffixes!r}, expected ({suffixes!r},).")
    if not suffixes or any(not suffix or suffix != suffix.lower() for suffix in suffixes):
        raise ValueError(f"the format {format.name!r} needs suffixes in lower case, found {suffixes!r}.")
    if not is_dataclass(format.options):
        raise ValueError(f"the options of the format {format.name!r} must be a dataclass, found {format.options!r}.")
    _FORMATS[format.name] = format
    return format


@cache
def _load_built_in() -> None:
    """Import the modules of this package, which register their formats; those of users, registered before, stay."""
    before = dict(_FORMATS)
    package = importlib.import_module(__name__.rpartition(".")[0])
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package.__name__}.{module.name}")
    _FORMATS.update(before)


def all_formats() -> dict[str, SplatFormat]:
    """All formats by name, PLY first and then in the order of the alphabet."""
    _load_built_in()
    return dict(sorted(_FORMATS.items(), key=lambda item: (item[0] != "ply", item[0])))


def format_names() -> tuple[str, ...]:
    """The names of all formats."""
    return tuple(all_formats())


def usable_format_names() -> tuple[str, ...]:
    """The names of the formats that can be read and written here; the others need a package that is missing."""
    return tuple(name for name, form in all_formats().items() if form.why_unavailable() is None)


def find_format(path: str | PathLike[str], name: str | None = None) -> SplatFormat:
    """The format of a file.

    Args:
        path: of the file, which need not exist; a folder is one of the format whose suffix is the name of a file in it
            (a SOG folder has a ``meta.json``).
        name: of the format; None to go by the path's suffix.

    Raises:
        FormatError: there is no such format; the message lists the known ones.
    """
    known = all_formats()
    if name is not None:
        if name not in known:
            raise FormatError(f"there is no splat format {name!r}, expected one of: {', '.join(known)}.")
        return known[name]
    file_name = Path(path).name.lower()
    fits = [(len(suffix), form) for form in known.values() for suffix in form.suffixes if file_name.endswith(suffix)]
    if not fits and Path(path).is_dir():
        fits = [(0, form) for form in known.values() for suffix in form.suffixes if Path(path, suffix).is_file()]
    if not fits:
        if file_name.endswith(".ckpt"):
            raise FormatError(
                f"{path} is a checkpoint, not a file of Gaussians, which are exported from its run: splatkit export "
                "--load-config CONFIG.yml --output FILE.ply; or without its data: splatkit convert CHECKPOINT FILE.ply."
            )
        suffixes = ", ".join(suffix for form in known.values() for suffix in form.suffixes)
        message = f"{path}: no splat format has this suffix, expected a name that ends in one of: {suffixes}."
        raise FormatError(f"{message} {advice_for_name(Path(path))}".rstrip())
    return max(fits, key=lambda fit: fit[0])[1]


def read(path: str | PathLike[str], format: str | None = None) -> Gaussians:
    """Read Gaussians from a file of any format.

    Args:
        path: of the file, or of a SOG folder.
        format: its name; None to go by the suffix.

    Raises:
        FormatError: the file is missing, of no known format, damaged or forged, or holds no Gaussians.
    """
    found = find_format(path, format)
    try:
        return found.read(Path(path))
    except NonFiniteError:
        raise
    except FormatError as error:
        advice = advice_for_content(Path(path)) if format is None else ""
        if not advice:
            raise
        raise FormatError(f"{error} {advice}") from error
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror or error}.") from error


def write(path: str | PathLike[str], gaussians: Gaussians, format: str | None = None, **options: Any) -> None:
    """Write Gaussians to a file of any format, atomically. Those that are not finite are left out, with a warning.

    Extra rows, which only PLY files hold, are left out of the other formats, with a warning that names them.

    Args:
        path: of the file; its folder is made if it is missing.
        gaussians: to write.
        format: its name; None to go by the suffix.
        **options: of the format; see `SplatFormat.options`.

    Raises:
        FormatError: there is no such format or option, no Gaussian is finite, or the format cannot hold them.
        OSError: the file cannot be written; an old file is then as it was.
    """
    found = find_format(path, format)
    chosen = _make_options(found, options)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if gaussians.extra and not found.keeps_extra:
        # before the check of finite values: rows that are not written decide nothing
        logger.warning(
            "%s is written without the extra rows %s: the format %s cannot hold them; PLY files do.",
            path,
            ", ".join(map(repr, gaussians.extra)),
            found.name,
        )
        gaussians = replace(gaussians, extra={})
    kept = drop_non_finite(gaussians, path)
    with np.errstate(over="ignore"):  # a number that a format has no room for becomes its largest
        found.write(Path(path), kept, chosen)


def _make_options(format: SplatFormat, options: dict[str, Any]) -> Any:
    known = [field.name for field in fields(format.options)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise FormatError(
            f"the format {format.name!r} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}."
        )
    return format.options(**options)
