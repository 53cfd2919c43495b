"""Optimizers and schedules that keep plain numbers and tensors as their state.

nerfstudio's own exponential schedule puts `numpy.float64` into the optimizer's state, which
``torch.load(weights_only=True)``, the default since torch 2.6, refuses: that is why ``ns-eval`` and the other commands
fail on splatfacto's checkpoints.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from nerfstudio.engine.optimizers import OptimizerConfig, Optimizers
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim.lr_scheduler import LambdaLR

from splatkit_ns.errors import OptionsError
from splatkit_ns.parts.trainables import Schedule
from splatkit_ns.plugin.options.groups import GroupOptions, check_groups
from splatkit_ns.plugin.options.length import is_short
from splatkit_ns.plugin.run.checkpoints.batch_scale import scale_configs, scale_moments
from splatkit_ns.ranges import Fraction, InnerFraction, NonNegative, Positive
from splatkit_ns.splat.optimizers import fused_adam


@dataclass
class FusedAdamConfig(OptimizerConfig):
    """Adam, in one kernel for the whole step if PyTorch has one for the device."""

    _target: type = torch.optim.Adam
    lr: Annotated[float, Positive] = 0.0005
    """Learning rate."""
    eps: Annotated[float, Positive] = 1e-15
    """Added to the root of the second moment; 3DGS wants it this small, as gradients of Gaussians are tiny."""
    beta2: Annotated[float, InnerFraction] = 0.999
    """Decay rate of the second moment."""

    def setup(self, params: Any) -> torch.optim.Optimizer:
        """Make the optimizer of these parameters."""
        return fused_adam(params, lr=float(self.lr), betas=(0.9, float(self.beta2)), eps=self.eps)


class FactorSchedule(Scheduler, ABC):
    """A schedule that multiplies the first learning rate by a factor that depends on the step."""

    config: Any

    def get_scheduler(self, optimizer: torch.optim.Optimizer, lr_init: float) -> LambdaLR:
        """Make the schedule of this optimizer.

        Args:
            optimizer: its learning rate is ``lr_init``.
            lr_init: learning rate at the start.

        Raises:
            ValueError: the schedule has no length.
        """
        if self.config.max_steps is None:
            raise ValueError(f"{type(self.config).__name__}.max_steps is not set, and there is no run to take it from.")
        return LambdaLR(optimizer, self._factor(self.config.max_steps, lr_init))

    @abstractmethod
    def _factor(self, max_steps: int, lr_init: float) -> Callable[[int], float]:
        """The factor of each step, 0-based; `max_steps` is the length of the schedule."""


@dataclass
class ExponentialDecayConfig(SchedulerConfig):
    """Learning rate that falls exponentially to lr_final."""

    _target: type = field(default_factory=lambda: ExponentialDecay)
    lr_final: Annotated[float, Positive] = 1e-6
    """Learning rate at max_steps."""
    max_steps: Annotated[int | None, Positive] = None
    """Step at which lr_final is reached; None means the run's last."""
    warmup_steps: Annotated[int, NonNegative] = 0
    """The rate first rises from 0, along a quarter of a sine, for this many steps."""


class ExponentialDecay(FactorSchedule):
    """See `ExponentialDecayConfig`."""

    config: ExponentialDecayConfig

    def _factor(self, max_steps: int, lr_init: float) -> Callable[[int], float]:
        log_ratio = math.log(self.config.lr_final / lr_init)
        warmup, span = self.config.warmup_steps, max(1, max_steps - self.config.warmup_steps)

        def factor(step: int) -> float:
            if step < warmup:
                return math.sin(0.5 * math.pi * step / warmup)
            return math.exp(log_ratio * min(1.0, (step - warmup) / span))

        return factor


@dataclass
class LateDecayConfig(SchedulerConfig):
    """Learning rate that is constant at first and falls exponentially in the last part of the run."""

    _target: type = field(default_factory=lambda: LateDecay)
    lr_share: Annotated[float, Positive] = 0.1
    """The share of the learning rate that remains at max_steps."""
    decay_from: Annotated[float, Fraction] = 0.9
    """Share of max_steps after which it falls."""
    max_steps: Annotated[int | None, Positive] = None
    """Step at which lr_share is reached; None means the run's last."""


class LateDecay(FactorSchedule):
    """See `LateDecayConfig`."""

    config: LateDecayConfig

    def _factor(self, max_steps: int, lr_init: float) -> Callable[[int], float]:
        log_ratio, start = math.log(self.config.lr_share), self.config.decay_from * max_steps

        def factor(step: int) -> float:
            return math.exp(log_ratio * min(1.0, max(0.0, step - start) / max(1.0, max_steps - start)))

        return factor


def part_optimizers(schedules: Mapping[str, Schedule]) -> dict[str, Any]:
    """The optimizer configs of the parameters that parts own, as in a method's config.

    Args:
        schedules: the schedules that the parts declare, by parameter group.
    """
    return {
        name: {
            "optimizer": FusedAdamConfig(lr=declared.lr, max_norm=declared.max_norm),
            "scheduler": _decay(declared.lr, declared.lr_final, declared.warmup_steps),
        }
        for name, declared in schedules.items()
    }


