"""The word of all ranks, once a step, that they have begun it, and how much work earlier images were."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from splatkit_ns.ranks import Ranks


class RollCall:
    """Asks at each step whether all ranks have begun it, and whether one wants to stop, without waiting right away.

    The answers come while the ranks render, so that they cost no time.

    Args:
        ranks: the ranks of this run.
        learn: is told the work of the images of a step, rank by rank, two steps after they were rendered.
    """

    def __init__(self, ranks: Ranks, learn: Callable[[list[int]], None]) -> None:
        self._ranks, self._learn = ranks, learn
        self._answers: Callable[[], list[list[int]]] | None = None
        self.is_last = False
        """Whether a rank wanted to stop when it began the step of the last call; all ranks see the same."""
        self.steps_alike = 0
        """The least number that a rank has given at the last call; all ranks see the same."""

    def call(self, wants_to_stop: bool, works: Sequence[int] = (0,), steps_alike: int = 0) -> None:
        """Say that this rank begins a step.

        Args:
            wants_to_stop: whether it wants to stop after it.
            works: those of its images in the last step but one.
            steps_alike: see `SharedUpdateGraph`.
        """
        self._answers = self._ranks.gather_later([int(wants_to_stop), steps_alike, *works])

    def wait(self) -> None:
        """Wait until all ranks have begun the step.

        Raises:
            RankLost: another rank has ended.
        """
        if self._answers is not None:
            answers, self._answers = self._answers, None
            found = answers()
            self.is_last = any(wants for wants, *_ in found)
            self.steps_alike = min(alike for _, alike, *_ in found)
            self._learn([work for _, _, *works in found for work in works])
