"""The base class of losses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args

from torch import Tensor

from splatkit_ns.errors import ModuleError
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.context import StepContext, is_finite
from splatkit_ns.parts.nesting import held_parts
from splatkit_ns.parts.payload import PayloadT

TargetName = Literal["target_depths", "target_normals"]
"""The optional contents of a data set besides images."""


class SplatLossFn(SplatBaseModule[PayloadT]):
    """A measure of the difference between a render and its photograph. It has all hooks of a module, too."""

    @abstractmethod
    def compute_loss(self, *args: Any, **kwargs: Any) -> Tensor | Mapping[str, Tensor]:
        """Compute the loss of one step.

        Name the arguments that you need: ``rendered_frames, target_frames, masks, rend_out, view, target_depths,
        target_normals, training_state, step, max_steps``, and all others that hooks can have.

        Returns:
            A scalar, or a dict of named scalars, already weighted: they are summed, and logged by name.
        """
        raise NotImplementedError

    def wants_depth(self, step: int) -> bool:
        """Whether the loss of this step (counted from 1) reads ``rend_out.depths`` or images derived from depth.

        By default, whether a loss that this one holds does.
        """
        return any(loss_fn.wants_depth(step) for loss_fn in self._held())

    @property
    def wanted_targets(self) -> frozenset[TargetName]:
        """The data that the loss reads besides images; each is loaded and passed as the argument of that name. By
        default, what the losses that it holds read."""
        return frozenset[TargetName]().union(*(loss_fn.wanted_targets for loss_fn in self._held()))

    def _held(self) -> list[SplatLossFn[Any]]:
        return [part for part in held_parts(self) if isinstance(part, SplatLossFn)]


def named_terms(result: Any, owner: str, context: StepContext) -> dict[str, Tensor]:
    """Check what `SplatLossFn.compute_loss` returned and give its terms names.

    Raises:
        ModuleError: the result is no tensor or dict of tensors, a term is no scalar, or no term has a gradient.
    """
    terms = {"loss": result} if isinstance(result, Tensor) else result
    where = f"{owner}.compute_loss at step {context.step} on image {context.image_name}"
    if not isinstance(terms, Mapping) or not terms:
        raise ModuleError(f"{where} returned {result!r}, expected a scalar tensor or a dict of named scalar tensors.")
    checked = scalar_terms(terms, where)
    if not any(term.requires_grad for term in checked.values()):
        raise ModuleError(
            f"{where}: no term ({', '.join(checked)}) has a gradient. "
            "Compute it from rendered_frames, rend_out or training_state, without detach() or no_grad()."
        )
    return checked


def scalar_terms(terms: Any, where: str) -> dict[str, Tensor]:
    """Check named terms of a loss, and give each the shape of a scalar.

    Args:
        terms: by name.
        where: the method that returned them, for messages.

    Raises:
        ModuleError: they are no dict, or one is no tensor with one element.
    """
    if not isinstance(terms, Mapping):
        raise ModuleError(f"{where} returned {terms!r:.60}, expected a dict of named scalar tensors.")
    checked: dict[str, Tensor] = {}
    for name, term in terms.items():
        if not isinstance(term, Tensor) or term.numel() != 1:
            shape = tuple(term.shape) if isinstance(term, Tensor) else type(term).__name__
            raise ModuleError(f"{where}: term {name!r} is {shape}, expected a tensor with one element.")
        checked[str(name)] = term.reshape(())
    return checked


def check_wanted_targets(loss_fn: SplatLossFn[Any]) -> frozenset[TargetName]:
    """The targets that a loss wants.

    Raises:
        ModuleError: some do not exist, or `SplatLossFn.wanted_targets` is no set.
    """
    wanted: Any = loss_fn.wanted_targets
    name = type(loss_fn).__name__
    if isinstance(wanted, str) or not isinstance(wanted, Collection):
        raise ModuleError(f"{name}.wanted_targets is {wanted!r:.60}, expected a set: frozenset({{'target_depths'}}).")
    unknown = set(wanted) - set(get_args(TargetName))
    if unknown:
        raise ModuleError(
            f"{name}.wanted_targets has {', '.join(map(repr, sorted(unknown)))}, expected names "
            f"among {', '.join(get_args(TargetName))}."
        )
    return frozenset(wanted)


def describe_non_finite(terms: Mapping[str, Tensor]) -> str:
    """List names and values of the terms that are NaN or infinite, for an error message."""
    return ", ".join(f"{name} = {float(term.detach())}" for name, term in terms.items() if not is_finite(term))
