"""Thumbnails of the training images for the viewer, made from the images as training has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from splatkit_ns.plugin.data.loader.batches import Batches

SHORTER_SIDE = 100
"""The shorter side in pixels to which nerfstudio's viewer reduces images; it does not change images of this size."""


class Thumbnails:
    """A data set for nerfstudio's viewer, in place of one that decodes every image again, in full size.

    Args:
        cameras: the cameras of the training images.
        batches: the images, in the same order.
        shown: the indices of the images that the viewer will ask for, in its order.
        on_background: lays an image with alpha onto the background.
    """

    def __init__(
        self, cameras: Cameras, batches: Batches, shown: Sequence[int], on_background: Callable[[Tensor], Tensor]
    ) -> None:
        self.cameras = cameras
        self._on_background = on_background
        self._batches = batches
        self._coming = batches.in_order(shown)
        self._shown = iter(shown)

    def close(self) -> None:
        """End the threads that read images ahead."""
        self._coming.close()

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The image (h, w, 3) in [0, 1], on the CPU."""
        batch = next(self._coming) if next(self._shown, None) == index else self._batches[index]
        return {"image": thumbnail(self._on_background(batch["image"])).cpu() / 255}


def thumbnail(image: Tensor) -> Tensor:
    """An image whose shorter side is 100 pixels, interpolated like the viewer's.

    Reads only the four neighbours of each pixel: a library would resample the whole image, which takes as long as
    decoding it.

    Args:
        image: (H, W, 3 or 4), uint8 in 0…255 or float in [0, 1].

    Returns:
        (h, w, 3 or 4), whole numbers 0…255 as floats.
    """
    height, width = image.shape[:2]
    shorter = min(height, width)
    above, below, down = _neighbours(height, SHORTER_SIDE * height // shorter, image.device)
    left, right, along = _neighbours(width, SHORTER_SIDE * width // shorter, image.device)
    above, below = above[:, None], below[:, None]
    upper = torch.lerp(_levels(image[above, left]), _levels(image[above, right]), along[:, None])
    lower = torch.lerp(_levels(image[below, left]), _levels(image[below, right]), along[:, None])
    return torch.lerp(upper, lower, down[:, None, None]).round()


def _neighbours(size: int, smaller: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel, the indices of the two source pixels around it, and its distance from the first."""
    places = ((torch.arange(smaller, device=device) + 0.5) * (size / smaller) - 0.5).clamp(0, size - 1)
    before = places.long()
    return before, (before + 1).clamp(max=size - 1), places - before


def _levels(pixels: Tensor) -> Tensor:
    return (pixels * 255).to(torch.uint8).float() if pixels.is_floating_point() else pixels.float()


def show_photographs(viewer: Any, state: Any, data: Any) -> None:
    """Show the training cameras of a run in nerfstudio's viewer, with their photographs.

    Args:
        viewer: nerfstudio's.
        state: of the training, as nerfstudio's trainer has it ("training", "paused", "completed").
        data: the datamanager.
    """
    shown = viewer._pick_drawn_image_idxs(len(data.cached_train))
    dataset = data.train_dataset
    with closing(Thumbnails(dataset.cameras, data.cached_train, shown, dataset.on_background)) as thumbnails:
        viewer.init_scene(thumbnails, state, data.eval_dataset)
