"""``splatkit mesh``: from a run's config.yml to a mesh file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from splatkit_ns.errors import SplatkitError, describe_os_error
from splatkit_ns.files import check_writable
from splatkit_ns.formats.offset_files import write_offset
from splatkit_ns.memory import GIB, free_host_memory
from splatkit_ns.mesh.frames import turned
from splatkit_ns.mesh.fusion import fuse
from splatkit_ns.mesh.options import MeshOptions, check_options, output_path
from splatkit_ns.mesh.run_views import RunViews
from splatkit_ns.mesh.scale import FusionSizes, choose_sizes
from splatkit_ns.mesh.surface import Mesh, drop_small_components
from splatkit_ns.mesh.writing import write_mesh
from splatkit_ns.plugin.loading import load_run
from splatkit_ns.printing import say, warn

COARSE_SIDE = 200
"""Pixels of the longest side of the pictures that sizes and memory are estimated from."""
MEMORY_SHARE = 0.8

T = TypeVar("T")


def make_mesh(options: MeshOptions, console: Console | None = None) -> Path:
    """Make the mesh that the options describe.

    Args:
        options: see `MeshOptions`.
        console: the output for progress and figures; None means the terminal.

    Returns:
        The file that was written.

    Raises:
        SplatkitError: options, run or scene do not allow it; the message says how to change that.
    """
    console = console or Console()
    check_options(options)
    path = output_path(options)
    run = load_run(
        options.load_config, data=options.data, step=options.load_step, device=options.device, trust=options.trust
    )
    check_writable(path.parent, "splatkit mesh")  # makes the folder, so it comes after the check that the config exists
    say(console, f"Checkpoint {run.checkpoint}, {run.pipeline.model.num_points:,} Gaussians")
    views = RunViews(run.pipeline, options.min_accumulation)
    frame = views.frame(options.frame)
    sizes = _sizes(options, views, frame.scale, console)
    if not views.has_surface_depth:
        warn(
            console,
            "this renderer's depth is an average over the Gaussians along each ray, which lies before or behind "
            "surfaces. Runs of splatkit-2dgs give better surfaces.",
        )
    mesh = fuse(_shown(views.views(), "Fusing", len(views), console), sizes)
    mesh = _finished(mesh, options, console)
    offset = frame.offset_of(mesh)
    up = "-y" if options.up == "minus-y" else options.up
    mesh, offset = turned(frame.mesh_to_original(mesh, offset), offset, up)
    try:
        write_mesh(path, mesh)
    except OSError as error:
        raise SplatkitError(f"--output: {describe_os_error(error)}.") from error
    beside = write_offset(path, offset, options.frame)
    if beside is not None:
        say(console, f"{beside}: the offset of its coordinates, which are far from the origin")
    say(console, f"{path}: {len(mesh.vertices):,} vertices, {len(mesh.triangles):,} triangles")
    return path


def _sizes(options: MeshOptions, views: RunViews, unit: float, console: Console) -> FusionSizes:
    """Choose the sizes of the fusion from the scene at low resolution, and print them."""
    downscale = max(1.0, views.longest_side / COARSE_SIDE)
    coarse = list(_shown(views.views(downscale), "Looking at the scene", len(views), console))
    share = MEMORY_SHARE * free_host_memory() if options.max_memory is None else options.max_memory * GIB
    given = {
        name: None if (value := getattr(options, name)) is None else value * unit
        for name in ("voxel_size", "truncation", "depth_limit")
    }
    sizes = choose_sizes(
        coarse, downscale=downscale, seed_points=views.seed_points, memory=int(share), unit=unit, **given
    )
    say(
        console,
        f"Voxels of {sizes.voxel_size / unit:.4g}, truncation at {sizes.truncation / unit:.4g}, depth up to "
        f"{sizes.depth_limit / unit:.4g}; about {sizes.num_blocks:,} blocks and {sizes.memory / GIB:.2g} GiB",
    )
    return sizes


def _finished(mesh: Mesh, options: MeshOptions, console: Console) -> Mesh:
    mesh, dropped = drop_small_components(mesh, options.keep_components, options.min_component_share)
    if dropped:
        say(console, f"Dropped {dropped:,} small piece(s), not connected to the others")
    if len(mesh.triangles) == 0:
        raise SplatkitError(
            "Nothing is left of the mesh: its pieces are all smaller than --min-component-share, or the voxels are "
            "larger than what is to be seen (--voxel-size)."
        )
    return mesh


def _shown(views: Iterable[T], description: str, total: int, console: Console) -> Iterator[T]:
    """The same, with a progress bar in a terminal."""
    yield from track(views, description, total=total, console=console, disable=not console.is_terminal)
