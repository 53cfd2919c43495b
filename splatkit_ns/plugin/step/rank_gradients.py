"""The averaging of gradients over ranks, between backward pass and optimizers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.step.updates import parameters_of
from splatkit_ns.ranks import Ranks
from splatkit_ns.rasterize.color_gradients import ColorGradients
from splatkit_ns.triton_kernels import lazy_kernel


class GradientExchange(Protocol):
    """Makes the gradients of this process those of the whole step."""

    def wait(self) -> None:
        """Wait until all ranks have begun this step."""
        ...

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
        """A block in which render, loss and backward pass of a step's photographs run."""
        ...

    def take_image(self) -> None:
        """Take the gradients of a photograph; call this in that block after each."""
        ...


class Begun(Protocol):
    """Waits for the other ranks."""

    steps_alike: int
    """The least number that a rank has given, see `SharedUpdateGraph`."""

    def wait(self) -> None:
        """Wait until all ranks have begun this step."""
        ...


class OwnGradients:
    """The gradients of one process, which stay as they are."""

    def wait(self) -> None:
        pass

    def average(self, optimizers: Mapping[str, Optimizer], loss: Tensor) -> Tensor:
        return loss

    def collected(self) -> AbstractContextManager[None]:
        return nullcontext()

    def take_image(self) -> None:
        pass


