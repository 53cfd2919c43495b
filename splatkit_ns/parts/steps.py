"""The steps at which a module is asked to do something."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from splatkit_ns.errors import ModuleError


def check_steps(owner: str, name: str, steps: Iterable[Any], max_steps: int, logger: logging.Logger) -> frozenset[int]:
    """The steps as a set, after checks.

    Args:
        owner: name of the module, for messages.
        name: name of its setting, for messages.
        steps: 1-based; the last step of a run is ``max_steps``.
        max_steps: steps beyond it are warned of.
        logger: where the warning goes.

    Raises:
        ModuleError: it is no list, or something in it is no whole number of at least 1.
    """
    if isinstance(steps, str) or not isinstance(steps, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ModuleError(
            f"{owner}.{name} is {steps!r}, expected a list of whole numbers from 1 to max_steps ({max_steps}), such as "
            f"[{max_steps}]."
        )
    wrong = [step for step in steps if isinstance(step, bool) or not isinstance(step, int) or step < 1]
    if wrong:
        raise ModuleError(
            f"{owner}.{name} holds {wrong[0]!r}, expected whole numbers from 1 to max_steps ({max_steps})."
        )
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
