"""What modules do when a file cannot be written in the middle of training."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

from splatkit_ns.errors import describe_os_error


@contextmanager
def training_goes_on(logger: logging.Logger, what: str) -> Generator[None]:
    """A full disk is no reason to lose a night's training: a warning, and what the block would have written is missing.

    Args:
        logger: to warn with.
        what: the block writes, for the warning.
    """
    try:
        yield
    except OSError as error:
        logger.warning("%s could not be written: %s. Training goes on without.", what, describe_os_error(error))
