"""The memory that a process may still take, and the most that it has used."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import psutil
import torch

GIB = 1024**3
"""Bytes of a gibibyte."""

CONTROL_GROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
"""Files of a control group's limit and use, in versions 2 and 1, and the name of the use that is only a file cache."""


def free_host_memory(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """The bytes of main memory that are available to this process, in a container, too.

    Args:
        groups: the folder in which Linux shows the control group of the process.
    """
    free = int(psutil.virtual_memory().available)
    for limit, use, cache in CONTROL_GROUPS:
        try:
            most, used = int((groups / limit).read_text()), int((groups / use).read_text())
            lines = (groups / limit).with_name("memory.stat").read_text().splitlines()
            cached = next((int(line.split()[1]) for line in lines if line.startswith(f"{cache} ")), 0)
        except (OSError, ValueError):  # no such version, or "max"
            continue
        free = min(free, max(0, most - used + cached))
    return free


def peak_memory(device: torch.device) -> int:
    """The most memory used so far, in bytes: PyTorch's tensors on a GPU, the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
