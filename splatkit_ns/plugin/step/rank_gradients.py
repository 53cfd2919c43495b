"""The averaging of gradients over ranks, between backward pass and optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from splatkit_ns.errors import SplatkitError
from splatkit_ns.ranks import Ranks
from splatkit_ns.rasterize.color_gradients import ColorGradients


class GradientExchange(Protocol):
    """Makes the gradients of this process those of the whole step."""

    def average(self, optimizers: Mapping[str, Optimizer], loss: Tensor) -> Tensor:
        """Average gradients and loss over the ranks.

        Args:
            optimizers: by parameter group; a parameter without a gradient on any rank stays without.
            loss: that of this rank's image, scalar.

        Returns:
            The loss of the step, scalar.
        """
        ...

    def collected(self) -> AbstractContextManager[None]:
        """A block in which render, loss and backward pass run."""
        ...


class Begun(Protocol):
    """Waits for the other ranks."""

    def wait(self) -> None:
        """Wait until all ranks have begun this step."""
        ...


class OwnGradients:
    """The gradients of one process, which stay as they are."""

    def average(self, optimizers: Mapping[str, Optimizer], loss: Tensor) -> Tensor:
        return loss

    def collected(self) -> AbstractContextManager[None]:
        return nullcontext()


class RankGradients:
    """Averages the gradients of all parameters in one exchange, where they are.

    Every rank then has the same bits, so that the optimizers keep the parameters of the ranks equal. On GPUs, the
    gradients of spherical harmonics are not exchanged but computed on each rank from those of the colours: see
    `ColorGradients`.

    Args:
        ranks: the ranks of this run.
        begun: waits until all ranks have begun this step, if every rank has gradients of the same parameters; None if
            the ranks have to tell each other of which they have.
    """

    def __init__(self, ranks: Ranks, begun: Begun | None = None) -> None:
        self._ranks, self._begun = ranks, begun
        self._colors = ColorGradients()
        self._made: dict[str, Tensor] = {}
        """The gradients of coefficients, at the same addresses in all steps, as a CUDA graph of the next part needs."""

    def collected(self) -> AbstractContextManager[None]:
        """A block in which render, loss and backward pass run. Without parts of users, it keeps colour gradients."""
        return nullcontext() if self._begun is None else self._colors.keeping()

    @torch.no_grad()
    def average(self, optimizers: Mapping[str, Optimizer], loss: Tensor) -> Tensor:
        """Average gradients and loss; see `GradientExchange`.

        Raises:
            RankLost: another rank has ended.
            SplatkitError: the ranks do not have the same parameters.
        """
        parameters: dict[str, Tensor] = {name: each.param_groups[0]["params"][0] for name, each in optimizers.items()}
        if self._begun is None:
            names = self._with_gradient_somewhere(parameters)
        else:
            names = [name for name, param in parameters.items() if param.grad is not None]
            self._begun.wait()
        found: list[Tensor] = [loss.detach().clone()]
        for name in names:
            param = parameters[name]
            param.grad = torch.zeros_like(param) if param.grad is None else param.grad.contiguous()
            found.append(param.grad)
        if self._colors.found is None:
            self._ranks.average(found)
            return found[0]
        every = self._ranks.gather_tensors(self._colors.found)
        wait = self._ranks.average_later(found)
        made = self._coefficient_gradients(parameters, every)  # meanwhile
        wait()
        for name, gradient in made.items():
            param = parameters[name]
            param.grad = gradient if param.grad is None else param.grad.add_(gradient)
        return found[0]

    def _coefficient_gradients(self, parameters: Mapping[str, Tensor], kept: Tensor) -> dict[str, Tensor]:
        """The mean gradients of spherical harmonics, made of those of the colours of all ranks."""
        from splatkit_ns.rasterize._sh_exchange_triton import coefficient_gradients  # needs Triton

        bands = self._colors.bands
        names = ("sh0", "shN") if bands > 1 else ("sh0",)
        made = self._places({name: parameters[name] for name in names})
        coefficient_gradients(parameters["means"], kept, made["sh0"], made.get("shN"), bands)
        return made

    def _places(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors for the gradients of parameters: those of the last step, unless they are in use or do not fit."""
        if any(param.grad is not None for param in parameters.values()):  # being summed up
            return {name: torch.empty_like(param) for name, param in parameters.items()}
        if {name: place.shape for name, place in self._made.items()} != {n: p.shape for n, p in parameters.items()}:
            self._made = {}
            self._made = {name: torch.empty_like(param) for name, param in parameters.items()}
        return dict(self._made)

    def _with_gradient_somewhere(self, parameters: Mapping[str, Tensor]) -> list[str]:
        """The parameters that have a gradient on at least one rank; all ranks have got to this place then."""
        numbers = [number for param in parameters.values() for number in (param.numel(), int(param.grad is not None))]
        found = self._ranks.gather(numbers)
        for rank, theirs in enumerate(found):
            for i, name in enumerate(parameters):
                if theirs[2 * i] != found[0][2 * i]:
                    raise SplatkitError(
                        f"The ranks differ: {name} has {found[0][2 * i]:,} values on rank 0 and {theirs[2 * i]:,} on "
                        f"rank {rank}. A part changed the number of Gaussians on one rank alone, outside of the hooks "
                        "in which all ranks follow rank 0."
                    )
        return [name for i, name in enumerate(parameters) if any(theirs[2 * i + 1] for theirs in found)]
