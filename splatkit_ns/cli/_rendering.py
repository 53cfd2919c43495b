"""The work of ``splatkit render``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from splatkit_ns import formats
from splatkit_ns.camera_paths import orbit, path
from splatkit_ns.cameras import View
from splatkit_ns.cleaning.rules import infinite_size
from splatkit_ns.cli._camera_path_files import MOST_PIXELS, CameraPath, read_camera_path
from splatkit_ns.cli._files import file_bytes, shown_bytes
from splatkit_ns.cli._pictures import Frames, Pictures, Scene, smaller
from splatkit_ns.cli._render_checks import PICTURES, check_options, folder_of, is_file, picture_problem
from splatkit_ns.cli.render import RenderOptions
from splatkit_ns.errors import SplatkitError
from splatkit_ns.files import atomic_write, check_writable
from splatkit_ns.formats.offset_files import read_offset
from splatkit_ns.image_files import save_image, save_video
from splatkit_ns.near_fade import NEARER, nearest_seen
from splatkit_ns.printing import say
from splatkit_ns.rendering import renderer_of, turntable_circle
from splatkit_ns.splat import SplatModel, SplatTrainingState
from splatkit_ns.splat.row_parameters import RowDict
from splatkit_ns.tours import FRAMES, Survey, even

_UPS = {"y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0), "minus-y": (0.0, -1.0, 0.0)}
_ORBIT = {"frames": FRAMES[0], "turns": 1.0, "up": "z", "fov": 50.0}
_SIZE = (800, 600)
"""The width and height in pixels of a turn around a file's Gaussians."""


def render(options: RenderOptions, console: Console | None = None) -> None:
    """Draw what the options say.

    Args:
        options: see `RenderOptions`.
        console: the output for progress and report; None means the terminal.

    Raises:
        SplatkitError: options, run, file or disk do not allow it; the message says why.
    """
    console = console or Console()
    check_options(options)
    camera_path = None if options.camera_path is None else read_camera_path(options.camera_path)
    if camera_path is not None and camera_path.views[0].lens == "equirectangular" and "normals" in options.images:
        raise SplatkitError(
            f"--images normals: normals are not drawn in panoramas, as those of {options.camera_path} are."
        )
    if camera_path is not None:
        _check_picture(options, len(camera_path.views))
    scene = _open(options, console)
    frames = _frames(options, scene, camera_path, console)
    _check_picture(options, len(frames.views))
    frames.near = frames.near if options.near is None else options.near
    _prepare(scene, frames, options)
    pictures = Pictures(scene, frames, options, console)
    check_writable(folder_of(options.output), "splatkit render")
    try:
        if is_file(options.output):
            _write_file(options.output, pictures, options.fps or frames.fps, console)
        else:
            _write_folder(pictures, frames.names, options, console)
    except OSError as error:
        raise SplatkitError(f"--output: {options.output}: {error.strerror or error}.") from error


def _check_picture(options: RenderOptions, num: int) -> None:
    """Raise an error if the output is one picture, and there are more frames."""
    problem = picture_problem(options, num)
    if problem is not None:
        raise SplatkitError(f"{problem}.")


def _open(options: RenderOptions, console: Console) -> Scene:
    gaussians = None if options.input is None else _read(options.input)
    if options.load_config is None:
        assert gaussians is not None
        device = _device(options.device)
        renderer = renderer_of(gaussians.render_mode)
        state = SplatModel.from_gaussians(gaussians).for_rendering(device)
        say(console, f"{options.input}, {len(state):,} Gaussians")
        return Scene(state, renderer, torch.zeros(3, device=device), options.sh_degree)
    from splatkit_ns.cli._exporting import open_run, run_gaussians  # loads nerfstudio, which takes ten seconds

    if options.input is not None and read_offset(options.input)[0] is not None:
        raise SplatkitError(f"--input: {options.input} has an offset, so it is not in the run's frame.")
    run = open_run(options.load_config, options, console)
    model: Any = run.pipeline.model
    drawn = SplatModel.from_gaussians(run_gaussians(run, console) if gaussians is None else gaussians)
    degree = model.sh_degree_now() if gaussians is None else gaussians.sh_degree
    return Scene(
        state=drawn.for_rendering(model.device),
        renderer=model.renderer,
        background=model.backgrounds.of_evaluation(model.device),
        sh_degree=degree if options.sh_degree is None else min(degree, options.sh_degree),
        pipeline=run.pipeline,
    )


def _read(path: Path) -> formats.Gaussians:
    gaussians = formats.read(path)
    count = int(infinite_size(gaussians).sum())
    if count:
        raise SplatkitError(
            f"--input: {count:,} of {len(gaussians):,} Gaussians in {path} are of infinite size. Leave them out with "
            "splatkit clean."
        )
    return gaussians


def _device(name: str | None) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        raise SplatkitError("--device is cuda, but PyTorch finds no CUDA device. Use --device cpu.")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def _frames(options: RenderOptions, scene: Scene, camera_path: CameraPath | None, console: Console) -> Frames:
    if camera_path is not None:
        return Frames(camera_path.views, fps=camera_path.fps, crop=camera_path.crop)
    if options.cameras is None:
        return Frames(_orbit(options, scene, console)) if scene.pipeline is None else _tour(options, scene, console)
    from splatkit_ns.cli._data_cameras import data_cameras  # loads nerfstudio

    views, files = data_cameras(scene.pipeline, options.cameras)
    if options.frames is None:
        return Frames(views, _image_names(files))
    if options.frames == 1:
        return Frames(views[:1])
    if len(views) == 1:
        raise SplatkitError(f"--frames: --cameras {options.cameras} has one camera, and a path needs at least two.")
    return Frames(path(views, options.frames))


