"""The command ``splatkit``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro
from rich.console import Console
from rich.markup import escape

from splatkit_ns.errors import SplatkitError
from splatkit_ns.mesh.options import MeshOptions


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: without the program's name; None means those of the process.

    Returns:
        The exit status: 0, 1 after a mistake that a message has explained, 130 after Ctrl-C. Arguments that do not
        parse end the process with 2.
    """
    options = tyro.extras.subcommand_cli_from_dict(
        {"mesh": MeshOptions}, prog="splatkit", description="What becomes of trained Gaussians.", args=arguments
    )
    try:
        from splatkit_ns.mesh.command import make_mesh  # takes seconds: not for --help

        make_mesh(options)
    except SplatkitError as error:
        Console(stderr=True).print(f"[bold red]Error:[/bold red] {escape(str(error))}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
