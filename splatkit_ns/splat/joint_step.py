"""One step of several optimizers together: on CUDA, all their Adams in one kernel.

The optimizers stay `torch.optim.Adam` objects with PyTorch's own state, so checkpoints, schedules and row changes work
as before. Six small kernels in sequence are bound by latency, and six calls of `step` by Python.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import (
    _global_optimizer_post_hooks,  # type: ignore[reportPrivateUsage]
    _global_optimizer_pre_hooks,  # type: ignore[reportPrivateUsage]
)

from splatkit_ns.triton_kernels import lazy_kernel

if TYPE_CHECKING:
    from splatkit_ns.splat._adam_triton import AdamTensors


_ALIGNMENT = 16
"""The alignment of pointers in bytes; Triton compiles another kernel for pointers that are not multiples of it."""

_STATE = ("exp_avg", "exp_avg_sq", "step")
"""The tensors of an Adam's state."""

_UNUSUAL = ("amsgrad", "maximize", "differentiable", "weight_decay", "decoupled_weight_decay")
"""The settings of an Adam that the kernel does not have."""

_SETTINGS = ("betas", "eps", "fused", *_UNUSUAL)

_NO_STATE: Mapping[str, Tensor] = {}

_SMALLEST_EPS = 1e-18
"""The least eps: the fast root of GPUs is 0 for numbers below 1.2e-38, and only an eps above such roots hides that."""


def clear_gradients(optimizer: Optimizer) -> None:
    """Set gradients to None, as ``zero_grad(set_to_none=True)`` does, without its profiling, which takes longer."""
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = None


def step_together(optimizers: Iterable[Optimizer]) -> None:
    """Step optimizers: fused Adams on the current GPU together, all others by their own `step`.

    The result is that of calling `step` of each, up to rounding in those that step together. An Adam's own `step` runs
    if it has no state yet, more than one parameter, AMSGrad, weight decay, hooks, no eps or a learning rate that is a
    tensor, or if Triton cannot be used.

    Args:
        optimizers: the optimizers to step; no parameter may be in two of them.
    """
    joined: list[Optimizer] = []
    for optimizer in optimizers:
        if can_join(optimizer):
            joined.append(optimizer)
        else:
            optimizer.step()
    if joined:
        device = joined[0].param_groups[0]["params"][0].device
        step_joined(joined, _on_device(tuple(learning_rates(joined)), device))


@lru_cache(maxsize=1)  # schedules keep the rates for most of a run
def _on_device(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers).to(device, non_blocking=True)


def can_join(optimizer: Optimizer) -> bool:
    """Whether an optimizer can step together with others, without its own `step`; see `step_together`."""
    if type(optimizer) is not torch.optim.Adam or _has_hooks(optimizer) or _schedule_waits(optimizer):
        return False
    groups = optimizer.param_groups
    if len(groups) != 1 or len(groups[0]["params"]) != 1 or not _has_plain_settings(groups[0]):
        return False
    param: Tensor = groups[0]["params"][0]
    if param.grad is None or not optimizer.state.get(param) or not _on_current_gpu(param) or joint_kernel() is None:
        return False
    from splatkit_ns.splat._adam_triton import MAX_NUMBERS

    *tensors, step = _tensors(optimizer)
    fits = param.numel() < MAX_NUMBERS and _are_plain(tensors, param.device, param.shape)
    return fits and step.device == param.device and step.dtype == torch.float32


def learning_rates(optimizers: Sequence[Optimizer]) -> list[float]:
    """The learning rate of each optimizer."""
    return [float(optimizer.param_groups[0]["lr"]) for optimizer in optimizers]


def step_joined(optimizers: Sequence[Optimizer], rates: Tensor) -> None:
    """Step optimizers that `can_join`, in one kernel for all that have the same decay rates and eps.

    A CUDA graph can hold this; the learning rates are read on the device.

    Args:
        optimizers: the optimizers to step.
        rates: the learning rate of each, float32 on their device.
    """
    from splatkit_ns.splat._adam_triton import AdamTensors

    kernel = joint_kernel()
    assert kernel is not None, "can_join is False without a kernel"
    together: dict[tuple[float, float, float], list[AdamTensors]] = {}
    for optimizer, rate in zip(optimizers, rates.unbind(), strict=True):
        group = optimizer.param_groups[0]
        together.setdefault((*group["betas"], group["eps"]), []).append(AdamTensors(*_tensors(optimizer), rate))
    for (beta1, beta2, eps), entries in together.items():
        kernel(entries, beta1, beta2, eps)


def launch_key(optimizer: Optimizer, with_gradient: bool = True) -> Hashable:
    """The addresses and settings that an optimizer's part of a joint step is launched with.

    An optimizer that never joins has its gradient's address alone.

    Args:
        optimizer: the optimizer.
        with_gradient: whether the address of the gradient is one of them.
    """
    groups = optimizer.param_groups
    group, params = groups[0], groups[0]["params"]
    param: Tensor = params[0]
    grad = param.grad if with_gradient else None
    place = None if grad is None else grad.data_ptr()
    if type(optimizer) is not torch.optim.Adam:
        return id(optimizer), place
    state = optimizer.state.get(param, _NO_STATE)
    places = tuple([state[name].data_ptr() for name in _STATE if name in state])
    count = (len(groups), len(params), _has_hooks(optimizer), isinstance(group["lr"], Tensor))
    return id(optimizer), place, param.data_ptr(), param.shape, places, count, tuple(map(group.get, _SETTINGS))


def _tensors(optimizer: Optimizer) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The parameter of an Adam, its gradient, and its state."""
    param: Tensor = optimizer.param_groups[0]["params"][0]
    assert param.grad is not None
    state = optimizer.state[param]
    return param, param.grad, state["exp_avg"], state["exp_avg_sq"], state["step"]


def _has_hooks(optimizer: Optimizer) -> bool:
    """Whether this optimizer's steps have hooks, its own or global ones."""
    own: Any = optimizer
    return bool(
        own._optimizer_step_pre_hooks
        or own._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
    )


def _schedule_waits(optimizer: Optimizer) -> bool:
    """Whether a schedule still needs a first `step` of the optimizer; without one it would warn."""
    return hasattr(optimizer.step, "_wrapped_by_lr_sched") and not getattr(optimizer, "_opt_called", False)


def _has_plain_settings(group: dict[str, Any]) -> bool:
    numbers = (group["lr"], *group["betas"])
    return (
        bool(group.get("fused"))
        and not any(group.get(name) for name in _UNUSUAL)
        and not any(isinstance(number, Tensor) for number in numbers)
        and min(group["betas"]) > 0.0
        and group["eps"] >= _SMALLEST_EPS
    )


def _on_current_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda and tensor.device.index == torch.cuda.current_device()


def _are_plain(tensors: Iterable[Tensor], device: torch.device, shape: torch.Size) -> bool:
    """Whether all are dense float32 tensors of this device and shape, aligned as Triton expects."""
    for tensor in tensors:
        if tensor.dtype != torch.float32 or tensor.device != device or tensor.shape != shape:
            return False
        if tensor.layout != torch.strided or not tensor.is_contiguous() or tensor.data_ptr() % _ALIGNMENT:
            return False
    return True


@lazy_kernel(otherwise="Each Adam has kernels of its own")
def joint_kernel() -> Callable[[list[AdamTensors], float, float, float], None]:
    """The joint step in Triton, or None if that cannot be used."""
    from splatkit_ns.splat._adam_triton import adam_step, first_launch

    first_launch("cuda")
    return adam_step
