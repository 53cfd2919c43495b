"""Event files of TensorBoard, whose package may be missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from splatkit_ns.errors import ModuleError


def event_writer(folder: str | Path, owner: str) -> Any:
    """A `SummaryWriter` of PyTorch, whose import takes a second.

    Args:
        folder: of the event files.
        owner: that which needs the package, for the message.

    Raises:
        ModuleError: the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise ModuleError(f"{owner} needs the package tensorboard ({error}): pip install tensorboard") from error
    return SummaryWriter(str(folder))
