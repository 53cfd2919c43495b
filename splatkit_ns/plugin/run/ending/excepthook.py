"""Errors that end a process with one message instead of a traceback."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from contextlib import suppress
from io import BufferedWriter, TextIOWrapper
from itertools import pairwise
from pathlib import Path
from traceback import walk_tb
from types import FrameType, TracebackType
from typing import Any

from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from rich.markup import escape
from yaml import YAMLError

from splatkit_ns.errors import SplatkitError, describe_os_error
from splatkit_ns.lasting_output import make_all_text_printable
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.plugin.run.folder.command_line import OPENING, TRAINING
from splatkit_ns.plugin.run.folder.config_file import UntrustedConfigError, packages_named, read_config_file
from splatkit_ns.splat import read_checkpoint

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The errors of a file system that is full, beyond its quota, or takes no file of that size: files in it may be cut."""
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
"""The errors of a file system or folder that cannot be written at all."""
COMMANDS = "nerfstudio.scripts."
"""The begin of the names of nerfstudio's modules with commands."""
READS_CONFIG = ((f"{COMMANDS}train", "main"), ("nerfstudio.utils.eval_utils", "eval_setup"))
"""nerfstudio's functions that read a config, as module and name."""
NO_PLACE = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
"""The errors of an output whose path goes through a file, or names a folder."""
INSTEAD = {
    "SpiralRender": "ns-render spiral draws runs of ray renderers only. For a video of these Gaussians: splatkit "
    "render --load-config CONFIG --output FILE.mp4",
    "ExportMarchingCubesMesh": "ns-export marching-cubes makes meshes of signed distance fields only. For a mesh of "
    "these Gaussians: splatkit mesh --load-config CONFIG --output FILE.ply",
}
"""nerfstudio's commands that refuse runs of Gaussians with a bare assertion -> what to do instead."""


def install_excepthook() -> None:
    """Let an uncaught `SplatkitError` end the process with its message alone, and exit status 1.

    The ``ns-*`` commands are nerfstudio's own, so only the excepthook of a plugin can replace the traceback for a
    mistake in the data, for a missing or damaged checkpoint, or for a full disk. All other exceptions look as before,
    but for Ctrl+C, with which people end ``ns-viewer``: commands that open runs then print nothing.
    What these commands print does not fail for want of a character; see `make_all_text_printable`.
    """
    make_all_text_printable()
    _install(_run_error)


def install_config_excepthook() -> None:
    """Let ``ns-train`` and the commands that open runs say in one message why a ``config.yml`` cannot be read, or the
    folder of an output cannot be made.

    They do so before they make anything of a method, but have imported all methods by then.
    """
    if Path(sys.argv[0]).name in TRAINING + OPENING:
        _install(_early_error)


def _install(tell: Callable[[BaseException, TracebackType | None], SplatkitError | None]) -> None:
    """Print the error that `tell` makes of an uncaught exception; if it makes none, leave it to the hook before."""
    previous = sys.excepthook
    if getattr(previous, "tell", None) is tell:
        return

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        told = tell(error, traceback)
        if told is not None:
            make_all_text_printable()
            CONSOLE.print(f"[bold red]Error:[/bold red] {escape(str(told))}", soft_wrap=True)
        elif not (issubclass(kind, KeyboardInterrupt) and Path(sys.argv[0]).name in OPENING):  # Ctrl+C ends ns-viewer
            previous(kind, error, traceback)

    hook.tell = tell  # type: ignore[attr-defined]
    sys.excepthook = hook


def _early_error(error: BaseException, traceback: TracebackType | None) -> SplatkitError | None:
    return config_error(error, traceback) or disk_error(error, traceback)


def _run_error(error: BaseException, traceback: TracebackType | None) -> SplatkitError | None:
    told = error if isinstance(error, SplatkitError) else None
    return told or disk_error(error, traceback) or checkpoint_error(error, traceback) or mistake_error(error, traceback)