def _orbit(options: RenderOptions, scene: Scene, console: Console) -> list[View]:
    """A turn around the Gaussians of a file."""
    given = {name: getattr(options, name) for name in _ORBIT if getattr(options, name) is not None}
    settings: dict[str, Any] = {**_ORBIT, **given}
    num, up = settings.pop("frames"), _UPS[settings.pop("up")]
    proportion = _SIZE[0] / _SIZE[1]
    width = options.width or (_SIZE[0] if options.height is None else even(options.height * proportion))
    height = options.height or even(width / proportion)
    if options.centre is None and options.radius is None:
        say(
            console,
            "A file does not say where its scene was photographed: the camera goes around the middle of the Gaussians. "
            "--load-config of the run shows it from there.",
        )
    circle = turntable_circle(scene.state, settings["fov"], width, height)
    centre = circle[0] if options.centre is None else options.centre
    radius = circle[1] if options.radius is None else options.radius
    elevation = 20.0 if options.elevation is None else options.elevation
    return orbit(centre, radius, num, elevation, up=up, width=width, height=height, **settings)


def _tour(options: RenderOptions, scene: Scene, console: Console) -> Frames:
    """The places of a run's photographs, or a turn like them."""
    from splatkit_ns.cli._data_cameras import data_cameras  # loads nerfstudio

    views, _ = data_cameras(scene.pipeline, "train")
    survey = Survey(views, _UPS[options.up or "z"], options.centre)
    fixed = {name: getattr(options, name) for name in ("turns", "radius", "elevation")}
    num = options.frames or survey.frames()
    if survey.kind == "arc" and options.turns is None and num > 1:
        say(
            console,
            f"The photographs cover {survey.covered:.0f} degrees around the scene: the camera goes to and fro there. "
            "--turns 1 goes all around.",
        )
    elif survey.kind == "walk" and set(fixed.values()) == {None} and num > 1:
        say(
            console,
            "The photographs do not look at one place: the camera goes where they were taken, in the order of their "
            "names. --turns 1 goes around in a circle.",
        )
    size = {name: getattr(options, name) for name in ("fov", "width", "height")}
    near = 0.0
    if options.near is None:
        near = NEARER * nearest_seen(scene.renderer, scene.state, views)
    return Frames(survey.cameras(num, **fixed, **size), near=near)


def _image_names(files: Sequence[Path]) -> list[str]:
    """Names for images, those of the photographs without suffix; with it if two would be the same."""
    folder = os.path.commonpath([file.parent for file in files])
    names = [file.relative_to(folder) for file in files]
    plain = [str(name.with_suffix("")) for name in names]
    return plain if len(set(plain)) == len(plain) else [str(name) for name in names]


def _prepare(scene: Scene, frames: Frames, options: RenderOptions) -> None:
    """Apply crop, background and size.

    Raises:
        SplatkitError: the crop leaves nothing, or the images are too large.
    """
    if frames.crop is not None:
        inside = frames.crop.inside(scene.state.params["means"])
        if not bool(inside.any()):
            raise SplatkitError(f"--camera-path: the crop of {options.camera_path} leaves no Gaussian.")
        params = {
            name: nn.Parameter(values[inside], requires_grad=False) for name, values in scene.state.params.items()
        }
        scene.state = SplatTrainingState(RowDict(params), {})
    colour = options.background or (frames.crop.background if frames.crop is not None else None)
    if colour is not None:
        scene.background = scene.background.new_tensor(colour)
    frames.views = [smaller(view, options.downscale) for view in frames.views]
    largest = max(frames.views, key=lambda view: view.width * view.height)
    if largest.width * largest.height > MOST_PIXELS:
        raise SplatkitError(
            f"The images would have {largest.width}×{largest.height} pixels, expected at most {MOST_PIXELS:,} in all: "
            "see --width, --height and --downscale."
        )


def _write_file(output: Path, pictures: Pictures, fps: float, console: Console) -> None:
    if output.suffix.lower() in PICTURES:
        save_image(next(pictures.side_by_side()), output)
        say(console, f"{output}: {shown_bytes(file_bytes(output))}")
        return
    save_video(pictures.side_by_side(), output, fps)
    count = len(pictures.views)
    say(console, f"{output}: {shown_bytes(file_bytes(output))}, {count} frame(s), {count / fps:.3g} s")


def _write_folder(pictures: Pictures, names: list[str] | None, options: RenderOptions, console: Console) -> None:
    several = len(options.images) > 1
    before = {file for file in options.output.rglob("*") if file.is_file()}
    written: set[Path] = set()
    for index, values in enumerate(pictures.raw()):
        name = f"frame_{index:05d}" if names is None else names[index]
        for kind, image in zip(options.images, pictures.coloured(values), strict=True):
            place = options.output / kind / name if several else options.output / name
            file = place.with_name(f"{place.name}.{options.image_format}")
            save_image(image, file)
            written.add(file)
            if options.raw and kind != "rgb":
                array = place.with_name(f"{place.name}.npy")
                atomic_write(array, partial(np.save, arr=values[kind].numpy()))
                written.add(array)
    say(console, f"{options.output}: {len(written)} file(s) of {len(pictures.views)} frame(s)")
    if before - written:
        say(console, f"{len(before - written)} other file(s) were there before, and stay")