def _decay(lr: float, lr_final: float | None, warmup_steps: int) -> ExponentialDecayConfig | None:
    """The schedule of a rate that rises, falls, does both, or neither."""
    if lr_final is None and not warmup_steps:
        return None
    return ExponentialDecayConfig(lr_final=lr if lr_final is None else lr_final, warmup_steps=warmup_steps)


def changed_optimizers(configs: Mapping[str, Any], options: GroupOptions) -> dict[str, Any]:
    """Optimizer configs with the changes of single groups.

    Args:
        configs: name -> ``{"optimizer": …, "scheduler": …}``, as in a method's config; they stay as they are.
        options: the changes.

    Raises:
        OptionsError: a group has a warm-up, but its schedule has none.
    """
    changed: dict[str, Any] = deepcopy(dict(configs))
    for name, entry in changed.items():
        optimizer, schedule = entry["optimizer"], entry["scheduler"]
        rate = options.learning_rates.get(name)
        if rate is not None:
            if getattr(schedule, "lr_final", None) is not None:
                schedule.lr_final *= rate / optimizer.lr
            optimizer.lr = rate
        optimizer.max_norm = options.max_norms.get(name, optimizer.max_norm)
        final, warmup = options.final_learning_rates.get(name), options.warmup_steps.get(name)
        if isinstance(schedule, ExponentialDecayConfig):
            schedule.lr_final = schedule.lr_final if final is None else final
            schedule.warmup_steps = schedule.warmup_steps if warmup is None else warmup
        elif final is not None or schedule is None:
            entry["scheduler"] = _decay(optimizer.lr, final, warmup or 0)
        elif warmup is not None:
            kind = type(schedule).__name__
            raise OptionsError([f"--warmup-steps of {name}: {kind} has none; give --final-learning-rates, too"])
    return changed


def optimizers_of_run(
    config: Any, schedules: Mapping[str, Schedule], groups: dict[str, Any], scales: dict[str, float], images: int = 1
) -> Optimizers:
    """nerfstudio's optimizers with their schedules, for a run.

    Args:
        config: of the run.
        schedules: those that parts declare for their parameters.
        groups: the parameters, by name.
        scales: factors of learning rates, by name.
        images: the number of images of a step, see `batch_scale`.

    Raises:
        OptionsError: an option names a group that does not exist, or does not fit its schedule.
    """
    check_groups(config, list(groups))
    known = changed_optimizers({**part_optimizers(schedules), **config.optimizers}, config)
    if is_short(config) and "means" not in config.final_learning_rates:  # a final rate that was asked for is reached
        _fall_slowly(known["means"]["scheduler"], config.full_length)
    return make_optimizers(run_optimizers(known, list(groups), config.max_num_iterations, scales), groups, images)


def _fall_slowly(schedule: Any, steps: int) -> None:
    """Let the rate of positions fall as in a run of so many steps: in a short one, Gaussians still have far to go."""
    if isinstance(schedule, ExponentialDecayConfig) and schedule.max_steps is None:
        schedule.max_steps = steps


def make_optimizers(configs: dict[str, Any], groups: dict[str, Any], images: int = 1) -> Optimizers:
    """nerfstudio's optimizers with their schedules.

    Args:
        configs: the result of `run_optimizers`; changed.
        groups: the parameters, by the same names.
        images: the number of images of a step, see `batch_scale`.
    """
    scale_configs(configs, images)
    optimizers = Optimizers(configs, groups)
    scale_moments(optimizers.optimizers, images)
    for schedule in optimizers.schedulers.values():
        # torch warns of schedules that step before their optimizer, as they do if gradients are accumulated first
        setattr(schedule.optimizer, "_opt_called", True)  # noqa: B010
    return optimizers


def run_optimizers(
    configs: dict[str, Any], names: list[str], max_steps: int, scales: dict[str, float]
) -> dict[str, Any]:
    """The optimizer configs of one run: copies with the run's length and scale filled in.

    Args:
        configs: name -> ``{"optimizer": …, "scheduler": …}``, as in a method's config.
        names: the parameter groups of the run.
        max_steps: length of the run, for schedules without one of their own.
        scales: name -> factor of the learning rate; a schedule's end is scaled with it.
    """
    result: dict[str, Any] = {}
    for name in names:
        entry: dict[str, Any] = deepcopy(dict(configs[name]))
        factor = float(scales.get(name, 1.0))
        entry["optimizer"].lr = float(entry["optimizer"].lr) * factor
        scheduler = entry["scheduler"]
        if isinstance(scheduler, ExponentialDecayConfig):
            scheduler.lr_final = float(scheduler.lr_final) * factor
        if isinstance(scheduler, ExponentialDecayConfig | LateDecayConfig) and scheduler.max_steps is None:
            scheduler.max_steps = max_steps
        result[name] = entry
    return result
