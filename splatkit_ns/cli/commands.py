"""The subcommands of ``splatkit``: the options of each, and the function that does its work.

A function imports its work when it is called, which takes seconds, so that ``splatkit --help`` shows at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from splatkit_ns.cli import convert, info, merge
from splatkit_ns.cli.clean import CleanOptions
from splatkit_ns.cli.export import ExportOptions
from splatkit_ns.cli.prune import PruneOptions
from splatkit_ns.cli.render import RenderOptions
from splatkit_ns.doctor.options import DoctorOptions
from splatkit_ns.environment import environment_variable
from splatkit_ns.mesh.options import MeshOptions
from splatkit_ns.poses.options import PosesOptions

SWITCH = "TORCHDYNAMO_DISABLE"
"""The environment variable with which PyTorch turns `torch.compile` off."""


def clean(options: CleanOptions) -> None:
    """Leave out Gaussians; see `_cleaning.clean`."""
    with without_compiling():
        from splatkit_ns.cli._cleaning import clean

    clean(options)


def doctor(options: DoctorOptions) -> int:
    """Check the machine, and a data set; see `doctor.command.examine`."""
    with without_compiling():
        from splatkit_ns.doctor.command import examine

    return examine(options)


def export(options: ExportOptions) -> None:
    """Write files of a run; see `_exporting.export`."""
    with without_compiling():
        from splatkit_ns.cli._exporting import export

    export(options)


def mesh(options: MeshOptions) -> None:
    """Make a mesh; see `mesh.command.make_mesh`."""
    with without_compiling():
        from splatkit_ns.mesh.command import make_mesh

    make_mesh(options)


def poses(options: PosesOptions) -> None:
    """Compute camera poses; see `poses.command.make_poses`."""
    from splatkit_ns.poses.command import make_poses

    make_poses(options)


def prune(options: PruneOptions) -> None:
    """Keep a number of Gaussians; see `_pruning.prune`."""
    with without_compiling():
        from splatkit_ns.cli._pruning import prune

    prune(options)


def render(options: RenderOptions) -> None:
    """Draw images or a video; see `_rendering.render`."""
    with without_compiling():
        from splatkit_ns.cli._rendering import render

    render(options)


def without_compiling() -> AbstractContextManager[None]:
    """Leave functions that are decorated with `torch.compile` in the block as they are.

    nerfstudio's splatfacto, of which our model is a subclass, decorates a function that we do not use. PyTorch then
    imports its compiler, which takes one to three seconds.
    """
    return environment_variable(SWITCH, "1")


COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int | None]]] = {
    "clean": (CleanOptions, clean),
    "convert": (convert.ConvertOptions, convert.run),
    "doctor": (DoctorOptions, doctor),
    "export": (ExportOptions, export),
    "info": (info.InfoOptions, info.run),
    "merge": (merge.MergeOptions, merge.run),
    "mesh": (MeshOptions, mesh),
    "poses": (PosesOptions, poses),
    "prune": (PruneOptions, prune),
    "render": (RenderOptions, render),
}
"""Options and function of each subcommand; a function may return an exit status."""
