"""Checkpoints that are requested during a training step and written when the step is complete."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from splatkit_ns.errors import describe_os_error
from splatkit_ns.splat.checkpoint import write_checkpoint

logger = logging.getLogger("splatkit_ns")

Then = Callable[["OSError | None"], None]
"""A callback with None if a checkpoint has been written, or with the error if it could not be."""


class Request(NamedTuple):
    """A checkpoint that is to be written."""

    path: Path
    step: int | None
    then: Then | None


class CheckpointRequests:
    """Requests for checkpoints other than the trainer's own; all of these are written here.

    Within a step a request waits until all hooks of the step have run, so that a checkpoint never holds half a step.
    Outside of steps it is carried out at once.

    Args:
        make_checkpoint: makes the content of a checkpoint of the present state. Its argument is the last step that was
            trained (0-based), or None for the current one.
        writes: whether this process writes files; if another one does, requests count as carried out.
    """

    def __init__(self, make_checkpoint: Callable[[int | None], dict[str, Any]], writes: bool = True) -> None:
        self._make_checkpoint, self._writes = make_checkpoint, writes
        self._waiting: list[Request] = []
        self._is_collecting = False

    def add(self, path: str | PathLike[str], step: int | None = None, then: Then | None = None) -> None:
        """Request a checkpoint.

        Args:
            path: the file to write, atomically. Its folder is made if it is missing.
            step: the last step that was trained, 0-based; None for the current one.
            then: callback for when the file has been written, or could not be; see `Then`.

        Raises:
            OSError: the request is carried out at once, the file cannot be written, and `then` is None.
        """
        request = Request(Path(path), step, then)
        if self._is_collecting:
            self._waiting.append(request)
        else:
            self._write(request, request.then)

    @contextmanager
    def collected(self) -> Generator[None]:
        """Collect the requests of a step, and carry them out at its end; an exception drops them.

        A full disk is no reason to lose a night's training: a file that cannot be written costs a warning.
        """
        self._is_collecting = True
        try:
            yield
            self._is_collecting = False
            for request in self._waiting:
                self._write(request, request.then or partial(_warn, request.path))
        finally:
            self._is_collecting = False
            self._waiting = []

    def _write(self, request: Request, then: Then | None) -> None:
        try:
            if self._writes:
                write_checkpoint(request.path, self._make_checkpoint(request.step))
        except OSError as error:
            if then is None:
                raise
            then(error)
        else:
            if then is not None:
                then(None)


def _warn(path: Path, error: OSError | None) -> None:
    if error is not None:
        logger.warning("The checkpoint %s could not be written: %s. Training goes on.", path, describe_os_error(error))
