"""The dealing of training images to ranks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from nerfstudio.cameras.cameras import Cameras

from splatkit_ns.ranks import Ranks


class DrawnImages(Protocol):
    """A datamanager that draws training images in rounds."""

    train_unseen_cameras: list[int]
    """The images that are left of the round, in their order; never empty."""

    def sample_train_cameras(self) -> list[int]:
        """Draw the order of a round."""
        ...

    def expect_views(self, indices: Iterable[int], first: int, every: int) -> None:
        """Read ahead the images that `train_view` will be asked for: these, and then some of the round."""
        ...

    def train_view(self, index: int) -> tuple[Cameras, dict[str, Any]]:
        """A training image and its camera."""
        ...


class DealtImages:
    """Deals the training images out to the ranks.

    Every rank draws the same order, and takes one image of each hand: rank 0 the first, rank 1 the second. So the hands
    one after the other are the images of one process, in its order, and a checkpoint of the order is that of one
    process. Only if a hand takes images of two rounds, an image that is in the hand already waits for the next one: no
    image is twice in a hand.

    Args:
        data: draws the images.
        ranks: the ranks of this run.
    """

    def __init__(self, data: DrawnImages, ranks: Ranks) -> None:
        self._data, self._ranks = data, ranks

    def next_train(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """The image of this rank in the next hand, and its camera."""
        image = self.next_hand()[self._ranks.rank]
        self._data.expect_views([image], self._ranks.rank, self._ranks.size)
        return self._data.train_view(image)

    def next_hand(self) -> list[int]:
        """The images of all ranks in the next step, by rank."""
        data, hand, again = self._data, list[int](), list[int]()
        while len(hand) < self._ranks.size:
            image = data.train_unseen_cameras.pop(0)
            (again if image in hand else hand).append(image)
            if not data.train_unseen_cameras:
                data.train_unseen_cameras = data.sample_train_cameras()
        data.train_unseen_cameras = again + data.train_unseen_cameras
        return hand
