"""How much space tile lists on CUDA get."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor


@dataclass
class ListSpace:
    """Without a capacity, the lists' length is read back from the device each time."""

    capacity: int | None = None
    """Entries that there is space for; those beyond it, of the farthest Gaussians, are left out."""
    longest: int = 0
    """Entries of the longest lists whose length was read back."""
    needed: Tensor | None = None
    """How many entries the last lists of fixed capacity would have had, (1,) int64 on the device."""


SPACE = ListSpace()
"""That of this process."""


@contextmanager
def fixed_space(capacity: int) -> Generator[ListSpace]:
    """Within it, nothing is read back: for capturing a CUDA graph, which has to do with this capacity ever after."""
    SPACE.capacity, SPACE.needed = capacity, None
    try:
        yield SPACE
    finally:
        SPACE.capacity = SPACE.needed = None
