"""Writing a file so that a crash, a full disk or a killed process never leaves half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import BinaryIO

NEW_FILE_MODE = 0o666


def atomic_write(path: str | PathLike[str], write: Callable[[BinaryIO], None]) -> None:
    """Write a file all at once: whoever reads `path` sees the old file or the complete new one.

    The content goes to a temporary file in the same folder (which is made if it is missing), reaches the disk, and is
    then renamed to `path`.

    Args:
        path: the file to write.
        write: writes the content to the open file.

    Raises:
        OSError: the file could not be written, naming it. `path` is then as before and the temporary file is gone, as
            for any other exception that `write` raises.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:64]}.", suffix=".tmp")
    except OSError as error:
        raise _named(error, target) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode_of(target))
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _named(error, target) from error
        raise


def _named(error: OSError, target: Path) -> OSError:
    reason = error.strerror or str(error)
    return type(error)(error.errno, f"cannot write the file: {reason}", str(target))


def _mode_of(target: Path) -> int:
    """The permissions of the file that is replaced, else those that open() would give; mkstemp's are private."""
    try:
        return target.stat().st_mode & 0o777
    except OSError:
        umask = os.umask(0)
        os.umask(umask)
        return NEW_FILE_MODE & ~umask


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # some file systems do not let folders be opened; the rename itself has happened
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
