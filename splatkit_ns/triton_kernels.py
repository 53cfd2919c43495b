"""Whether kernels in Triton can be used on this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

KernelT = TypeVar("KernelT")

logger = logging.getLogger("splatkit_ns")


def working_kernel(load: Callable[[], KernelT], otherwise: str) -> KernelT | None:
    """A kernel that has been seen to run, or None.

    Args:
        load: imports the kernel, runs it once, and returns it.
        otherwise: what happens without it, for the log.
    """
    try:
        return load()
    except Exception as error:  # no Triton in this torch, or no C compiler for its launchers: many kinds of exception
        logger.info("%s (%s: %s).", otherwise, type(error).__name__, error)
        return None
