"""Files of a run that are written once, before training, and are needed as long as its checkpoints."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path

from splatkit_ns.files import atomic_write_bytes

logger = logging.getLogger("splatkit_ns")


class KeptFiles:
    """Copies of small files in memory.

    Args:
        folder: the folder of the files.
        names: their names; those that do not exist are left out.
    """

    def __init__(self, folder: Path, names: Iterable[str] = ()) -> None:
        self._folder = folder
        self._contents: dict[str, bytes] = {}
        for name in sorted(names):
            with contextlib.suppress(OSError):  # a run from Python may have no config.yml
                self._contents[name] = (folder / name).read_bytes()

    def put_back(self) -> None:
        """Write those files again that are gone; one that has been changed stays as it is.

        Raises:
            OSError: a file cannot be written.
        """
        gone = [name for name in self._contents if not (self._folder / name).exists()]
        for name in gone:
            atomic_write_bytes(self._folder / name, self._contents[name])
        if gone:
            verb = "is" if len(gone) == 1 else "are"
            logger.warning("%s %s gone from %s: written again.", " and ".join(gone), verb, self._folder)
