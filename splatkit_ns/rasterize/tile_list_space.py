"""The space that tile lists on CUDA get."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor


@dataclass
class ListSpace:
    """The space for the tile lists of the renders that use this object, and the space that they needed.

    Without a capacity, the lists' length is read back from the device each time.
    """

    capacity: int | None = None
    """The number of entries that there is space for; those beyond it, of the farthest Gaussians, are left out."""
    was_used: bool = False
    """Whether lists of fixed capacity have been made since `fixed` began."""
    longest: int = 0
    """The number of entries of the longest lists whose length was read back."""
    needed: Tensor | None = None
    """The number of entries that lists of fixed capacity would have had, (1,) int64 in pinned memory; it is written as
    soon as the device knows it."""

    @contextmanager
    def fixed(self, capacity: int) -> Generator[None]:
        """Fix the capacity within the block, so that the host does not wait; a captured CUDA graph keeps it."""
        self.capacity, self.was_used = capacity, False
        try:
            yield
        finally:
            self.capacity = None