def config_error(error: BaseException, traceback: TracebackType | None) -> SplatkitError | None:
    """The error of a ``config.yml`` that one of nerfstudio's commands cannot read; None if the cause is another.

    Args:
        error: the uncaught exception.
        traceback: the traceback of the exception.
    """
    if isinstance(error, AssertionError):
        return _no_config(traceback)
    if not isinstance(error, (OSError, UnicodeDecodeError, YAMLError)):
        return None
    for frame, called in pairwise(frame for frame, _ in walk_tb(traceback)):
        where = _function(frame)
        if where in READS_CONFIG and _module(called).partition(".")[0] in ("pathlib", "yaml"):
            path = frame.f_locals.get("config_path") or frame.f_locals["config"].load_config
            return _why_unreadable(Path(path))
    return None


def _no_config(traceback: TracebackType | None) -> SplatkitError | None:
    """The error of a file that is no config, such as a transforms.json, if that is what nerfstudio has found."""
    frames = [frame for frame, _ in walk_tb(traceback)]
    if not frames or _function(frames[-1]) not in READS_CONFIG:
        return None
    path, content = (frames[-1].f_locals.get(name) for name in ("config_path", "config"))
    if path is None:
        return None
    return SplatkitError(
        f"--load-config: {path} holds {type(content).__name__}, no run; expected the config.yml of a run."
    )


def _why_unreadable(path: Path) -> SplatkitError | None:
    trust = packages_named(path.read_text("utf-8", "replace")) if path.is_file() else ()  # as nerfstudio does
    try:
        read_config_file(path, trust)
    except UntrustedConfigError:  # of a reason that nerfstudio does not have
        return None
    except SplatkitError as found:
        return found
    return None


def disk_error(error: BaseException, traceback: TracebackType | None) -> SplatkitError | None:
    """The error of a file that one of nerfstudio's commands cannot open or write; None if the cause is another.

    The commands write files in place, so what there is of such a file is cut: it is deleted. It is the one that the
    innermost function has opened, which files of the functions around it need not be.

    Args:
        error: the uncaught exception.
        traceback: the traceback of the exception.
    """
    if not isinstance(error, OSError) or error.errno not in FULL + CLOSED + NO_PLACE:
        return None
    frames = [frame for frame, _ in walk_tb(traceback)]
    if error.errno in NO_PLACE and not any(_module(frame).startswith(COMMANDS) for frame in frames[-4:]):
        return None  # of a part in training, perhaps
    first = next((i for i, frame in enumerate(frames) if _module(frame).startswith(COMMANDS)), None)
    if first is None:
        return None
    if error.errno in CLOSED + NO_PLACE:
        return SplatkitError(f"{describe_os_error(error)}.")
    innermost = next((files for frame in reversed(frames[first:]) if (files := _being_written(frame))), [])
    deleted = [str(path) for path in innermost if _delete(path)]
    if deleted:
        return SplatkitError(f"{describe_os_error(error)}. What was written of {' and '.join(deleted)} is deleted.")
    return SplatkitError(f"{describe_os_error(error)}. A file that was being written is incomplete.")


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def _function(frame: FrameType) -> tuple[str, str]:
    """The function of a frame, as module and name; by name, since importing nerfstudio's commands imports all methods,
    this one among them."""
    return _module(frame), frame.f_code.co_name


def _being_written(frame: FrameType) -> list[Path]:
    """The files that a function has opened to write them anew."""
    files = (value for value in frame.f_locals.values() if isinstance(value, (BufferedWriter, TextIOWrapper)))
    return [Path(file.name) for file in files if isinstance(file.name, str) and file.mode.startswith("w")]


def _delete(path: Path) -> bool:
    """Delete a file that is no link and no device; whether that was done."""
    if path.is_symlink() or not path.is_file():
        return False
    with suppress(OSError):
        path.unlink()
        return True
    return False


