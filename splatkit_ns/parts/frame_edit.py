"""Changes that a part makes to the training image of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from splatkit_ns.errors import ModuleError


class Crop(NamedTuple):
    """A part of an image, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class FrameEdit:
    """The changes that a hook `pre_step` may return for the step's training image; a value of None changes nothing.

    The crop comes last: the other values have the size of the image as the hook sees it.
    """

    target_frames: Tensor | None = None
    """Another photograph, (1, H, W, 3) in [0, 1]."""
    masks: Tensor | None = None
    """The pixels to use, (1, H, W) bool."""
    pixel_weights: Tensor | None = None
    """The weights of the pixels in the loss, (1, H, W), at least 0; multiplied with those of other parts."""
    crop: Crop | None = None
    """The part of the image to which rendering and comparison are restricted."""

    def check(self, owner: str, height: int, width: int) -> None:
        """Check the kinds of the values, and their shapes against the image.

        Args:
            owner: the hook, for messages.
            height: of the image, in pixels.
            width: of the image, in pixels.

        Raises:
            ModuleError: a value is of another kind or shape, or the crop lies outside.
        """
        for name, shape in (
            ("target_frames", (1, height, width, 3)),
            ("masks", (1, height, width)),
            ("pixel_weights", (1, height, width)),
        ):
            value: Any = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, Tensor):
                raise ModuleError(f"{owner}: {name} of its FrameEdit is {type(value).__name__}, expected a tensor.")
            fits = value.dtype == torch.bool if name == "masks" else value.is_floating_point()
            if tuple(value.shape) != shape or not fits:
                raise ModuleError(
                    f"{owner}: {name} of its FrameEdit is {value.dtype} of shape {tuple(value.shape)}, expected "
                    f"{'booleans' if name == 'masks' else 'floats'} of shape {shape}."
                )
        if self.crop is not None:
            left, top, crop_width, crop_height = self.crop
            inside = left >= 0 and top >= 0 and left + crop_width <= width and top + crop_height <= height
            if min(crop_width, crop_height) < 1 or not inside:
                raise ModuleError(
                    f"{owner}: the crop of its FrameEdit is {tuple(self.crop)} (left, top, width, height), expected a "
                    f"part of the image of {width}×{height} pixels."
                )
