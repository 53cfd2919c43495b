"""Writing a file so that a crash, a full disk or a killed process never leaves half of one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from splatkit_ns.errors import SplatkitError

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
    target = Path(os.path.realpath(path))  # a link is followed, not replaced
    temporary = target.with_name(f".{target.name[:64]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # not tempfile: its files are readable by their owner alone, and so would be the checkpoint
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, NEW_FILE_MODE)
    except OSError as error:
        raise _named(error, target) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _named(error, target) from error
        raise


def _named(error: OSError, target: Path) -> OSError:
    reason = error.strerror or str(error)
    return type(error)(error.errno, f"cannot write the file: {reason}", str(target))


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


def check_writable(folder: str | PathLike[str], owner: str) -> Path:
    """Make a folder, and check that files can be written there, before hours of work depend on it.

    Args:
        folder: made where it does not exist.
        owner: who will write there, for the message.

    Raises:
        SplatkitError: it cannot be made or written.
    """
    path = Path(folder)
    probe = path / f".{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SplatkitError(
            f"{owner}: the output folder {path} cannot be written: {error.strerror or error}. "
            "Choose another one, or change its permissions."
        ) from error
    return path
