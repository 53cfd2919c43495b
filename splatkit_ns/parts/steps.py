"""The steps at which a module is asked to do something."""

from __future__ import annotations

import logging
from collections.abc import Sequence


def reachable_steps(
    owner: str, name: str, steps: Sequence[int], max_steps: int, logger: logging.Logger
) -> frozenset[int]:
    """The steps as a set; those that a run does not reach are warned of.

    Args:
        owner: name of the module, for messages.
        name: name of its setting, for messages.
        steps: 1-based; the last step of a run is ``max_steps``.
        max_steps: steps beyond it are warned of.
        logger: where the warning goes.
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
