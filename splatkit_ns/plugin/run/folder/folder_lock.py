"""The lock file of a folder: one process at a time writes into it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from pathlib import Path
from typing import Any

from splatkit_ns.errors import SplatkitError

LOCK_NAME = "run.lock"


class FolderLock:
    """A lock that this process has on a folder, made by `acquire`.

    The system removes the lock when the process ends, whatever ends it. The process id in the file is for messages, and
    for file systems without locks.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._pid = os.getpid()

    @classmethod
    def acquire(cls, folder: Path) -> FolderLock:
        """Lock a folder; it is made if it does not exist.

        Raises:
            SplatkitError: another process has the lock.
            OSError: the folder or the lock file cannot be written.
        """
        path = folder / LOCK_NAME
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = _owner(descriptor)
                os.close(descriptor)
                raise SplatkitError(
                    f"Another run ({owner}) is writing into {folder}. Wait for it, stop it, or let this one write "
                    "elsewhere: --timestamp OTHER, --experiment-name OTHER or --output-dir OTHER."
                ) from None
            except OSError:  # a file system without locks: only the content of the file can tell
                _refuse_live_owner(descriptor, folder)
            if _is_same_file(path, descriptor):
                break
            os.close(descriptor)  # its owner released it, and deleted the file, between our open and our lock
        with contextlib.suppress(OSError):  # a full disk: the lock is valid even without the entry
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        return cls(path, descriptor)

    @property
    def is_inherited(self) -> bool:
        """Whether this process is a fork of the one that has the lock."""
        return self._pid != os.getpid()

    @property
    def is_in_place(self) -> bool:
        """Whether the file is still there; not if the folder has been deleted or moved."""
        return _is_same_file(self._path, self._descriptor)

    def release(self) -> None:
        """Delete the file and end the lock; call it once. A fork leaves both to the process that has the lock."""
        if self.is_inherited:
            return
        if self.is_in_place:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def _owner_entry(descriptor: int) -> dict[str, Any]:
    try:
        entry = json.loads(os.pread(descriptor, 1000, 0))
    except (OSError, ValueError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _owner(descriptor: int) -> str:
    entry = _owner_entry(descriptor)
    return f"process {entry.get('pid', 'unknown')} on {entry.get('host', 'an unknown machine')}"


def _refuse_live_owner(descriptor: int, folder: Path) -> None:
    """Raise an error if the process named in the file may still run.

    This can be found out for a process of this machine; a process of another machine is assumed to run.
    """
    entry = _owner_entry(descriptor)
    pid, host = entry.get("pid"), entry.get("host")
    if not isinstance(pid, int) or pid == os.getpid():
        return
    if host == socket.gethostname():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        except OSError:  # the process runs, and belongs to another user
            pass
    os.close(descriptor)
    raise SplatkitError(
        f"A run (process {pid} on {host}) is writing into {folder}, or has left {LOCK_NAME} there when it was killed. "
        f"If it runs no more, delete {folder / LOCK_NAME}; else let this one write elsewhere: --timestamp OTHER."
    )
