"""The memory that a process may still take, and the most that it has used."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
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

ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""The environment variables by which a user sets PyTorch's memory of GPUs."""
PROBE = 32 * 1024**2
"""Bytes that no block of memory which PyTorch has already is likely to hold."""


def let_gpu_memory_grow(device: torch.device) -> None:
    """Let PyTorch lengthen its blocks of GPU memory, instead of adding new ones, so that they fit what grows.

    Gaussians, and the CUDA graphs that hold them, become a little larger dozens of times in a run. Each time, what was
    freed is a little too small, so that a run takes two to three times the memory of its tensors. Settings of users
    count instead; where the driver cannot do this, as on some virtual GPUs, all stays as it is.
    """
    if device.type != "cuda" or sys.platform != "linux" or any(map(os.environ.get, ALLOCATOR_VARIABLES)):
        return
    _set_allocator("expandable_segments:True")
    try:
        torch.empty(PROBE, dtype=torch.uint8, device=device)
    except RuntimeError:
        _set_allocator("expandable_segments:False")


def _set_allocator(settings: str) -> None:
    """Set PyTorch's memory of GPUs; its versions have different names for that."""
    found = getattr(torch._C, "_accelerator_setAllocatorSettings", None)  # type: ignore[reportPrivateUsage]
    found = found or getattr(torch.cuda.memory, "_set_allocator_settings", None)
    with suppress(RuntimeError):  # a version that does not know the setting
        if found is not None:
            found(settings)


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
