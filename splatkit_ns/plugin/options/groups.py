"""Options of single groups of parameters, such as those of the Gaussians and those that parts own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from splatkit_ns.errors import OptionsError, did_you_mean
from splatkit_ns.parts.nesting import with_held_parts
from splatkit_ns.plugin.run.opaque_parts import part_itself
from splatkit_ns.ranges import NonNegative, Positive, Range, at_least, flag

logger = logging.getLogger("splatkit_ns")


@dataclass
class GroupOptions:
    """Changes to the optimizers and schedules of single groups of parameters, by the name of the group."""

    learning_rates: dict[str, float] = field(default_factory=dict[str, float])
    """Learning rates by group of parameters, also of groups that parts own: sh0 0.005 Exposure.log_gain 0.01. A
    schedule keeps its shape: if the old rate falls to a tenth, so does the new one."""
    final_learning_rates: dict[str, float] = field(default_factory=dict[str, float])
    """Learning rates of the last step, by group; the rate falls to it exponentially."""
    warmup_steps: dict[str, int] = field(default_factory=dict[str, int])
    """The number of first steps in which the learning rate rises from 0, by group."""
    max_norms: dict[str, float] = field(default_factory=dict[str, float])
    """Norms to which gradients are clipped, by group."""


RANGES: dict[str, Range] = {
    "learning_rates": Positive,
    "final_learning_rates": Positive,
    "warmup_steps": NonNegative,
    "max_norms": Positive,
    "gradient_accumulation_steps": at_least(1),
}
"""The options that have a value for each group, with the range of the values."""
WHOLE = ("warmup_steps", "gradient_accumulation_steps")
"""The options whose values are whole numbers."""


def group_problems(config: Any, shown: Callable[[str], str], modules: Sequence[Any] | None) -> list[str]:
    """The problems of the options of groups, one line each.

    Names are checked only if no part can have parameters of its own: what a part owns is known once the data is there,
    see `check_groups`.

    Args:
        config: the config of the run.
        shown: gives the name that messages use for an option, from its place in the config.
        modules: the run's modules besides those of the config; None if parts of the run are not known yet.
    """
    problems: list[str] = []
    for option, name, value in _given(config):
        complaint = RANGES[option].complaint(value)
        if complaint is None and option in WHOLE and not isinstance(value, int):
            complaint = f"is {value}, expected a whole number"
        if complaint is not None:
            problems.append(f"{shown(option)} of {name} {complaint}")
    if modules is not None and not _may_own_parameters(config, modules):
        problems += _unknown_groups(config, config.optimizers, shown)
    return problems


def check_groups(config: Any, groups: Collection[str]) -> None:
    """Check the names of groups in the options against those of the run.

    Args:
        config: the config of the run.
        groups: the groups of parameters that the run trains.

    Raises:
        OptionsError: an option names a group that does not exist; the message names the nearest ones.
    """
    gaussians = [name for name in config.optimizers if "." not in name]  # camera_opt is no group if cameras are fixed
    problems = _unknown_groups(config, dict.fromkeys([*groups, *gaussians]), flag)
    if problems:
        raise OptionsError(problems)
    unused = [name for name in config.optimizers if "." in name and name not in groups]
    if unused:
        logger.warning("The method has optimizers for %s, which no part of this run owns.", ", ".join(unused))


def _given(config: Any) -> Iterator[tuple[str, str, Any]]:
    """Each option of groups, with the name and the value that it gives."""
    for option in RANGES:
        for name, value in getattr(config, option).items():
            yield option, name, value


def _unknown_groups(config: Any, known: Collection[str], shown: Callable[[str], str]) -> list[str]:
    problems: list[str] = []
    for option, name, _ in _given(config):
        if name not in known:
            hint = did_you_mean(name, known)
            problems.append(f"{shown(option)} names the group {name!r}, which does not exist; {hint}")
    return problems


def _may_own_parameters(config: Any, modules: Sequence[Any]) -> bool:
    model: Any = config.pipeline.model
    parts = [model.renderer, model.image_model, model.loss_fn, model.densification, *config.attached, *modules]
    return bool(config.modules.own) or any(
        part.may_own_parameters for part in with_held_parts([part_itself(part) for part in parts])
    )