def mistake_error(error: BaseException, traceback: TracebackType | None) -> SplatkitError | None:
    """The error of a mistake that nerfstudio's commands do not explain; None if the cause is another.

    They are ``ns-eval`` with an output that is no .json, ``ns-render interpolate`` with a single camera, ``ns-render
    camera-path`` with a file that is no camera path, ``ns-export gaussian-splat`` with an empty box or a name in a
    folder that does not exist, and the commands in `INSTEAD`.

    Args:
        error: the uncaught exception.
        traceback: the traceback of the exception.
    """
    for frame, _ in walk_tb(traceback):
        where, values = _function(frame), frame.f_locals
        is_path = where == ("nerfstudio.cameras.camera_paths", "get_interpolated_camera_path")
        if is_path and len(values.get("cameras", ())) == 1:
            return SplatkitError(
                "A path goes from camera to camera, but there is only one: --pose-source train takes the cameras of "
                "training, --pose-source eval those of the held-out images."
            )
        if where == (f"{COMMANDS}exporter", "write_ply") and values.get("count") == 0:
            return SplatkitError(
                "No Gaussian is left to be written: none is in the box (--obb-center, --obb-rotation, --obb-scale), or "
                "none is opaque enough."
            )
        if where == (f"{COMMANDS}exporter", "write_ply") and isinstance(error, FileNotFoundError):
            return SplatkitError(
                f"{describe_os_error(error)}: ns-export makes the folder --output-dir alone. Make the folder in "
                "--output-filename first."
            )
        if where[0].startswith(COMMANDS) and where[1] == "main" and "pipeline" in values:
            command: Any = values.get("self")
            if isinstance(error, AssertionError) and type(command).__name__ in INSTEAD:
                return SplatkitError(INSTEAD[type(command).__name__])
            if type(command).__name__ == "ComputePSNR" and command.output_path.suffix != ".json":
                return SplatkitError(f"--output-path is {command.output_path}, expected a name that ends in .json.")
            if isinstance(error, Exception) and hasattr(command, "camera_path_filename"):
                return _camera_path_error(command.camera_path_filename, values.get("camera_path"), error)
    return None


def _camera_path_error(path: Path, content: object, error: Exception) -> SplatkitError | None:
    """The error of the file of a camera path; None if nerfstudio has made cameras of it.

    Args:
        path: of the file.
        content: the camera path as far as it has been read: None, what the JSON holds, or the cameras.
        error: the exception that ended the command.
    """
    if content is None:
        reason = "cannot be read" if isinstance(error, OSError) else "is no JSON file"
        detail = error.strerror if isinstance(error, OSError) else error
        return SplatkitError(f"--camera-path-filename: {path} {reason} ({detail}).")
    if isinstance(content, Cameras):
        return None
    if isinstance(content, dict) and content.get("camera_path") == []:
        detail = "it has no frames; add at least two keyframes in the viewer"
    else:
        detail = f"{error} is missing" if isinstance(error, KeyError) else error
    return SplatkitError(
        f"--camera-path-filename: {path} is no camera path of nerfstudio's viewer, or is damaged: {detail}."
    )


def checkpoint_error(error: BaseException, traceback: TracebackType | None) -> SplatkitError | None:
    """The error of the checkpoint that nerfstudio was about to load; None if the cause is another.

    nerfstudio reads the checkpoint without calling our code, so only the exception is known. Its traceback holds the
    config, which says where the checkpoints are.

    Args:
        error: the uncaught exception.
        traceback: the traceback of the exception.
    """
    if not isinstance(error, Exception):
        return None
    for frame, _ in walk_tb(traceback):
        where = _function(frame)
        config = frame.f_locals.get("config")
        if where == ("nerfstudio.utils.eval_utils", "eval_load_checkpoint") and config is not None:
            return _what_is_wrong(Path(config.load_dir), config.load_step)
    return None


def _what_is_wrong(folder: Path, step: int | None) -> SplatkitError | None:
    paths = checkpoint_files.checkpoint_paths(folder)
    paths = [path for path in paths if step in (None, checkpoint_files.step_of(path))]
    try:
        if paths:
            read_checkpoint(paths[-1])  # the checkpoint that nerfstudio takes
        else:
            checkpoint_files.newest_readable(folder, step)
    except SplatkitError as found:
        return found
    return None
