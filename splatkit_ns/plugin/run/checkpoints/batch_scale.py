"""Learning rates and moments of steps of several images, and their form in checkpoints, which is that of one image.

The rules are those of Grendel-GS (https://arxiv.org/abs/2406.18533): with B images a step the learning rates are those
of one image times the root of B, and Adam's decay rates those to the power of B; so an image counts for as many others
as before. Its eps falls with the root of B, as the mean gradient of B images does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

SAME = 1e-12
"""The relative difference up to which a learning rate is the configured one, and differs by rounding alone."""


def scale_configs(configs: Mapping[str, Any], images: int) -> None:
    """Scale the learning rates of optimizers and the ends of their schedules, in place.

    Args:
        configs: name -> ``{"optimizer": …, "scheduler": …}``, copies for one run.
        images: the number of images of a step.
    """
    for entry in configs.values():
        entry["optimizer"].lr *= math.sqrt(images)
        if getattr(entry["scheduler"], "lr_final", None) is not None:
            entry["scheduler"].lr_final *= math.sqrt(images)


def moments_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The decay rates and the eps among the settings of an optimizer or of one of its groups."""
    return {name: settings[name] for name in ("betas", "eps") if name in settings}


def scale_moments(optimizers: Mapping[str, Optimizer], images: int) -> None:
    """Scale the decay rates and the eps of Adam, and keep those of one image as the optimizer's defaults."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            of_one = moments_of(group)
            optimizer.defaults.update(of_one)
            if "betas" in of_one:
                group["betas"] = tuple(beta**images for beta in of_one["betas"])
            if "eps" in of_one:
                group["eps"] = of_one["eps"] / math.sqrt(images)


def of_one_image(checkpoint: dict[str, Any], optimizers: Mapping[str, Optimizer], images: int) -> dict[str, Any]:
    """The checkpoint of a run as if each step had been of one image.

    Args:
        checkpoint: of steps of several images, with ``optimizers``, ``schedulers`` and the rates in ``splatkit``.
        optimizers: of the run.
        images: the number of images of a step.
    """
    states = checkpoint["optimizers"].items()
    moments = {name: _converted(state, optimizers[name], 1 / images, of_one=True) for name, state in states}
    return _with_rates({**checkpoint, "optimizers": moments}, 1 / images)


def of_images(checkpoint: dict[str, Any], optimizers: Mapping[str, Optimizer], images: int) -> dict[str, Any]:
    """A checkpoint for steps of several images; the opposite of `of_one_image`."""
    known = {name: state for name, state in checkpoint["optimizers"].items() if name in optimizers}
    moments = {name: _converted(state, optimizers[name], float(images)) for name, state in known.items()}
    return _with_rates({**checkpoint, "optimizers": moments}, float(images))


def _with_rates(checkpoint: dict[str, Any], factor: float) -> dict[str, Any]:
    """A checkpoint with schedules and configured rates for another number of images, relative to that of before."""
    entry = checkpoint.get("splatkit", {})
    rates = {name: rate * math.sqrt(factor) for name, rate in entry.get("learning_rates", {}).items()}
    schedules = _convert_schedules(checkpoint.get("schedulers", {}), factor)
    return {**checkpoint, "schedulers": schedules, "splatkit": {**entry, "learning_rates": rates}}


def _converted(state: Any, optimizer: Optimizer, factor: float, of_one: bool = False) -> dict[str, Any]:
    moments = moments_of(optimizer.defaults if of_one else optimizer.param_groups[0])
    groups = [
        {
            **group,
            **{name: value for name, value in moments.items() if name in group},
            **{name: group[name] * math.sqrt(factor) for name in ("lr", "initial_lr") if name in group},
        }
        for group in state["param_groups"]
    ]
    entries = {
        key: {name: value / factor if name == "step" else value for name, value in entry.items()}
        for key, entry in state["state"].items()
    }
    return {**state, "param_groups": groups, "state": entries}


def _convert_schedules(states: dict[str, Any], factor: float) -> dict[str, Any]:
    """The states of schedules with learning rates for steps of another number of images.

    Args:
        states: name -> ``state_dict`` of the schedule.
        factor: the number of images, relative to that for which the states are.
    """
    converted: dict[str, Any] = {}
    for name, state in states.items():
        rates = {
            key: [rate * math.sqrt(factor) for rate in state[key]] for key in ("base_lrs", "_last_lr") if key in state
        }
        converted[name] = {**state, **rates}
    return converted


def snap_rates(optimizers: Mapping[str, Optimizer], schedules: Mapping[str, Any], rates: Mapping[str, float]) -> None:
    """Give learning rates that differ from the configured ones by rounding alone exactly those values.

    Args:
        optimizers: by parameter group.
        schedules: by parameter group.
        rates: the configured rates, by parameter group.
    """
    for name, rate in rates.items():
        for group in optimizers[name].param_groups:
            for key in ("lr", "initial_lr"):
                if key in group and math.isclose(group[key], rate, rel_tol=SAME):
                    group[key] = rate
        if name in schedules:
            bases = schedules[name].base_lrs
            schedules[name].base_lrs = [rate if math.isclose(base, rate, rel_tol=SAME) else base for base in bases]
