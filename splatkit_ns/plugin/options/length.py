"""The length of runs that a method is made for, and settings that fit a shorter run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from splatkit_ns.parts.fitting import fitted
from splatkit_ns.ranges import NonNegative, is_number


@dataclass
class RunLength:
    """The length of runs that a method is made for."""

    full_length: Annotated[int, NonNegative] = 0
    """The number of steps that the method is made for. A run of fewer steps takes schedules that fit it, unless their
    numbers are given; 0 = never."""


def is_short(config: Any) -> bool:
    """Whether a run has fewer steps than its method is made for.

    Args:
        config: of the run; its options need not be in their ranges.
    """
    steps, length = config.max_num_iterations, config.full_length
    return is_number(steps) and is_number(length) and 0 < steps < length


def fit_to_length(config: Any) -> None:
    """Set the settings of a short run to the values that fit it; see `splatkit_ns.parts.fitting`.

    What has been set is plain numbers, so a second call changes nothing, and ``config.yml`` holds what the run uses.
    """
    if is_short(config):
        config.pipeline = fitted(config.pipeline, config.max_num_iterations)
        config.optimizers = fitted(config.optimizers, config.max_num_iterations)
