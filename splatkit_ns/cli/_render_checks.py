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
from splatkit_ns.tours import FRAMES

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
    if options.fps is not None and not _is_video(options.output):
        problems.append(f"--fps is for a video or an animation, and --output is {options.output}")
    if options.image_format != "png" and is_file(options.output):
        problems.append(f"--image-format is for a folder of images, and --output is {options.output}")
    if options.camera_path is None and (options.cameras is None or options.frames is not None):
        problem = picture_problem(options, options.frames or FRAMES[0])
        if problem:
            problems.append(problem)
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


def _is_video(output: Path) -> bool:
    return is_file(output) and output.suffix.lower() in VIDEOS


def picture_problem(options: RenderOptions, num: int) -> str | None:
    """The problem if the output is one picture, and there is more than one frame.

    Args:
        options: of the command.
        num: the least number of frames that is known.
    """
    if num <= 1 or not is_file(options.output) or options.output.suffix.lower() not in PICTURES:
        return None
    fewer = ", or add --frames 1" if options.camera_path is None else ""
    return (
        f"--output: {options.output} is a picture, and there are {num} frames: name a video, an animation or a "
        f"folder{fewer}"
    )


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
