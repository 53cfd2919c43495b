"""One step of several optimizers together: on CUDA, all their Adams in one kernel.

The optimizers stay `torch.optim.Adam` objects with PyTorch's own state, so checkpoints, schedules and row changes work
as before. Six small kernels in sequence are bound by latency, and six calls of `step` by Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    together: dict[tuple[float, float, float], list[AdamTensors]] = {}
    for optimizer in optimizers:
        tensors = _adam_tensors(optimizer)
        if tensors is None:
            optimizer.step()
        else:
            group = optimizer.param_groups[0]
            together.setdefault((*group["betas"], group["eps"]), []).append(tensors)
    for (beta1, beta2, eps), entries in together.items():
        kernel = joint_kernel()
        assert kernel is not None, "_adam_tensors returns None without a kernel"
        kernel(entries, beta1, beta2, eps)


def _adam_tensors(optimizer: Optimizer) -> AdamTensors | None:
    """Return the tensors of this optimizer for the kernel, or None if its own `step` has to run."""
    if type(optimizer) is not torch.optim.Adam or _has_hooks(optimizer) or _schedule_waits(optimizer):
        return None
    groups = optimizer.param_groups
    if len(groups) != 1 or len(groups[0]["params"]) != 1 or not _has_plain_settings(groups[0]):
        return None
    param: Tensor = groups[0]["params"][0]
    grad, state = param.grad, optimizer.state.get(param)
    if grad is None or not state or not _on_current_gpu(param) or joint_kernel() is None:
        return None
    from splatkit_ns.splat._adam_triton import MAX_NUMBERS, AdamTensors

    tensors = AdamTensors(param, grad, state["exp_avg"], state["exp_avg_sq"], state["step"], float(groups[0]["lr"]))
    fits = param.numel() < MAX_NUMBERS and _are_plain(tensors[:4], param.device, param.shape)
    if not fits or tensors.step.device != param.device or tensors.step.dtype != torch.float32:
        return None
    return tensors


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
    unusual = ("amsgrad", "maximize", "differentiable", "weight_decay", "decoupled_weight_decay")
    numbers = (group["lr"], *group["betas"])
    return (
        bool(group.get("fused"))
        and not any(group.get(name) for name in unusual)
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
