"""How people hear from us: nerfstudio's console, one message for a mistake, no traceback."""

from __future__ import annotations

import logging
import sys
from types import TracebackType

from nerfstudio.utils import profiler, writer
from nerfstudio.utils.rich_utils import CONSOLE
from rich.logging import RichHandler
from rich.markup import escape

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.opening_errors import checkpoint_error

_reported: set[str] = set()


def report_once(message: str) -> None:
    """Print a note the first time it comes up."""
    if message not in _reported:
        _reported.add(message)
        CONSOLE.print(f"[bold yellow]Note:[/bold yellow] {escape(message)}")


def connect_logging() -> None:
    """Show what `logging.getLogger("splatkit_ns")` says on nerfstudio's console."""
    logger = logging.getLogger("splatkit_ns")
    if not logger.handlers:
        logger.addHandler(RichHandler(console=CONSOLE, show_path=False))
        logger.setLevel(logging.INFO)
        logger.propagate = False


def install_excepthook() -> None:
    """Let a `SplatkitError` that nobody catches end the process with its message alone, and exit status 1.

    The ``ns-*`` commands are nerfstudio's own; this is the one place where a plugin can spare their users a traceback
    for a mistake in their data, or a checkpoint that is gone or damaged. All other exceptions look as before.
    """
    previous = sys.excepthook
    if getattr(previous, "is_splatkit", False):
        return

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        told = error if isinstance(error, SplatkitError) else checkpoint_error(error, traceback)
        if told is not None:
            CONSOLE.print(f"[bold red]Error:[/bold red] {escape(str(told))}", soft_wrap=True)
        else:
            previous(kind, error, traceback)

    hook.is_splatkit = True  # type: ignore[attr-defined]
    sys.excepthook = hook


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
