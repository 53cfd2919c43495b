"""The dealing of training images to ranks."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from nerfstudio.cameras.cameras import Cameras

from splatkit_ns.plugin.data.sampling.image_work import ImageWork
from splatkit_ns.ranks import Ranks


class DrawnImages(Protocol):
    """A datamanager that draws training images in rounds."""

    train_unseen_cameras: list[int]
    """The images that are left of the round, in their order; never empty."""
    work: ImageWork
    """The work that images have been."""

    def sample_train_cameras(self) -> list[int]:
        """Draw the order of a round."""
        ...

    def expect_views(self, indices: Iterable[int], wanted: Callable[[int], bool]) -> None:
        """Read ahead the images that `train_view` will be asked for: these, and then some of the round."""
        ...

    def train_view(self, index: int) -> tuple[Cameras, dict[str, Any]]:
        """A training image and its camera."""
        ...

    def copy_ahead(self, indices: Iterable[int]) -> None:
        """Begin to copy the images of the next step to the GPU."""
        ...


class DealtImages:
    """Deals the training images out to the ranks.

    Every rank draws the same order, and takes a batch of each hand: rank 0 the first, rank 1 the second. A checkpoint
    of the order is that of one process, and each image comes once in a round. Once the work of images is known, those
    of a hand are of about the same work. If a hand takes images of two rounds, an image that is in the hand already
    waits for the next one: no image is twice in a hand.

    Args:
        data: draws the images.
        ranks: the ranks of this run.
        batch_size: the number of images that each rank takes of a hand.
    """

    def __init__(self, data: DrawnImages, ranks: Ranks, batch_size: int = 1) -> None:
        self._data, self._first, self._batch_size = data, ranks.rank * batch_size, batch_size
        self._hand_size = data.work.hand_size = ranks.size * batch_size
        self._batch: list[int] = []
        """The images of this rank in the present hand that it has not taken yet."""
        self._due = deque[Sequence[int] | Mapping[int, int]](data.work.newest)
        """The hands whose work is still to be learnt; for those before a run went on, their work."""

    def next_train(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """The next image of this rank, and its camera."""
        if not self._batch:
            self._batch = self.next_hand()[self._first : self._first + self._batch_size]
            self._data.expect_views(self._batch, self._of_rank)
        view = self._data.train_view(self._batch.pop(0))
        if not self._batch:
            self._data.copy_ahead(self._coming())
        return view

    def _coming(self) -> list[int]:
        """The images of this rank in the next hand, unless a new round begins with it."""
        order = self._data.train_unseen_cameras
        return order[self._first : self._first + self._batch_size] if len(order) >= self._hand_size else []

    def _of_rank(self, place: int) -> bool:
        """Whether this rank takes the image at a place of the order that is left."""
        return 0 <= place % self._hand_size - self._first < self._batch_size

    def next_hand(self) -> list[int]:
        """The images of all ranks in the next step, batch by batch."""
        data, hand, again, draws = self._data, list[int](), list[int](), False
        while len(hand) < self._hand_size:
            image = data.train_unseen_cameras.pop(0)
            (again if image in hand else hand).append(image)
            if not data.train_unseen_cameras:
                data.train_unseen_cameras, draws = data.sample_train_cameras(), True
        data.train_unseen_cameras = again + data.train_unseen_cameras
        generator: random.Random | None = getattr(data, "random_generator", None)  # the strategy "fps" has none
        if draws and generator is not None:
            data.train_unseen_cameras = data.work.in_hands(data.train_unseen_cameras, generator)
        self._due.append(hand)
        return hand

    def learn(self, work: Sequence[int]) -> None:
        """Take the work of the oldest hand whose work is not known, in its order; call it once a step.

        The first two calls are for the hands before a run went on, whose work is known; what they give is not used.
        """
        self._data.work.learn(_by_image(self._due.popleft(), work))
        self._data.work.newest = [{}, {}]

    def keep_newest(self, before: Sequence[int], last: Sequence[int]) -> None:
        """Keep the work of the last hand but one and of the last one for a checkpoint; `learn` takes it when it is due.

        Args:
            before: that of the last hand but one, in its order.
            last: that of the last hand.
        """
        due = [{}, {}, *self._due][-2:]
        self._data.work.newest = [_by_image(hand, work) for hand, work in zip(due, (before, last), strict=True)]


def _by_image(hand: Sequence[int] | Mapping[int, int], work: Sequence[int]) -> dict[int, int]:
    return dict(hand) if isinstance(hand, Mapping) else dict(zip(hand, work, strict=True))
