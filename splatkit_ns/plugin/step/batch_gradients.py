"""The mean gradient of the photographs that one process renders in a step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from splatkit_ns.plugin.step.updates import parameters_of


class BatchGradients:
    """Takes the mean of gradients and losses over the photographs of a step; those of a single one stay as they are.

    Args:
        size: the number of photographs that this process renders in a step.
        optimizers: by parameter group.
    """

    def __init__(self, size: int, optimizers: Mapping[str, Optimizer]) -> None:
        self.size, self._optimizers = size, optimizers
        self._sums: dict[str, Tensor] = {}
        """At the same addresses in all steps, as a CUDA graph of the optimizers' step needs them."""
        self._found: list[str] = []
        """The groups that have had a gradient in this step."""
        self._before: dict[str, Tensor] = {}
        """The gradients that earlier steps have left, to be summed up with those of this one."""
        self._loss: Tensor | None = None

    def begin(self) -> None:
        """Begin a step."""
        self._loss, self._found = None, []
        if self.size > 1:
            self._before = {name: grad.clone() for name, grad in self._gradients().items()}

    @torch.no_grad()
    def add(self, loss: Tensor) -> None:
        """Take the gradients of a photograph, after its backward pass.

        Args:
            loss: that of the photograph, scalar.
        """
        if self.size == 1:
            self._loss = loss
            return
        self._loss = loss.detach().clone() if self._loss is None else self._loss + loss.detach()
        found = self._gradients()
        again, new = ([name for name in found if (name in self._found) == seen] for seen in (True, False))
        for name in new:
            if name not in self._sums or self._sums[name].shape != found[name].shape:
                self._sums[name] = torch.empty_like(found[name], memory_format=torch.contiguous_format)
        for names, combine in ((again, torch._foreach_add_), (new, torch._foreach_copy_)):  # type: ignore[reportPrivateUsage]
            if names:
                combine([self._sums[name] for name in names], [found[name] for name in names])
        self._found += new
        for name, param in parameters_of(self._optimizers).items():
            param.grad = self._before[name].clone() if name in self._before else None

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Let the parameters have the mean gradients of this process's photographs.

        Returns:
            The mean loss of the photographs, scalar.
        """
        loss, self._loss = self._loss, None  # nothing of its graph stays
        assert loss is not None
        if self.size == 1:
            return loss
        if self._found:
            torch._foreach_mul_([self._sums[name] for name in self._found], 1 / self.size)  # type: ignore[reportPrivateUsage]
        for name, param in parameters_of(self._optimizers).items():
            param.grad = self._sums[name] if name in self._found else None
        self._before = {}
        return loss / self.size

    def free(self) -> None:
        """Free the memory that steps have used; the gradients that parameters have stay."""
        self._sums, self._before = {}, {}

    def _gradients(self) -> dict[str, Tensor]:
        parameters = parameters_of(self._optimizers)
        return {name: param.grad for name, param in parameters.items() if param.grad is not None}
