"""The work that the images of steps have been, which the host learns without waiting for the device."""

from __future__ import annotations

import torch

from splatkit_ns.rasterize.tile_list_space import ListSpace


class WorkMeter:
    """Reads the work of each image one step later, when the host waits for the length of the tile lists anyway.

    Work is what `ListSpace.work` counts, or the length of the tile lists where that is not counted.

    Args:
        space: that of the renders of all steps.
        on_device: whether renders count their work, on the present CUDA device.
    """

    def __init__(self, space: ListSpace, on_device: bool) -> None:
        self._space = space
        self._before = torch.zeros(1, dtype=torch.int64, pin_memory=True) if on_device else None
        """The work of the step before, in pinned memory; the device writes it first thing in a step."""
        if on_device:
            space.work = torch.zeros(1, dtype=torch.int64, device="cuda")
        self.length = 0
        """The length of the last step's tile lists; 0 if it is not known."""
        self.before = 0
        """The work of the step before the last one; 0 if it is not known."""

    def begin(self, again: bool = False) -> None:
        """Call this before the render of a step; a CUDA graph can hold what it launches.

        Args:
            again: whether the step has been begun before, in vain.
        """
        if self._space.work is None or self._before is None:
            return
        if not again:
            self._before.copy_(self._space.work, non_blocking=True)
        self._space.work.zero_()

    def note(self, length: int) -> None:
        """Call this once in each step, when the length of its tile lists has been read back from the device.

        Args:
            length: 0 if it has not, since the tile lists are not ours.
        """
        if self._before is None:
            self.before = self.length
        else:  # the device has told the length, so it has copied the work before
            self.before = (int(self._before[0]) or self.length) if length else 0
        self.length = length

    def last(self) -> int:
        """The work of the last step; waits for the device if renders count their work."""
        counted = 0 if self._space.work is None else int(self._space.work)
        return counted or self.length
