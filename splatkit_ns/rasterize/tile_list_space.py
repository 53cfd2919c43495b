"""The space that tile lists on CUDA get."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

LONGEST = 512
"""The extra weight of the entries of a render's longest list: the program that blends it is still at work when all
others have ended. On an H200, each of its entries takes as long as 300 to 2,800 of all lists."""


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
    work: Tensor | None = None
    """Counts the work of blending if it is there, (1,) int64 on the device: each adds its `blending_work`."""

    @contextmanager
    def fixed(self, capacity: int) -> Generator[None]:
        """Fix the capacity within the block, so that the host does not wait; a captured CUDA graph keeps it."""
        self.capacity, self.was_used = capacity, False
        try:
            yield
        finally:
            self.capacity = None


def blending_work(lasts: Tensor, tile_size: int) -> Tensor:
    """A number that grows with the time of blending, scalar int64.

    It counts the list entries that are blended, and those of the tile with most of them `LONGEST` times more. A tile
    blends its list up to the last entry that one of its pixels sees; what is behind something opaque does not count.

    Args:
        lasts: for each pixel the number of entries of its tile's list up to the last that it sees, (C, H, W) int32.
        tile_size: pixels.
    """
    cameras, height, width = lasts.shape
    lasts = torch.nn.functional.pad(lasts, (0, -width % tile_size, 0, -height % tile_size))
    tiles = lasts.view(cameras, lasts.shape[1] // tile_size, tile_size, lasts.shape[2] // tile_size, tile_size)
    blended = tiles.amax((2, 4)).long()
    return blended.sum() + LONGEST * blended.max()
