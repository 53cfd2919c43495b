"""The processes that train together. Nothing else in the package imports `torch.distributed`."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among those that train one run."""

    rank: int = 0
    """The number of this process, from 0; rank 0 writes files, evaluates and logs."""
    size: int = 1
    """The number of processes."""

    @classmethod
    def current(cls) -> Ranks:
        """The ranks of the process group that has been started; one process if there is none."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())
        return cls()
