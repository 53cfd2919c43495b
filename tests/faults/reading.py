"""What every reader of files promises for every input. Imports little, for the programs that fuzz the readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from splatkit_ns import formats
from splatkit_ns.formats import FormatError


def read_or_refused(data: bytes, path: Path, room: int = 1) -> bool:
    """Reading either says what is wrong or gives finite Gaussians, no more than the file has bytes for.

    Returns:
        Whether it was read.
    """
    path.write_bytes(data)
    found, message = None, ""
    try:
        found = formats.read(path)
    except FormatError as error:
        message = str(error)
    if found is None:
        assert str(path) in message
        assert len(message) < 1000
    else:
        assert all(np.isfinite(value).all() for value in found.arrays().values())
        assert 0 < len(found) <= room * len(data)
    return found is not None
