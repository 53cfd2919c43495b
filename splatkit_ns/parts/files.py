"""The writing of modules' files: a check of the folder before training, and a warning if a write fails during it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from splatkit_ns.errors import ModuleError, describe_os_error
from splatkit_ns.files import check_writable


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
    """Make the callback of `SplatTrainingState.save_ckpt`; it logs that a checkpoint was written, or why it was not.

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
    """Write a file. If that fails, such as on a full disk, warn and go on without it, so that no training is lost.

    Args:
        logger: to warn with.
        what: the name of the file's content, for the warning.
        write: the function that writes the file.

    Returns:
        Whether it was written.
    """
    try:
        write()
    except OSError as error:
        logger.warning("%s could not be written: %s. Training goes on without.", what, describe_os_error(error))
        return False
    return True
