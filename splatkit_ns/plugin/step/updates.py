"""The optimizers and schedules of a run, and the steps at which each is due."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TypeGuard

import torch
from nerfstudio.engine.optimizers import Optimizers
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from splatkit_ns.errors import ModuleError
from splatkit_ns.splat import SplatTrainingState, clear_gradients, step_together
from splatkit_ns.splat.joint_step import can_join, launch_key, step_joined


def training_cores(device: str) -> AbstractContextManager[None]:
    """Distribute the cores among the kernels of a step; on a GPU this does nothing."""
    if device != "cpu":
        return nullcontext()
    from splatkit_ns.rasterize.cpu.parallel import cores_for_kernels  # imports numba

    return cores_for_kernels()


def parameters_of(optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The parameter of each group."""
    return {name: parameter_of(each) for name, each in optimizers.items()}


def parameter_of(optimizer: torch.optim.Optimizer) -> Tensor:
    """The parameter of an optimizer, which has one."""
    return optimizer.param_groups[0]["params"][0]


class ParameterUpdates:
    """Steps the optimizers, each after as many steps as its gradients are summed up over.

    Args:
        optimizers: nerfstudio's optimizers, with their schedules.
        accumulation: parameter group -> number of steps to sum up gradients over.
        training_state: is told the groups whose gradients are being summed up.
    """

    def __init__(
        self, optimizers: Optimizers, accumulation: Mapping[str, int], training_state: SplatTrainingState
    ) -> None:
        self.optimizers: dict[str, torch.optim.Optimizer] = optimizers.optimizers
        self._schedules: dict[str, torch.optim.lr_scheduler.LRScheduler] = optimizers.schedulers
        self._max_norms: dict[str, float | None] = {
            name: config["optimizer"].max_norm for name, config in optimizers.config.items()
        }
        self._accumulation = accumulation
        self._training_state = training_state

    def check_parameters(self, step: int) -> None:
        """Check after a step, 1-based, that the optimizers still train the Gaussians' parameters.

        Raises:
            ModuleError: a part has put another `Parameter` into ``training_state.params``, or another optimizer into
                ``training_state.optimizers``.
        """
        params, optimizers = self._training_state.params, self._training_state.optimizers
        unused = [name for name, optimizer in optimizers.items() if optimizer is not self.optimizers.get(name)]
        if unused:
            raise ModuleError(
                f"At step {step} or before, a part has put an optimizer that the run does not use into "
                f"training_state.optimizers: {', '.join(unused)}. Change its param_groups, or give the method another "
                "one: make_method(optimizers=…)."
            )
        others = [
            name for name in params if name not in optimizers or parameter_of(optimizers[name]) is not params[name]
        ]
        if others:
            raise ModuleError(
                f"At step {step} or before, a part has put a tensor that no optimizer trains into "
                f"training_state.params: {', '.join(others)}. Change values with params[name].data = …, of as many "
                "rows; change rows with training_state.duplicate, split, remove and add; and return rows of your own "
                "from trainables, as RowTrainable."
            )

    def clear_gradients(self, step: int) -> None:
        """Clear the gradients of the groups whose sum begins with this step (0-based)."""
        for name, optimizer in self.optimizers.items():
            if step % self._accumulation[name] == 0:
                clear_gradients(optimizer)

    def clear_all_gradients(self) -> None:
        """Clear all gradients, also those that are being summed up."""
        for optimizer in self.optimizers.values():
            clear_gradients(optimizer)

    def step(self, step: int) -> None:
        """Clip and step the groups whose sum ends with this step (0-based)."""
        due = {
            name: optimizer
            for name, optimizer in self.optimizers.items()
            if step % self._accumulation[name] == self._accumulation[name] - 1
        }
        self._clip(due)
        step_together(due.values())
        self._training_state.keep_gradients_of(self.optimizers.keys() - due.keys())

    def _clip(self, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        for name, optimizer in optimizers.items():
            max_norm = self._max_norms[name]
            if max_norm is not None:
                torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], max_norm)

    # ------------------------------------------------------------------ a step that a CUDA graph holds in part

    def launch_key(self, with_gradients: bool = True) -> Hashable:
        """The addresses and settings that the kernels of `step_joined` are launched with."""
        return tuple([launch_key(optimizer, with_gradients) for optimizer in self.optimizers.values()])

    def joined(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers that step together, if all groups are due."""
        return {name: optimizer for name, optimizer in self.optimizers.items() if can_join(optimizer)}

    def not_joined(self) -> dict[str, torch.optim.Optimizer]:
        """The others; those whose parameter has no gradient do nothing."""
        return {name: optimizer for name, optimizer in self.optimizers.items() if not can_join(optimizer)}

    def step_joined(self, optimizers: Mapping[str, torch.optim.Optimizer], rates: Tensor) -> None:
        """Clip and step optimizers that step together; a CUDA graph can hold this.

        Args:
            optimizers: by parameter group.
            rates: their learning rates, float32 on their device.
        """
        self._clip(optimizers)
        step_joined(list(optimizers.values()), rates)

    def step_alone(self, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        """Clip and step optimizers one by one."""
        self._clip(optimizers)
        for optimizer in optimizers.values():
            optimizer.step()

    # ------------------------------------------------------------------ schedules

    def step_schedules(self, images: int = 1) -> None:
        """Set the learning rates of the next step.

        Args:
            images: the number of images of a step, which schedules count.
        """
        for schedule in self._schedules.values():
            if _can_skip(schedule):
                _skip_to(schedule, images)
            else:
                for _ in range(images):
                    schedule.step()

    def next_rate(self, name: str, images: int = 1) -> float | None:
        """The learning rate of a group after the schedules' next step; None if only its schedule knows it.

        Args:
            name: of the parameter group.
            images: see `step_schedules`.
        """
        schedule = self._schedules.get(name)
        if schedule is None:
            return float(self.optimizers[name].param_groups[0]["lr"])
        return _rates_at(schedule, schedule.last_epoch + images)[0] if _can_skip(schedule) else None


def _can_skip(schedule: LRScheduler) -> TypeGuard[LambdaLR]:
    """Whether the rates of a schedule depend on the number of steps alone."""
    return type(schedule) is LambdaLR and not isinstance(schedule.optimizer.param_groups[0]["lr"], Tensor)


def _rates_at(schedule: LambdaLR, epoch: int) -> list[float]:
    """The learning rates after so many steps."""
    factors = [factor(epoch) for factor in schedule.lr_lambdas]
    return [float(base) * factor for base, factor in zip(schedule.base_lrs, factors, strict=True)]


def _skip_to(schedule: LambdaLR, steps: int) -> None:
    """Let a schedule step several times: its rates depend on the number of steps alone. `step` takes longer for one."""
    state = vars(schedule)
    state["last_epoch"] += steps
    state["_step_count"] += steps
    set_rates(schedule)


def set_rates(schedule: LambdaLR) -> None:
    """Give the optimizer of a schedule the learning rates of the schedule's present step."""
    rates = _rates_at(schedule, schedule.last_epoch)
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    vars(schedule)["_last_lr"] = rates  # get_last_lr() reports it
