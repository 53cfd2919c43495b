"""Differences between the gsplat versions that users have, and helpers that hide them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor


@lru_cache(maxsize=1)
def gsplat_version() -> tuple[int, int, int]:
    """Return the version of the gsplat that would be imported, as numbers, without importing it.

    It is read from ``version.py``, because several gsplats may be on the path and metadata may belong to another.

    Raises:
        ModuleNotFoundError: gsplat is not installed.
    """
    spec = find_spec("gsplat")
    if spec is None:
        raise ModuleNotFoundError("gsplat is not installed: `pip install gsplat==1.4.0`")
    file = Path(spec.origin or "gsplat/__init__.py").with_name("version.py")
    found = re.search(r"__version__\s*=\s*[\"']([^\"']+)", file.read_text()) if file.is_file() else None
    return parse_version(found[1] if found else metadata.version("gsplat"))


def parse_version(text: str) -> tuple[int, int, int]:
    """Parse '1.5.3+pt24cu121' as (1, 5, 3); missing or non-numeric parts count as 0."""
    parts = text.split("+")[0].split(".")[:3]
    digits = ["".join(c for c in part if c.isdigit()) for part in parts] + ["", "", ""]
    return int(digits[0] or 0), int(digits[1] or 0), int(digits[2] or 0)


def radii_have_axes() -> bool:
    """Whether the installed gsplat gives radii as (C, N, 2), one per axis (since 1.5.0), rather than (C, N)."""
    return gsplat_version() >= (1, 5, 0)


def radii_in_pixels(info: Mapping[str, Any]) -> Tensor:
    """Return radii (C, N) int32 in pixels, 0 for unseen Gaussians, from the `info` of any version and backend.

    If gsplat has one radius per axis, this is the larger one; a Gaussian counts as seen only if both are above 0, as
    in gsplat's own strategies. Packed results give (nnz,).
    """
    radii: Tensor = info["radii"]
    means2d: Tensor = info["means2d"]
    if radii.dim() == means2d.dim():
        return radii.amax(-1) * (radii > 0).all(-1)
    return radii
