"""Console output, through nerfstudio's console: notes, log messages and the results of a run."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from nerfstudio.utils import profiler, writer
from nerfstudio.utils.rich_utils import CONSOLE
from rich import box
from rich.logging import RichHandler
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from splatkit_ns.lasting_output import make_output_last

_reported: set[str] = set()
_collected: list[str] | None = None
"""The notes of a block of `collected_notes`."""


def report_once(message: str) -> None:
    """Print a note, unless it has been printed before."""
    if message not in _reported:
        _reported.add(message)
        if _collected is None:
            CONSOLE.print(f"[bold yellow]Note:[/bold yellow] {escape(message)}")
        else:
            _collected.append(message)


@contextmanager
def collected_notes() -> Generator[list[str]]:
    """A block whose notes are put into a list, each once, and not printed."""
    global _collected
    before = _collected, _reported.copy()
    _reported.clear()
    _collected = []
    try:
        yield _collected
    finally:
        _collected = before[0]
        _reported.clear()
        _reported.update(before[1])


def connect_logging() -> None:
    """Show the messages of `logging.getLogger("splatkit_ns")` on nerfstudio's console, which never fails from now on.

    See `make_output_last`.
    """
    make_output_last()
    logger = logging.getLogger("splatkit_ns")
    if not logger.handlers:
        logger.addHandler(RichHandler(console=CONSOLE, show_path=False))
        logger.setLevel(logging.INFO)
        logger.propagate = False


@contextmanager
def quiet_console() -> Generator[None]:
    """A block in which nerfstudio's console prints nothing."""
    before, CONSOLE.quiet = CONSOLE.quiet, True
    try:
        yield
    finally:
        CONSOLE.quiet = before


def print_results(folder: Path, checkpoint_dir: Path, held_out: Mapping[str, object]) -> None:
    """Print where the results of a run are.

    Args:
        folder: of the run.
        checkpoint_dir: the folder of its checkpoints.
        held_out: further rows, name -> value; None leaves one out.
    """
    table = Table(title=None, show_header=False, box=box.MINIMAL)
    table.add_row("Config File", escape(str(folder / "config.yml")))
    table.add_row("Checkpoint Directory", escape(str(checkpoint_dir)))
    for name, value in held_out.items():
        if value is not None:
            table.add_row(name, escape(str(value)))
    CONSOLE.print(Panel(table, title="[bold green]Training Finished[/bold green]", expand=False))


def reset_writers() -> None:
    """Forget the writers of an earlier run: nerfstudio keeps them in globals, and would write into both runs' files."""
    for event_writer in writer.EVENT_WRITERS:
        tensorboard = getattr(event_writer, "tb_writer", None)
        if tensorboard is not None:
            tensorboard.close()
    writer.EVENT_WRITERS.clear()
    writer.EVENT_STORAGE.clear()
    writer.GLOBAL_BUFFER.clear()
    profiler.PROFILER.clear()
