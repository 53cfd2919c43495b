"""Gaussian Splatting for nerfstudio, made of parts that people can swap.

The names for notebooks are here: `render`, cameras and files. They are imported when they are first used, because
nerfstudio's commands import this package to find its methods.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splatkit_ns.camera_paths import orbit, path
    from splatkit_ns.cameras import View
    from splatkit_ns.image_files import save_image, save_images, save_video
    from splatkit_ns.rendering import render, turntable
    from splatkit_ns.splat.model import SplatModel
    from splatkit_ns.tours import tour

_HOMES = {
    "SplatModel": "splat.model",
    "View": "cameras",
    "orbit": "camera_paths",
    "path": "camera_paths",
    "render": "rendering",
    "save_image": "image_files",
    "save_images": "image_files",
    "save_video": "image_files",
    "tour": "tours",
    "turntable": "rendering",
}
"""The module that defines each name."""

__all__ = [
    "SplatModel",
    "View",
    "orbit",
    "path",
    "render",
    "save_image",
    "save_images",
    "save_video",
    "tour",
    "turntable",
]


def __getattr__(name: str) -> Any:
    """The names of `__all__`, imported at their first use (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
