"""The writing of files so that a crash, a full disk or a killed process never leaves half of one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shlex
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from splatkit_ns.errors import SplatkitError

NEW_FILE_MODE = 0o666

PROBE_BYTES = 4096
"""The size of a file that tells whether a disk has room: an empty file needs none."""

TEMPORARY_PREFIX = "tmp-0."
"""The beginning of temporary files' names. nerfstudio's ``ns-eval`` takes the text between the first ``-`` and the
first ``.`` of every name in a folder of checkpoints for a step, and fails if it is no number: here it reads step 0."""
TEMPORARY_SUFFIX = ".tmp"


def atomic_write(path: str | PathLike[str], write: Callable[[BinaryIO], None]) -> None:
    """Write a file all at once: a program that reads `path` sees the old file or the complete new one.

    The content goes to a temporary file in the same folder (which is made if it is missing), reaches the disk, and is
    then renamed to `path`. Temporary files that killed processes left in the folder are deleted first.

    Args:
        path: the file to write.
        write: writes the content to the open file.

    Raises:
        OSError: the file could not be written, naming it. `path` is then as before and the temporary file is gone, as
            for any other exception that `write` raises.
    """
    target = Path(os.path.realpath(path))  # a link is followed, not replaced
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        delete_leftovers(target.parent)
        temporary, descriptor = _create_temporary(target)
    except OSError as error:
        raise _named(error, target) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, target)  # before the file is closed, which gives its lock back
        _sync_folder(target.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _named(error, target) from error
        raise


def atomic_write_bytes(path: str | PathLike[str], content: bytes | memoryview) -> None:
    """Write a file of these bytes all at once; see `atomic_write`.

    Raises:
        OSError: the file could not be written; an old file is then as it was.
    """

    def write(file: BinaryIO) -> None:
        file.write(content)

    atomic_write(path, write)


def atomic_write_text(path: str | PathLike[str], text: str) -> None:
    """Write a UTF-8 text file all at once; see `atomic_write`.

    Raises:
        OSError: the file could not be written; an old file is then as it was.
    """
    atomic_write_bytes(path, text.encode("utf-8"))


def delete_leftovers(folder: Path) -> list[Path]:
    """Delete temporary files whose writers have ended; those that any process still writes stay.

    A writer holds a lock on its temporary file, which the system takes back when the process ends, however it ends.

    Returns:
        The deleted files.
    """
    deleted: list[Path] = []
    for path in folder.glob(f"{TEMPORARY_PREFIX}*{TEMPORARY_SUFFIX}"):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:  # another process has deleted it, or we lack the permission
            continue
        with contextlib.suppress(OSError):  # locked: it is being written. Or this file system has no locks: let it be.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            deleted.append(path)
        os.close(descriptor)
    return deleted


def _create_temporary(target: Path) -> tuple[Path, int]:
    """A new, locked file beside `target`, and its descriptor."""
    while True:
        name = f"{TEMPORARY_PREFIX}{target.name[:64]}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
        path = target.with_name(name)
        # not tempfile: its files, and so the checkpoint, are readable by their owner alone
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, NEW_FILE_MODE)
        with contextlib.suppress(OSError):  # a file system without locks, where no process deletes leftovers
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():
            return path, descriptor
        os.close(descriptor)  # another process deleted it as a leftover before it was locked


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


def quoted(path: str | PathLike[str]) -> str:
    """A path as a shell takes it, for the commands in messages."""
    return shlex.quote(os.fspath(path))


def nearest_existing(path: Path) -> Path:
    """The path itself, or the nearest one above it that exists; a link exists, also if what it leads to does not."""
    return next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))


def folder_problem(folder: Path) -> str | None:
    """The reason why files cannot be written in a folder, which may be missing; None if they can."""
    try:
        existing = nearest_existing(folder)
        if not existing.is_dir():
            kind = "a link that leads nowhere" if existing.is_symlink() and not existing.exists() else "a file"
            return f"{existing} is {kind}, not a folder"
        _try_to_write(existing)
    except OSError as error:  # no permission to look or to write, a name that is too long, a full disk
        return f"the folder {folder} cannot be written: {error.strerror or error}"
    return None


def _try_to_write(folder: Path) -> None:
    """Write a file without a name, of which nothing is left behind.

    Raises:
        OSError: it cannot be written.
    """
    with TemporaryFile(dir=folder) as file:
        file.write(b"\0" * PROBE_BYTES)
        file.flush()
        os.fsync(file.fileno())


def check_writable(folder: str | PathLike[str], owner: str) -> None:
    """Make a folder, and check that files can be written there, before hours of work depend on it.

    Args:
        folder: made if it does not exist.
        owner: the name of the writer, for the message.

    Raises:
        SplatkitError: it cannot be made or written.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        _try_to_write(path)
    except OSError as error:
        raise SplatkitError(
            f"{owner}: the output folder {path} cannot be written: {error.strerror or error}. "
            "Choose another one, or change its permissions."
        ) from error
