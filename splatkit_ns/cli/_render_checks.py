"""The checks of the options of ``splatkit render``, before any work is done."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from splatkit_ns import ranges
from splatkit_ns.cli._files import without_run
from splatkit_ns.cli.render import RenderOptions
from splatkit_ns.errors import OptionsError
from splatkit_ns.files import folder_problem
from splatkit_ns.image_files import CONTAINERS

VIDEOS = (*CONTAINERS, ".gif", ".webp")
PICTURES = (".png", ".jpg", ".jpeg")
ORBIT_ONLY = ("centre", "radius", "elevation", "turns", "up", "fov", "width", "height")
"""The options of a turn around the scene."""


def check_options(options: RenderOptions) -> None:
    """Check the options with each other, and that the output can be written.

    Raises:
        OptionsError: names all faults.
    """
    problems = ranges.problems(options, shown=ranges.flag)
    if options.load_config is None and options.input is None:
        problems.append("neither --load-config nor --input is given, expected at least one of them")
    if options.load_config is None and options.cameras is not None:
        problems.append(f"--cameras {options.cameras} are those of a run: add --load-config")
    if options.load_config is None:
        problems += without_run(options, ("load_step", "data"))
    problems += _camera_problems(options)
    if not options.images:
        problems.append("--images names no kind, expected at least one of rgb, depth, alpha, normals")
    if len(set(options.images)) < len(options.images):
        problems.append("--images names a kind twice")
    if options.background is not None and not all(0 <= value <= 1 for value in options.background):
        problems.append(f"--background is {options.background}, expected three numbers from 0 to 1")
    if options.depth_range is not None and not 0 <= options.depth_range[0] < options.depth_range[1] < float("inf"):
        problems.append(f"--depth-range is {options.depth_range}, expected a depth of at least 0 and a larger one")
    elif options.depth_range is not None and "depth" not in options.images:
        problems.append("--depth-range is for depth: name it with --images")
    problem = _output_problem(options)
    if problem:
        problems.append(f"--output: {problem}")
    if problems:
        raise OptionsError(problems)


def _camera_problems(options: RenderOptions) -> list[str]:
    problems: list[str] = []
    if options.centre is not None and not np.isfinite(options.centre).all():
        problems.append(f"--centre is {options.centre}, expected three finite numbers")
    if options.turns is not None and not np.isfinite(options.turns):
        problems.append(f"--turns is {options.turns}, expected a finite number")
    if options.camera_path is not None and options.cameras is not None:
        problems.append("--camera-path and --cameras are both given, expected one of them")
    chosen = "--camera-path" if options.camera_path is not None else "--cameras" if options.cameras else None
    if chosen:
        given = [ranges.flag(name) for name in ORBIT_ONLY if getattr(options, name) is not None]
        if given:
            problems.append(f"{', '.join(given)}: for a turn around the scene, and not with {chosen}")
    if options.camera_path is not None and options.frames is not None:
        problems.append("--frames: not with --camera-path, which has its own frames")
    return problems


def is_file(output: Path) -> bool:
    """Whether an output is one video or picture, not a folder of them."""
    return not output.is_dir() and output.suffix.lower() in (*VIDEOS, *PICTURES)


def folder_of(output: Path) -> Path:
    """The folder in which the output is written."""
    return output.parent if is_file(output) else output


def _output_problem(options: RenderOptions) -> str | None:
    output = options.output
    if output.is_dir() or not output.suffix:
        if output.exists() and not output.is_dir():
            return f"{output} is a file, expected a folder"
        if output.is_dir() and any(output.iterdir()) and not options.overwrite:
            return f"the folder {output} is not empty; name another one, or add --overwrite"
    elif not is_file(output):
        return f"{output} has no suffix of a video or picture, expected {', '.join((*VIDEOS, *PICTURES))}, or a folder"
    elif options.raw:
        return f"--raw needs a folder, and {output} is a file"
    elif (output.exists() or output.is_symlink()) and not options.overwrite:
        return f"{output} exists; name another file, or add --overwrite"
    if options.raw and set(options.images) == {"rgb"}:
        return "--raw is for depth, alpha and normals: name them with --images"
    return folder_problem(folder_of(output))
