"""The options of nerfstudio's command that runs in this process, of which it does not tell its configs."""

from __future__ import annotations

import atexit
import gc
import json
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from splatkit_ns.errors import SplatkitError
from splatkit_ns.formats.registry import FormatError, find_format

LOAD_CONFIG = "--load-config"
TRAINING = ("ns-train", "train.py")
"""The names of the command that trains."""
OPENING = ("ns-eval", "ns-export", "ns-render", "ns-viewer", "eval.py", "exporter.py", "render.py", "run_viewer.py")
"""The names of the commands that open trained runs, and do not write into their folders."""
RENDERING = ("ns-render", "render.py")
"""The names of the command that renders."""
PATH_TYPES = ("perspective", "fisheye", "equirectangular")
"""The camera types of camera paths that are drawn, beside VR180, which nerfstudio knows in any case."""
EXPORTING = ("ns-export", "exporter.py")
"""The names of the command that exports."""
BOX = ("--obb-center", "--obb-rotation", "--obb-scale")
"""The options of a box to export; ``ns-export`` passes over them without a word unless all are given."""


def options_of(commands: Collection[str], arguments: Sequence[str]) -> dict[str, str]:
    """The values of a command's options by their names, such as ``--load-config``.

    Args:
        commands: the names that the command may have.
        arguments: those of a process, its program first.

    Returns:
        Nothing if another command runs.
    """
    if Path(arguments[0]).name not in commands:
        return {}
    following = [*arguments[1:], ""]
    split = [(*argument.partition("="), after) for argument, after in pairwise(following) if argument.startswith("--")]
    return {name.replace("_", "-"): value if is_joined else after for name, is_joined, value, after in split}


def opened_folder(arguments: Sequence[str]) -> Path | None:
    """The folder of the ``config.yml`` that one of nerfstudio's commands opens; None if another command runs.

    Args:
        arguments: those of a process, its program first.
    """
    named = options_of(OPENING, arguments).get(LOAD_CONFIG)
    return None if named is None else Path(named).parent


def check_export_box(arguments: Sequence[str]) -> None:
    """Check that ``ns-export`` will crop to a box if one of the options of a box is given.

    Args:
        arguments: those of a process, its program first.

    Raises:
        SplatkitError: other options of the box are missing.
    """
    options = options_of(EXPORTING, arguments)
    given = [name for name in BOX if name in options]
    missing = [name for name in BOX if name not in given]
    if given and missing:
        raise SplatkitError(
            f"{' and '.join(given)} would have no effect without {' and '.join(missing)}: these options are the box "
            "outside of which Gaussians are left out. The scene itself is turned or scaled by --frame, --up and "
            "--scale of splatkit export."
        )


def check_export_name(arguments: Sequence[str]) -> None:
    """Check that ``ns-export gaussian-splat`` will not write its PLY file under the name of another format.

    Args:
        arguments: those of a process, its program first.

    Raises:
        SplatkitError: the file's name ends like those of another format.
    """
    name = options_of(EXPORTING, arguments).get("--output-filename")
    with suppress(FormatError):  # a name without suffix, or with one of the user's own
        if name is not None and (form := find_format(name).name) != "ply":
            raise SplatkitError(
                f"--output-filename is {name}, but ns-export writes PLY files alone, whatever their name. For the "
                f"format {form}: splatkit export --load-config CONFIG --output {name}"
            )


def check_camera_path(arguments: Sequence[str]) -> None:
    """Check that ``ns-render`` draws the camera type of its camera path; it draws what it does not know as perspective.

    Args:
        arguments: those of a process, its program first.

    Raises:
        SplatkitError: it does not.
    """
    name = options_of(RENDERING, arguments).get("--camera-path-filename")
    if name is None:
        return
    with suppress(
        OSError, ValueError, RecursionError, AttributeError
    ):  # the command itself will fail, and is explained
        kind = json.loads(Path(name).read_text(encoding="utf-8")).get("camera_type", PATH_TYPES[0])
        if kind not in PATH_TYPES and kind.lower() != "vr180":
            raise SplatkitError(
                f"--camera-path-filename: {name} is for the camera type {kind!r}, which cannot be drawn. Save the path "
                f"with one of these types: {', '.join(PATH_TYPES)}, vr180."
            )


def pass_over_imports(commands: Collection[str]) -> None:
    """Let garbage collections pass over all that there is, which is what has been imported, if a command runs.

    Python collects several times when it ends, which took seconds with nerfstudio's imports. What comes later is still
    collected. In a program of a user's own, what there is may be an earlier run that is to be freed: nothing is done.

    Args:
        commands: the names that the command may have.
    """
    if Path(sys.argv[0]).name in commands:
        gc.freeze()
        atexit.register(_let_bindings_go)


def _let_bindings_go() -> None:
    """Let the last collections find what nanobind has bound, which otherwise prints a page about leaks.

    New versions of Triton are bound by it. The first of these collections, which is not needed, is left out.
    """
    if any(kind.__module__ == "nanobind" for kind in type.__subclasses__(type)):
        gc.unfreeze()
        gc.disable()
