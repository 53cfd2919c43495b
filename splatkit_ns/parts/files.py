"""What modules do when a file cannot be written, before and in the middle of training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from splatkit_ns.errors import ModuleError, describe_os_error
from splatkit_ns.splat import check_writable


def check_output_dir(folder: Any, owner: str) -> None:
    """Check that a module can write into its output folder, and make it.

    Raises:
        ModuleError: it is no path.
        SplatkitError: it cannot be made or written.
    """
    if not isinstance(folder, (str, PathLike)):
        raise ModuleError(
            f"{owner}.output_dir is {folder!r} of type {type(folder).__name__}, expected the path of a folder."
        )
    check_writable(folder, owner)


def told_of_checkpoint(logger: logging.Logger, what: str, path: Path) -> Callable[[OSError | None], None]:
    """For `SplatTrainingState.save_ckpt`: says in the log that a checkpoint has been written, or why it could not be.

    Args:
        logger: the log.
        what: the name of the checkpoint in a warning.
        path: the file.
    """

    def then(error: OSError | None) -> None:
        if error is None:
            logger.info("Saved a checkpoint to %s", path)
        else:
            logger.warning("%s could not be written: %s. Training goes on without.", what, describe_os_error(error))

    return then


def write_or_warn(logger: logging.Logger, what: str, write: Callable[[], object]) -> bool:
    """Write a file; a full disk is no reason to lose a night's training: a warning, and the file is missing.

    Args:
        logger: to warn with.
        what: is written, for the warning.
        write: does it.

    Returns:
        Whether it was written.
    """
    try:
        write()
    except OSError as error:
        logger.warning("%s could not be written: %s. Training goes on without.", what, describe_os_error(error))
        return False
    return True
