"""The parameters that a part owns and the trainer optimises."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from splatkit_ns.ranges import NonNegative, Positive
from splatkit_ns.splat.training_state import SplatTrainingState

DEFAULT_LR = 1e-3
"""The learning rate of the parameters of a part that is an `nn.Module` without a `learning_rate` of its own."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Schedule:
    """The settings of Adam for a parameter."""

    lr: Annotated[float, Positive]
    """The learning rate."""
    lr_final: Annotated[float | None, Positive] = None
    """The learning rate at the last step, to which it falls exponentially; None means that it stays."""
    warmup_steps: Annotated[int, NonNegative] = 0
    """The number of first steps in which the rate rises from 0."""
    max_norm: Annotated[float | None, Positive] = None
    """The norm to which gradients are clipped; None means that they are not."""


@dataclass(frozen=True, eq=False)
class Trainable(Schedule):
    """A parameter of any shape. The part keeps the `Parameter` object and reads it when it needs it."""

    parameter: nn.Parameter
    """The parameter; it is moved to the device of the training, and stays the same object."""


@dataclass(frozen=True, eq=False)
class RowTrainable(Schedule):
    """A parameter with one row for each Gaussian, found as ``training_state.params[name]``.

    The rows follow every duplication, split and removal: a new Gaussian has the row of the one that it was made from.
    """

    shape: tuple[int, ...] = ()
    """The shape of a row."""
    initial: float | Callable[[SplatTrainingState], Tensor] = 0.0
    """The value of all rows at the start, or a function that returns the rows ``(N, *shape)`` of N Gaussians, in a
    training state: of those that training starts with, or of those that `add` appends."""

    def rows(self, training_state: SplatTrainingState) -> Tensor:
        """The rows of these Gaussians at the start, ``(N, *shape)`` float32.

        Raises:
            ValueError: `initial` returned another shape.
        """
        shape = (len(training_state), *self.shape)
        if not callable(self.initial):
            return torch.full(shape, float(self.initial), device=training_state.device)
        rows = self.initial(training_state).detach().to(training_state.device, torch.float32)
        if tuple(rows.shape) != shape:
            raise ValueError(
                f"initial returned rows of shape {tuple(rows.shape)} for {shape[0]} Gaussian(s), expected {shape}"
            )
        return rows.clone()


def module_trainables(part: nn.Module) -> dict[str, Trainable]:
    """The parameters of a part that is an `nn.Module`, by their names with "/" in place of the dots."""
    lr = float(getattr(part, "learning_rate", DEFAULT_LR))
    return {name.replace(".", "/"): Trainable(param, lr=lr) for name, param in nn.Module.named_parameters(part)}


def undeclared_parameters(
    part: object, declared: Mapping[str, Any], others: Collection[int] = (), kind: type[Tensor] = Tensor
) -> list[str]:
    """Find parameters that a part holds, that want gradients, and that it does not declare as trainables.

    Args:
        part: looked at are its attributes, what is in lists, tuples and dicts there, and the networks among them.
        declared: what its `trainables` returned.
        others: the ids of parameters that other parts have declared.
        kind: `nn.Parameter` leaves out plain tensors that want gradients.

    Returns:
        Their names, such as ``net.weight``, in the order of the attributes.
    """
    known = {*others} | {id(entry.parameter) for entry in declared.values() if isinstance(entry, Trainable)}
    return [
        name
        for name, param in _parameters_of(part)
        if param.requires_grad and id(param) not in known and isinstance(param, kind)
    ]


def parameter_ids(part: object) -> set[int]:
    """The ids of the parameters that `undeclared_parameters` looks at."""
    return {id(param) for _, param in _parameters_of(part)}


def networks_of(part: object) -> list[nn.Module]:
    """The part itself if it is a network, or else the networks among its attributes."""
    return [part] if isinstance(part, nn.Module) else [v for v in vars(part).values() if isinstance(v, nn.Module)]


def _parameters_of(part: object) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a part with their names, and the plain tensors that want gradients as parameters do."""
    of_torch = set[str]()
    if isinstance(part, nn.Module):
        yield from nn.Module.named_parameters(part)
        of_torch = {*vars(nn.Module())}
    for attribute, held in vars(part).items():
        for name, value in () if attribute in of_torch else _entries(attribute, held):
            if isinstance(value, nn.Module):
                yield from nn.Module.named_parameters(value, prefix=name)
            elif isinstance(value, Tensor) and (isinstance(value, nn.Parameter) or _wants_gradient(value)):
                yield name, value


def _entries(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The entries of a list, tuple or dict with their names, such as ``nets.0``; anything else itself."""
    if isinstance(value, Mapping):
        yield from ((f"{name}.{key}", entry) for key, entry in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"{name}.{number}", entry) for number, entry in enumerate(value))
    else:
        yield name, value


def _wants_gradient(tensor: Tensor) -> bool:
    return tensor.requires_grad and tensor.is_leaf
