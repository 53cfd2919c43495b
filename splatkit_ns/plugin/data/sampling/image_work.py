"""The work that each training image has been, by which images that ranks render at the same time are put together."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

HANDS_IN_WINDOW = 8
"""The least number of hands that are matched together: many, so that an image does not always meet the same others."""
WINDOWS_IN_ROUND = 8
"""The number of pieces of a long round that are matched on their own."""


class ImageWork:
    """The work of images, and orders in which each hand, the images of one step, is of images that are like work.

    The ranks of a step wait for its slowest image. All ranks have the same numbers, and put images into the same order.
    """

    def __init__(self) -> None:
        self.hand_size = 1
        """The number of images of a hand: those of all ranks in a step."""
        self._known: dict[int, int] = {}
        self.newest: list[dict[int, int]] = [{}, {}]
        """The work of the last hand but one before a checkpoint and of the last one, which a run that goes on learns
        when the run before did."""

    def learn(self, work: Mapping[int, int]) -> None:
        """Take the work of images, by index, in place of what it has been before; 0 means that it is not known."""
        self._known.update({image: value for image, value in work.items() if value > 0})

    def next_round(self, left: Sequence[int], drawn: Sequence[int], generator: random.Random) -> list[int]:
        """A round as it will be put into order if nothing is learnt until then.

        Args:
            left: the images that are left of the present round.
            drawn: the order that is drawn for the next one.
            generator: the one it has been drawn with.
        """
        begun = -len(left) % self.hand_size  # images of the next round are in the last hand of this one
        return [*drawn[:begun], *self.in_hands(drawn[begun:], generator)]

    def in_hands(self, images: Sequence[int], generator: random.Random) -> list[int]:
        """Put the rest of a round, in random order, into another random order, in hands of images that are like work.

        Args:
            images: their indices; a hand begins with the first.
            generator: for the order of the hands; not used if there is nothing to match.
        """
        size = self.hand_size
        whole = len(images) // size * size
        if size == 1 or not any(image in self._known for image in images):
            return list(images)
        window = max(HANDS_IN_WINDOW, whole // size // WINDOWS_IN_ROUND) * size
        hands: list[list[int]] = []
        for start in range(0, whole, window):
            alike = sorted(images[start : min(start + window, whole)], key=lambda image: self._known.get(image, 0))
            hands += [alike[i : i + size] for i in range(0, len(alike), size)]
        generator.shuffle(hands)
        for hand in hands:
            generator.shuffle(hand)  # else the last rank would always have the most work
        return [image for hand in [*hands, images[whole:]] for image in hand]

    def state(self) -> dict[str, Any]:
        """All that is known, as numbers that a checkpoint can hold; empty if nothing is."""
        state: dict[str, Any] = {}
        if self._known:
            state["train_work"] = _stored(self._known)
        if any(self.newest):
            state["last_train_work"] = [_stored(work) for work in self.newest]
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state` has returned.

        Raises:
            ValueError: the numbers are not such.
        """
        self._known = _pairs(state.get("train_work", []))
        of_earlier_versions = [[], state.get("newest_train_work", [])]  # they learnt an image's work a step sooner
        last = state.get("last_train_work", of_earlier_versions)
        if not isinstance(last, list) or len(last) != 2:
            raise ValueError(f"the work of images must be pairs of numbers for two steps, found {last!r:.60}")
        self.newest = [_pairs(stored) for stored in last]


def _stored(work: Mapping[int, int]) -> list[list[int]]:
    return [[image, value] for image, value in work.items()]


def _pairs(stored: Any) -> dict[int, int]:
    pairs = stored if isinstance(stored, list) else [stored]
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(n, int) and n >= 0 for n in pair):
            raise ValueError(f"the work of images must be a list of pairs of numbers, found {stored!r:.60}")
    return dict(pairs)
