"""The command ``splatkit``: one module a subcommand, each with its options and the function that uses them.

Importing them is cheap, so that ``--help`` shows at once: slow imports happen when a command runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tyro
from rich.console import Console
from rich.markup import escape

from splatkit_ns.cli import clean, convert, export, info, mesh, poses, prune, render
from splatkit_ns.errors import SplatkitError

COMMANDS: dict[str, tuple[type[Any], Callable[[Any], object]]] = {
    "clean": (clean.CleanOptions, clean.run),
    "convert": (convert.ConvertOptions, convert.run),
    "export": (export.ExportOptions, export.run),
    "info": (info.InfoOptions, info.run),
    "mesh": (mesh.MeshOptions, mesh.run),
    "poses": (poses.PosesOptions, poses.run),
    "prune": (prune.PruneOptions, prune.run),
    "render": (render.RenderOptions, render.run),
}
"""Options and function of each subcommand."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: without the program's name; None means those of the process.

    Returns:
        The exit status: 0, 1 after a mistake that a message has explained, 130 after Ctrl-C. Arguments that do not
        parse end the process with 2.
    """
    options: Any = tyro.extras.subcommand_cli_from_dict(
        {name: kind for name, (kind, _) in COMMANDS.items()},
        prog="splatkit",
        description="Commands for camera poses and for trained Gaussians.",
        args=arguments,
    )
    run = next(run for kind, run in COMMANDS.values() if isinstance(options, kind))
    try:
        run(options)
    except SplatkitError as error:
        Console(stderr=True).print(f"[bold red]Error:[/bold red] {escape(str(error))}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
