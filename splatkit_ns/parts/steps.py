"""The steps at which a module does its work."""

from __future__ import annotations

import logging
from collections.abc import Sequence


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
