"""The work of ``splatkit export``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console

from splatkit_ns import formats, ranges
from splatkit_ns.cleaning.rules import not_finite
from splatkit_ns.cli._files import check_outputs, place_problem, shown_ratio, write_file
from splatkit_ns.cli._measuring import HeldOutViews
from splatkit_ns.cli._placing import limit_sh_degree, turn_and_scale
from splatkit_ns.cli.export import ExportOptions
from splatkit_ns.errors import ModuleError, OptionsError, SplatkitError, listed
from splatkit_ns.formats import FormatError, Gaussians
from splatkit_ns.formats.frames import Similarity, split_offset, transform
from splatkit_ns.formats.offset_files import write_offset
from splatkit_ns.formats.ply import property_names
from splatkit_ns.parts.near_misses import is_own_class
from splatkit_ns.parts.nesting import part_with
from splatkit_ns.plugin.data.cameras import camera_extent
from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.data.scenes.camera_files import FILES, write_cameras
from splatkit_ns.plugin.data.scenes.scene_frames import frame_to_training
from splatkit_ns.plugin.loading import LoadedRun, load_run
from splatkit_ns.printing import say
from splatkit_ns.renderer.sky import SkyRenderer, sky_shell

EQUAL_DB = 100.0
"""The PSNR in dB from which on two renders are the same except for the rounding of float32."""
SKY_DISTANCE = 100.0
"""The distance of an exported sky, relative to that of the farthest cameras, or of nearly all Gaussians."""


class RunOptions(Protocol):
    """The options of every command that opens a run."""

    data: Path | None
    load_step: int | None
    trust: tuple[str, ...]
    device: Any


def export(options: ExportOptions, console: Console | None = None) -> None:
    """Write the files that the options name.

    Args:
        options: see `ExportOptions`.
        console: the output for the report; None means the terminal.

    Raises:
        SplatkitError: options, run or disk do not allow it; the message says why.
    """
    console = console or Console()
    ranges.check(options, shown=ranges.flag)
    check_outputs(options.output, overwrite=options.overwrite)
    if options.cameras is not None:
        check_camera_folder(options.cameras, overwrite=options.overwrite)
    try:
        run = open_run(options.load_config, options, console)
    except DataError as error:
        raise SplatkitError(f"{error} Without data: splatkit convert CHECKPOINT.ckpt {options.output[0]}") from error
    gaussians = with_sky(run, run_gaussians(run, console), options.sky, console)
    move, offset = split_offset(gaussians, training_to_file(run, options))
    views = HeldOutViews(run.pipeline, options.measure, gaussians) if options.measure else None
    moved = limit_sh_degree(transform(gaussians, move), options.sh_degree)
    for path in options.output:
        written = write_file(path, moved, options.up)
        beside = write_offset(path, offset, options.frame)
        line = f"{written.line()}, {shown_ratio(written.num_bytes, ply_bytes(gaussians))} the run's PLY file"
        if views:
            line += quality(path, moved, views, move)
        say(console, line)
        if beside:
            say(console, f"{beside}: the offset of its coordinates in the frame {options.frame}")
    if options.cameras is not None:
        export_cameras(run, options.cameras, console)
    renderer = run.pipeline.model.renderer
    if views:
        say(console, f"PSNR is against the run's own renders of {len(views)} {views.kind} view(s).")
    if not is_own_class(type(renderer)):
        measured = "; the PSNR above is with it" if views else ""
        say(console, f"Viewers draw these files as 3DGS does, without the run's {renderer.module_name}{measured}.")


def open_run(config: Path, options: RunOptions, console: Console) -> LoadedRun:
    """Load a run, and say which checkpoint it is.

    Args:
        config: the run's config.yml.
        options: which checkpoint, and where the data are.
        console: the output.

    Raises:
        SplatkitError: the run cannot be loaded.
    """
    run = load_run(config, data=options.data, step=options.load_step, device=options.device, trust=options.trust)
    say(console, f"Checkpoint {run.checkpoint}, {run.pipeline.model.num_points:,} Gaussians")
    return run


def all_gaussians(run: LoadedRun) -> Gaussians:
    """The Gaussians of a run, also those that are not finite."""
    model = run.pipeline.model
    return model.training_state.to_splat_model(model.renderer.splat_mode).to_gaussians()


def run_gaussians(run: LoadedRun, console: Console) -> Gaussians:
    """The Gaussians of a run, all finite.

    Raises:
        SplatkitError: none is finite.
    """
    gaussians = all_gaussians(run)
    bad = not_finite(gaussians)
    if not bad.any():
        return gaussians
    if bad.all():
        raise SplatkitError(f"{run.checkpoint}: all {len(gaussians):,} Gaussians are NaN or infinite.")
    say(console, f"{bad.sum():,} Gaussian(s) are NaN or infinite, and left out")
    return gaussians.take(~bad)


def with_sky(run: LoadedRun, gaussians: Gaussians, num: int, console: Console) -> Gaussians:
    """The Gaussians of a run, and a sphere of further ones that show its sky, if it has one.

    Args:
        run: the run.
        gaussians: its Gaussians, all finite.
        num: the number of further ones; 0 for none.
        console: the output.
    """
    renderer = sky_renderer(run)
    if renderer is None:
        return gaussians
    if num == 0:
        say(console, "The sky of the run is left out")
        return gaussians
    cameras = run.pipeline.datamanager.train_dataset.cameras
    centre = cameras.camera_to_worlds[..., :3, 3].reshape(-1, 3).mean(0)
    distances = np.linalg.norm(gaussians.means - centre.cpu().numpy(), axis=1)
    radius = SKY_DISTANCE * max(camera_extent(cameras) or 1.0, float(np.quantile(distances, 0.99)))
    shell = sky_shell(renderer.sky, centre, radius, num, gaussians.sh_degree)
    say(console, f"{num:,} Gaussians at a distance of {radius:.3g} (nerfstudio's units) show the sky")
    behind = shell.arrays()
    arrays = {name: np.concatenate([rows, behind[name]]) for name, rows in gaussians.arrays().items()}
    extra = {
        name: np.concatenate([rows, np.zeros((num, *rows.shape[1:]), rows.dtype)])
        for name, rows in gaussians.extra.items()
    }
    return replace(gaussians, **arrays, extra=extra)


def sky_renderer(run: LoadedRun) -> SkyRenderer[Any] | None:
    """The renderer that has learnt a sky, if the run has one."""
    renderer = part_with(run.pipeline.model.renderer, "sky_degree")
    return renderer if isinstance(renderer, SkyRenderer) and renderer.sky_degree is not None else None


def check_camera_folder(folder: Path, *, overwrite: bool) -> None:
    """Check that the files of cameras can be written, and none is lost by it.

    Raises:
        OptionsError: they cannot.
    """
    try:
        problem = place_problem([folder / name for name in FILES], overwrite=overwrite, other="folder")
    except OSError as error:
        problem = f"{folder} cannot be written: {error.strerror}"
    if problem is not None:
        raise OptionsError([f"--cameras: {problem}"])


def export_cameras(run: LoadedRun, folder: Path, console: Console) -> None:
    """Write the cameras of a run into a folder, and say by how much training has corrected them.

    Raises:
        SplatkitError: they cannot be written.
    """
    optimizer = run.pipeline.model.camera_optimizer
    motions = optimizer.get_correction_matrices().detach().double().cpu()
    write_cameras(run.pipeline.datamanager, motions, folder)
    line = f"{folder}: {', '.join(FILES)}, in the frame dataset"
    if optimizer.config.mode == "off":
        say(console, f"{line}, as the data set has them: the run did not correct poses")
        return
    traces = motions[:, 0, 0] + motions[:, 1, 1] + motions[:, 2, 2]
    degrees = ((traces - 1) / 2).clamp(-1, 1).acos().rad2deg().median()
    extent = camera_extent(run.pipeline.datamanager.train_dataset.cameras) or 1.0
    shift = float(motions[:, :, 3].norm(dim=1).median()) / extent
    say(console, f"{line}; the median camera was turned by {degrees:.2g}° and moved by {shift:.2%} of the scene")


def training_to_file(run: LoadedRun, options: ExportOptions) -> Similarity:
    """The move from the frame of training to the one that the options name.

    Raises:
        SplatkitError: Gaussians cannot follow it.
    """
    move = Similarity.identity()
    if options.frame != "nerfstudio":
        matrix, scale = frame_to_training(run.pipeline.datamanager, options.frame)
        try:
            move = Similarity.from_dataparser(matrix, scale).inverse()
        except FormatError as error:
            raise SplatkitError(f"--frame {options.frame}: {error}") from error
    return move.then(turn_and_scale(options.up, options.scale))


def quality(path: Path, expected: Gaussians, views: HeldOutViews, move: Similarity) -> str:
    """The quality of a file that was just written, as the end of a line."""
    found = formats.read(path)
    try:
        db = views.psnr(found, move)
    except (ModuleError, KeyError):
        lost = [name for name in expected.extra if name not in found.extra]
        if not lost:
            raise
        return f", not measured: the run's renderer draws with {listed(lost, 3)}, which the file does not hold"
    text = ", the same pictures" if db >= EQUAL_DB else f", {db:.2f} dB"
    if found.render_mode != expected.render_mode:
        kind = "antialiased" if expected.render_mode == "mip" else "discs"
        text += f"; the file cannot say that the Gaussians are {kind}, so viewers will draw them otherwise"
    return text


def ply_bytes(gaussians: Gaussians) -> int:
    """Size of an uncompressed PLY file without its header, in bytes."""
    per_gaussian = len(property_names(3 * gaussians.shN.shape[1]))
    per_gaussian += sum(rows[0].size for rows in gaussians.extra.values())
    return len(gaussians) * per_gaussian * np.dtype(np.float32).itemsize