class RankGradients:
    """Averages the gradients of all parameters in one exchange, where they are.

    Every rank then has the same bits, so that the optimizers keep the parameters of the ranks equal. On GPUs, the
    gradients of spherical harmonics are not exchanged but computed on each rank from those of the colours: see
    `ColorGradients`.

    Args:
        ranks: the ranks of this run.
        begun: waits until all ranks have begun this step, if every rank has gradients of the same parameters; None if
            the ranks have to tell each other of which they have.
        batch_size: the number of photographs that each rank renders in a step.
    """

    def __init__(self, ranks: Ranks, begun: Begun | None = None, batch_size: int = 1) -> None:
        self._ranks, self._begun, self._batch_size = ranks, begun, batch_size
        self._colors = ColorGradients()
        self._colors_of_batch: list[Tensor] = []
        """Copies of the gradients of colours of this step's photographs, if there are several."""
        self._made: dict[str, Tensor] = {}
        """The gradients of coefficients, at the same addresses in all steps, as a CUDA graph of the next part needs."""
        self._placed: list[Tensor] = []
        """The loss, the gradients that are averaged, and those of colours, likewise; see `place`."""
        self._made_placed: dict[str, Tensor] = {}
        self._parameters: dict[str, Tensor] = {}

    @property
    def is_lost(self) -> bool:
        """Whether another rank has ended, so that an exchange on the GPU may never end."""
        return self._ranks.is_lost

    @property
    def fits_graphs(self) -> bool:
        """Whether ranks exchange without looking at each other's tensors before, so that a CUDA graph can hold it."""
        return self._begun is not None

    def wait(self) -> None:
        """Wait until all ranks have begun this step; without `begun` the exchange waits itself.

        Raises:
            RankLost: another rank has ended.
        """
        if self._begun is not None:
            self._begun.wait()

    def collected(self) -> AbstractContextManager[None]:
        """A block in which render, loss and backward pass of a step's photographs run.

        Without parts of users, it keeps the gradients of colours.
        """
        self._colors_of_batch = []
        return nullcontext() if self._begun is None else self._colors.keeping()

    def take_image(self) -> None:
        """Take the gradients of a photograph's colours; after the last one of a step, those of all are kept."""
        found = self._colors.found
        if self._batch_size == 1 or found is None:
            return
        self._colors_of_batch.append(found.clone())
        self._colors.forget()
        if len(self._colors_of_batch) == self._batch_size:
            self._colors.found, self._colors_of_batch = torch.stack(self._colors_of_batch), []

    @torch.no_grad()
    def average(self, optimizers: Mapping[str, Optimizer], loss: Tensor) -> Tensor:
        """Average gradients and loss; see `GradientExchange`.

        Raises:
            RankLost: another rank has ended.
            SplatkitError: the ranks do not have the same parameters.
        """
        parameters = parameters_of(optimizers)
        if self._begun is None:
            names = self._with_gradient_somewhere(parameters)
        else:
            names = [name for name, param in parameters.items() if param.grad is not None]
        found: list[Tensor] = [loss.detach().clone()]
        for name in names:
            param = parameters[name]
            param.grad = torch.zeros_like(param) if param.grad is None else param.grad.contiguous()
            found.append(param.grad)
        made = {} if self._colors.found is None else self._new_places(parameters)
        self._exchange(parameters, found, self._colors.found, made)
        for name, gradient in made.items():
            param = parameters[name]
            param.grad = gradient if param.grad is None else param.grad.add_(gradient)
        return found[0]

    def _exchange(
        self, parameters: Mapping[str, Tensor], averaged: list[Tensor], colors: Tensor | None, made: dict[str, Tensor]
    ) -> None:
        """Average tensors in place, and make the mean gradients of coefficients of those of the colours."""
        if colors is None:
            self._ranks.average(averaged)
            return
        every = self._ranks.gather_tensors(colors).reshape(-1, *colors.shape[-2:])  # a row for each photograph
        wait = self._ranks.average_later(averaged)
        self._make_coefficient_gradients(parameters["means"], every, made)  # meanwhile
        wait()

    def _make_coefficient_gradients(self, means: Tensor, colors: Tensor, made: dict[str, Tensor]) -> None:
        """Compute the mean gradients of spherical harmonics from those of the colours of all ranks."""
        kernel = exchange_kernel()
        assert kernel is not None, "the gradients of colours are kept by kernels in Triton, too"
        kernel(means, colors, made["sh0"], made.get("shN"), self._colors.bands)

    def _coefficients(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters whose gradients are made of those of the colours."""
        return {name: parameters[name] for name in (("sh0", "shN") if self._colors.bands > 1 else ("sh0",))}

    def _new_places(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors for the gradients of coefficients, which are not kept for further steps."""
        return {name: torch.empty_like(param) for name, param in self._coefficients(parameters).items()}

    def _places(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors for the gradients of coefficients: those of the last step, unless they are in use or do not fit."""
        wanted = self._coefficients(parameters)
        if any(param.grad is not None for param in wanted.values()):  # being summed up
            return self._new_places(parameters)
        if {name: place.shape for name, place in self._made.items()} != {n: p.shape for n, p in wanted.items()}:
            self._made = {}
            self._made = self._new_places(parameters)
        return dict(self._made)

    # ------------------------------------------------------------------ an exchange that a CUDA graph holds

    @property
    def steps_alike(self) -> int:
        """The least number of steps in a row that have begun with the same tensors, over the ranks."""
        return 0 if self._begun is None else self._begun.steps_alike

    def agree(self, holds: bool) -> bool:
        """Whether something holds on all ranks.

        Raises:
            RankLost: another rank has ended.
        """
        return all(flag for (flag,) in self._ranks.gather([int(holds)]))

    @torch.no_grad()
    def place(self, optimizers: Mapping[str, Optimizer], loss: Tensor) -> Hashable:
        """Copy loss and gradients to addresses that are the same in all steps, and let the parameters have these.

        Returns:
            The kind of exchange, the same on all ranks: `exchange_placed` of another kind needs another graph.
        """
        parameters = self._parameters = parameters_of(optimizers)
        names = [name for name, param in parameters.items() if param.grad is not None]
        found: list[Any] = [loss.detach(), *(parameters[name].grad for name in names)]
        found += [] if self._colors.found is None else [self._colors.found]
        shapes = [tensor.shape for tensor in found]
        if [place.shape for place in self._placed] != shapes:
            self._placed = []
            self._placed = [torch.empty(shape, dtype=torch.float32, device=loss.device) for shape in shapes]
        torch._foreach_copy_(self._placed, found)  # type: ignore[reportPrivateUsage]
        for name, place in zip(names, self._placed[1:], strict=False):
            parameters[name].grad = place
        self._made_placed = {} if self._colors.found is None else self._places(parameters)
        for name, place in self._made_placed.items():
            parameters[name].grad = place
        return tuple(names), tuple(shapes), self._colors.found is None, self._colors.bands

    @torch.no_grad()
    def exchange_placed(self) -> tuple[Tensor, Tensor]:
        """Exchange what `place` has put in place; a CUDA graph can hold this.

        Returns:
            The mean loss of all ranks and that of this one, scalars.
        """
        own_loss = self._placed[0].clone()
        has_colors = self._colors.found is not None
        averaged, colors = (self._placed[:-1], self._placed[-1]) if has_colors else (self._placed, None)
        self._exchange(self._parameters, averaged, colors, self._made_placed)
        return self._placed[0], own_loss

    def forget_places(self) -> None:
        """Let `average` exchange what `place` has put in place."""
        for name in self._made_placed:
            self._parameters[name].grad = None

    def free_places(self) -> None:
        """Free what `place` has used, which no graph reads any more; call this between two steps.

        The next steps need memory for parameters and graphs of another size, before they place anything.
        """
        self._placed, self._made, self._made_placed, self._parameters = [], {}, {}, {}

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


@lazy_kernel(otherwise="Ranks cannot exchange the gradients of colours")
def exchange_kernel() -> Callable[..., None]:
    """The kernel that makes the gradients of coefficients."""
    from splatkit_ns.rasterize._sh_exchange_triton import coefficient_gradients, first_launches  # needs Triton

    first_launches("cuda")
    return coefficient_gradients
