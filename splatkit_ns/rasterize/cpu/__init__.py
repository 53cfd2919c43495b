"""Rasterization on the CPU: numba kernels and torch functions that call them. Importing this imports numba."""

from __future__ import annotations

import hashlib
import importlib
import os
import tempfile
from pathlib import Path

from numba.core import config as numba_config

_KERNEL_MODULES = (
    "lens_point", "projection", "projection_backward", "projection_lens", "projection_lens_backward",
    "sh", "tiles", "compositing", "compositing_backward",
    "projection_2dgs", "projection_2dgs_backward", "compositing_2dgs", "compositing_2dgs_backward",
)  # fmt: skip


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _kernel_cache() -> str:
    """Return a folder for compiled kernels, named after a hash of their source code.

    numba notices a change in a kernel's own file only, not in the constants and helpers that it imports from another:
    without the hash an edit there would leave old kernels in use. `NUMBA_CACHE_DIR`, the package's folder and the
    user's cache folder are tried in turn. If none is writable (a read-only container), the folder is a private
    temporary one, so that kernels are compiled in each process, which takes about 15 seconds.
    """
    here = Path(__file__).parent
    files = [*sorted(here.glob("*.py")), here.with_name("limits.py")]
    sources = b"".join(path.read_bytes() for path in files)
    name = f"kernels-{hashlib.sha256(sources).hexdigest()[:12]}"
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    for parent in (*([Path(chosen)] if chosen else []), here / "__pycache__", user_cache / "splatkit-ns"):
        if _writable(parent / name):
            return str(parent / name)
    return tempfile.mkdtemp(prefix=f"splatkit-{name}-")


def _define_kernels() -> None:
    """Import the kernels while numba's cache folder is ours; a kernel keeps the folder of its definition."""
    before = numba_config.CACHE_DIR  # pyright: ignore[reportAttributeAccessIssue]
    numba_config.CACHE_DIR = CACHE_FOLDER  # pyright: ignore[reportAttributeAccessIssue]
    try:
        for module in _KERNEL_MODULES:
            importlib.import_module(f"{__name__}.{module}")
    finally:
        numba_config.CACHE_DIR = before  # pyright: ignore[reportAttributeAccessIssue]


CACHE_FOLDER = _kernel_cache()
"""The folder of compiled kernels."""
CACHE_IS_KEPT = Path(CACHE_FOLDER).parent != Path(tempfile.gettempdir())
"""Whether the next process can use them, too."""
_define_kernels()
