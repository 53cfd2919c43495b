"""The offset of a file whose coordinates are small, in a second file beside it; see `write_offset`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from splatkit_ns.errors import SplatkitError
from splatkit_ns.files import atomic_write_text
from splatkit_ns.formats.gaussians import DoubleArray

SUFFIX = ".offset.json"


def side_file(path: Path) -> Path:
    """The file beside a file of Gaussians or a mesh that has the offset of its coordinates."""
    return path.with_name(path.name + SUFFIX)


def write_offset(path: Path, offset: DoubleArray | None, frame: str | None = None) -> Path | None:
    """Write the offset of a file of Gaussians or a mesh beside it; an old one is deleted if there is none now.

    Args:
        path: the file.
        offset: (3,), or None.
        frame: a name of the frame that the sum is in.

    Returns:
        The file beside it, if it was written.

    Raises:
        SplatkitError: it cannot be written.
    """
    beside = side_file(path)
    try:
        if offset is None:
            beside.unlink(missing_ok=True)
            return None
        about = "A position in the frame is the position in the file plus the offset, in the file's axes and units."
        content = {"about": about, "frame": frame, "offset": offset.tolist()}
        atomic_write_text(beside, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise SplatkitError(f"{beside}: {error.strerror or error}.") from error
    return beside


def read_offset(path: Path) -> tuple[DoubleArray | None, str | None]:
    """The offset (3,) beside a file of Gaussians or a mesh, and the frame's name; None if there is none.

    Raises:
        SplatkitError: the file with it cannot be read.
    """
    beside = side_file(path)
    if not beside.is_file():
        return None, None
    try:
        content: Any = json.loads(beside.read_text("utf-8"))
        offset = np.asarray(content["offset"], np.float64)
        frame = content.get("frame")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SplatkitError(f"{beside} cannot be read ({type(error).__name__}: {error}).") from error
    if offset.shape != (3,) or not np.isfinite(offset).all():
        raise SplatkitError(f"{beside}: expected an offset of three finite numbers, found {str(offset.tolist())[:60]}.")
    return offset, frame if isinstance(frame, str) else None
