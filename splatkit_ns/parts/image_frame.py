"""The camera and the photograph that an image model makes an image for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from splatkit_ns.cameras import View


@dataclass(frozen=True, eq=False)
class ImageFrame:
    """One image, as `SplatImageModel.apply` sees it."""

    view: View
    """The camera, of one image."""
    image_index: Tensor | None = None
    """The number of the training photograph, (1,) int64 on the device; None for views without a photograph.

    A tensor, so that a CUDA graph reads that of each step: take rows of parameters with ``index_select(0, …)``."""
    image_name: str = ""
    """The file name of the photograph."""
    step: int = 0
    """The step of training, 1-based; 0 outside of it."""
