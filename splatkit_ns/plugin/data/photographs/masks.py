"""The meaning of a data set's masks in training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatkit_ns.plugin.data.errors import DataError

MaskMode = Literal["ignore", "segment", "alpha", "sky"]
Valid = NDArray[np.bool_]


@dataclass(frozen=True)
class MaskUse:
    """The use that training makes of masks."""

    mode: MaskMode = "ignore"
    """See the datamanager's option."""
    inverted: bool = False
    """Whether files mark what is masked out in white."""
    grow: int = 0
    """Pixels by which what is masked out grows; it shrinks by a negative number."""

    @property
    def needs_masks(self) -> bool:
        """Whether data sets without masks cannot be used."""
        return self.mode in ("segment", "sky") or self.inverted or self.grow != 0


def grown(valid: Valid, pixels: int) -> Valid:
    """A mask with what is masked out grown, into all pixels that are not farther from it than a number of pixels.

    Args:
        valid: (H, W), false where it is masked out.
        pixels: the distance between the pixels' centres; what is masked out shrinks by a negative number.
    """
    if pixels == 0 or valid.all() or not valid.any():
        return valid
    kept = valid if pixels > 0 else ~valid
    distances: Any = cv2.distanceTransform(kept.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    far = distances > abs(pixels) + 1e-3
    return far if pixels > 0 else ~far


def without_masked(image: Tensor, valid: Tensor) -> Tensor:
    """The image with what is masked out transparent, (H, W, 4).

    Args:
        image: (H, W, 3 or 4), uint8 or float.
        valid: (H, W, 1) bool.
    """
    pixels, kept = image.numpy(), valid.numpy()
    found = np.empty((*pixels.shape[:2], 4), pixels.dtype)
    found[..., 3:] = pixels[..., 3:] if pixels.shape[2] == 4 else 255 if pixels.dtype == np.uint8 else 1
    found[..., :3] = pixels[..., :3]
    found *= kept  # NumPy's, which starts no threads
    return torch.from_numpy(found)


def solid_pixels(batch: Mapping[str, Any]) -> Valid | None:
    """The pixels of a photograph, (H, W), that are neither masked out nor empty; None if all are."""
    valid: Valid | None = batch["mask"][..., 0].bool().numpy() if "mask" in batch else None
    if batch.get("mask_mode") != "segment" or batch["image"].shape[-1] == 3:
        return valid
    solid: Valid = batch["image"][..., 3].numpy() > 0
    return solid if valid is None else solid & valid


def check_some_pixel_counts(batches: Iterable[Mapping[str, Any]]) -> None:
    """Check that masks leave something of a split; its photographs are read until one has a pixel that counts.

    Raises:
        DataError: no photograph has one.
    """
    number = 0
    for batch in batches:
        solid = solid_pixels(batch)
        if solid is None or solid.any():
            return
        number += 1
    raise DataError(
        f"The masks of the data set leave no pixel of its {number} training images. What counts is white in them; if "
        "it is black: --pipeline.datamanager.mask-inverted True."
    )
