"""The steps at which something happens that does not happen at every step."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence, Sized
from typing import Any


def reachable_steps(
    owner: str, name: str, steps: Sequence[int], max_steps: int, logger: logging.Logger
) -> frozenset[int]:
    """Return the steps as a set; warn of those that the run does not reach.

    Args:
        owner: name of the module, for messages.
        name: name of its setting, for messages.
        steps: 1-based; the last step of a run is ``max_steps``.
        max_steps: the last step of the run; steps beyond it cause the warning.
        logger: the log for the warning.
    """
    beyond = sorted(step for step in steps if step > max_steps)
    if beyond:
        logger.warning(
            "%s.%s: %s will not be reached, the run ends at step %d. Add %d to include the last step.",
            owner,
            name,
            ", ".join(map(str, beyond)),
            max_steps,
            max_steps,
        )
    return frozenset(steps)


def no_steps(steps: Any) -> bool:
    """Whether a setting names no steps. A value that is no list is left to the check of settings."""
    return steps is None or (isinstance(steps, Sized) and len(steps) == 0)  # not `not`: it may be NumPy's array


def is_due(step: int, every: int, images_per_step: int = 1) -> bool:
    """Whether what a part does every n-th step is to be done after this one.

    Steps count images. If ranks train several images at once, not every number is a step: then it happens after the
    first step that has reached a multiple of n.

    Args:
        step: 1-based, the number of images so far.
        every: at least 1.
        images_per_step: the difference of two steps.
    """
    return step // every > (step - images_per_step) // every


def reaches(step: int, every: int, images_per_step: int) -> bool:
    """Whether what happens every n-th step, as nerfstudio counts, happens after this one.

    Args:
        step: the last one that was trained, 0-based; not at step 0 itself.
        every: n; 0 means never.
        images_per_step: see `is_due`.
    """
    return 0 < every <= step and is_due(step, every, images_per_step)


def reaches_one_of(step: int, steps: Collection[int], images_per_step: int = 1) -> bool:
    """Whether this step is the first that has reached one of these; see `is_due`."""
    return any(number in steps for number in range(step - images_per_step + 1, step + 1))
