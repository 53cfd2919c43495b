"""Rasterization on the CPU: numba kernels and their torch wiring. Importing this imports numba."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from numba.core import config as numba_config


def _can_write_below(folder: Path) -> bool:
    """Whether `folder` is writable, or could be made in the nearest folder above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _ensure_kernel_cache() -> None:
    """Give numba a place for compiled kernels where it would find none and refuse to define them.

    It tries the package's folder, then the user's cache folder. With neither (a read-only container), a private
    temporary folder: kernels are then compiled in each process, about 15 seconds.
    """
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    if numba_config.CACHE_DIR or _can_write_below(Path(__file__).parent) or _can_write_below(user_cache):  # pyright: ignore[reportAttributeAccessIssue]
        return
    numba_config.CACHE_DIR = tempfile.mkdtemp(prefix="splatkit-kernels-")  # pyright: ignore[reportAttributeAccessIssue]


_ensure_kernel_cache()
