"""The folder of a run: one run at a time writes into it, and no finished one is overwritten."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from rich.markup import escape

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.reporting.console import report_once
from splatkit_ns.plugin.run.checkpoints import checkpoint_paths
from splatkit_ns.splat import atomic_write_text

LOCK_NAME = "run.lock"

_claimed: dict[Path, tuple[int, int]] = {}
"""Folders that this process writes into -> its id, which tells it from a fork of it, and descriptor of the lock."""

_continued: set[Path] = set()
"""Folders whose run is started again with the very same config."""


def claim(folder: Path) -> None:
    """Make the folder this process's to write into, until `release` or the end of the process, however it ends.

    Claiming a folder twice in one process is once.

    Raises:
        SplatkitError: another process has claimed it, or it cannot be written.
    """
    folder = Path(os.path.realpath(folder))
    if _claimed.get(folder, (0, 0))[0] == os.getpid():
        return
    path = folder / LOCK_NAME
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise unwritable(folder, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(descriptor)
            os.close(descriptor)
            raise SplatkitError(
                f"Another run ({owner}) is writing into {folder}. Wait for it, stop it, or let this one write "
                "elsewhere: --timestamp OTHER, --experiment-name OTHER or --output-dir OTHER."
            ) from None
        except OSError:  # a file system without locks: refuse only by what the file says
            _refuse_live_owner(descriptor, folder)
        if _is_still(path, descriptor):
            break
        os.close(descriptor)  # its owner released it, and deleted it, between our open and our lock
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
    _claimed[folder] = os.getpid(), descriptor


def release(folder: Path) -> None:
    """Give a folder back; one that is not claimed is left alone."""
    folder = Path(os.path.realpath(folder))
    pid, descriptor = _claimed.pop(folder, (0, 0))
    if pid != os.getpid():
        return
    with contextlib.suppress(OSError):
        (folder / LOCK_NAME).unlink(missing_ok=True)
    os.close(descriptor)


@atexit.register
def _release_all() -> None:
    for folder in list(_claimed):
        release(folder)


def _is_still(path: Path, descriptor: int) -> bool:
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
    """Without locks: a process of this machine that is gone has left its file; of another machine we cannot know."""
    entry = _owner_entry(descriptor)
    pid, host = entry.get("pid"), entry.get("host")
    if not isinstance(pid, int) or pid == os.getpid():
        return
    if host == socket.gethostname():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        except OSError:
            pass
    os.close(descriptor)
    raise SplatkitError(
        f"A run (process {pid} on {host}) is writing into {folder}, or has left {LOCK_NAME} there when it was killed. "
        f"If it runs no more, delete {folder / LOCK_NAME}; else let this one write elsewhere: --timestamp OTHER."
    )


def discard_if_empty(config: TrainerConfig) -> None:
    """Take back the folder of a run that does not begin after all, and those around it up to ``output_dir``."""
    folder = config.get_base_dir()
    release(folder)
    with contextlib.suppress(OSError):  # one that is not empty
        while folder != config.output_dir and config.output_dir in folder.parents:
            folder.rmdir()
            folder = folder.parent


def unwritable(folder: Path, error: OSError) -> SplatkitError:
    """What to say when a run's folder cannot be written."""
    return SplatkitError(
        f"The run's folder {folder} cannot be written: {error.strerror or error}. Choose another with --output-dir, "
        "or check permissions and free space."
    )


def set_unused_timestamp(config: TrainerConfig, timestamp: str) -> None:
    """Name the run's folder after the time, and make it; a number is added where another run has that name already.

    Two runs that start in the same second, or a clock that is set back, then do not meet in one folder.
    """
    number = 1
    config.timestamp = timestamp
    while True:
        folder = config.get_base_dir()
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            return
        except FileExistsError:
            if folder.parent.is_dir():
                number += 1
                config.timestamp = f"{timestamp}-{number}"
                continue
            return  # a file where a folder should be: said when the config is saved
        except OSError:
            return  # likewise


def recognise(config: TrainerConfig) -> None:
    """Find out whether this is a run that is started again in its own folder, with the very same config."""
    folder = config.get_base_dir()
    _continued.discard(Path(os.path.realpath(folder)))
    if checkpoint_paths(config.get_checkpoint_dir()) and _holds(folder / "config.yml", yaml.dump(config)):
        _continued.add(Path(os.path.realpath(folder)))


def save_config(config: TrainerConfig) -> None:
    """Claim the run's folder and write ``config.yml`` into it, atomically.

    Args:
        config: of a run that `recognise` has seen.

    Raises:
        SplatkitError: the folder cannot be written, belongs to a running run, or to one that ended and is not resumed.
    """
    folder = config.get_base_dir()
    claim(folder)
    path, text = folder / "config.yml", yaml.dump(config)
    checkpoints = checkpoint_paths(config.get_checkpoint_dir())
    if not continues(folder) and checkpoints and not _resumes_from(config, config.get_checkpoint_dir()):
        raise SplatkitError(
            f"{folder} holds another run, of {len(checkpoints)} checkpoint(s), which this one would overwrite. To go "
            f"on with it: --load-dir {config.get_checkpoint_dir()}, or --load-config {path}. To start anew: another "
            "--timestamp, or none."
        )
    CONSOLE.log(f"Saving config to: {escape(str(path))}")
    _check_readable(path, text)
    try:
        atomic_write_text(path, text)
    except OSError as error:
        raise unwritable(folder, error) from error


def continues(folder: Path) -> bool:
    """Whether `recognise` found that a run is started again in its own folder, as ``--load-config`` does."""
    return Path(os.path.realpath(folder)) in _continued


def goes_on(config: TrainerConfig) -> bool:
    """Whether a run goes on from a checkpoint, in whichever of the three ways it was told to."""
    named = config.load_dir is not None or config.load_checkpoint is not None
    return named or continues(config.get_base_dir())


def _resumes_from(config: TrainerConfig, checkpoint_dir: Path) -> bool:
    sources = [config.load_dir, config.load_checkpoint and Path(config.load_checkpoint).parent]
    wanted = os.path.realpath(checkpoint_dir)
    return any(source is not None and os.path.realpath(source) == wanted for source in sources)


def _holds(path: Path, text: str) -> bool:
    """Whether the file is there with this very config: the same run, started again with --load-config.

    As text, or when read and written again: people add comments, and older versions lack options.
    """
    try:
        found = path.read_text("utf-8")
        return found == text or yaml.dump(yaml.load(found, Loader=yaml.Loader)) == text
    except Exception:  # what is no such file can fail to load in any way
        return False


def say_if_new(config: TrainerConfig) -> None:
    """A word where a folder was named and holds no run, as when --load-config is used in another working directory."""
    if not checkpoint_paths(config.get_checkpoint_dir()):
        folder = escape(str(config.get_base_dir().absolute()))
        CONSOLE.print(f"There is no checkpoint in {folder} yet: training begins at its first step.")


def _check_readable(path: Path, text: str) -> None:
    """A note where ``ns-eval`` and the others will not be able to read a run's config back."""
    names = sorted(set(re.findall(r"!!python/\w+:(__main__\.[\w.]+|\S*%3C\S*)", text)))
    if names:
        shown = ", ".join(unquote(name) for name in names)
        report_once(
            f"ns-eval, ns-export and ns-viewer cannot open {path}: it names {shown}, which only this program knows. "
            "Put such classes and functions into a module of their own, outside of other functions, and import them."
        )
