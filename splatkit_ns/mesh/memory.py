"""The memory that is available."""

from __future__ import annotations

from pathlib import Path

GIB = 1024**3
_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Files of a container's limit and use, version 2 and version 1; cached file content counts as used, and is free."""


def available_memory() -> int | None:
    """Bytes that can still be allocated without swapping, in this container or machine; None if it is unknown."""
    candidates = [_machine(), *(_container(*names) for names in _LIMITS)]
    known = [value for value in candidates if value is not None]
    return min(known) if known else None


def _machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
    return sizes.get("MemAvailable")


def _container(limit: str, used: str, statistics: str, reclaimable: str) -> int | None:
    try:
        most, now = int((_CGROUP / limit).read_text()), int((_CGROUP / used).read_text())
        rows = dict(line.split() for line in (_CGROUP / statistics).read_text().splitlines())
    except (OSError, ValueError):  # no such file, or "max"
        return None
    return max(0, most - now + int(rows.get(reclaimable, 0)))
