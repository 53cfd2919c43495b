"""The check of gradients and the optimizers' step as one CUDA graph, which follows that of the backward pass.

With several ranks it begins with the exchange of gradients, and it ends with what densification does at every step. The
graph is captured anew when the address of a tensor changes, or a setting of an optimizer. Learning rates and other
numbers that change from step to step are read on the device.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer

from splatkit_ns.densification.base import Motion
from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.step.capturing import captured
from splatkit_ns.plugin.step.finite import FiniteWatch
from splatkit_ns.plugin.step.motion import numbers_of
from splatkit_ns.plugin.step.parts import StepParts
from splatkit_ns.plugin.step.rank_gradients import RankGradients
from splatkit_ns.plugin.step.updates import ParameterUpdates, parameter_of
from splatkit_ns.splat.joint_step import learning_rates

logger = logging.getLogger("splatkit_ns")

MOST_GRAPHS = 4
"""The most graphs that are kept: images of each size have gradients of their own."""
STEPS_BEFORE = 2
"""The number of steps with the same tensors after which they are worth a graph."""
REMEMBERED = 100
"""The number of different sets of tensors that are counted."""


@dataclass
class CapturedUpdate:
    """A graph, with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    joined: dict[str, Optimizer]
    """The optimizers that the graph steps."""
    others: dict[str, Optimizer]
    """The optimizers that step by themselves afterwards."""
    motion: Motion | None
    """The change of the Gaussians by densification, after that; None if it is not in the graph."""
    numbers: Tensor
    """The numbers of the motion, and the learning rate of each optimizer in `joined`, float64."""
    row: Tensor
    """The row that `FiniteWatch` records."""
    updates: ParameterUpdates
    numbers_on_host: list[float] = field(default_factory=list[float])
    prepared_for: int | None = None
    """The step that `numbers` are for."""

    def prepare(self, parts: StepParts) -> None:
        """Copy the numbers of the present step to the device, unless that has been done."""
        if self.prepared_for == parts.context.step:
            return
        self.prepared_for = parts.context.step
        numbers = [*numbers_of(self.motion, parts, self.updates), *learning_rates(list(self.joined.values()))]
        if numbers != self.numbers_on_host:
            self.numbers.copy_(torch.tensor(numbers, dtype=torch.float64), non_blocking=True)
            self.numbers_on_host = numbers

    def run(self) -> Tensor:
        """Run the graph, and step the optimizers that are not in it; returns what `FiniteWatch` records."""
        self.graph.replay()
        for optimizer in self.joined.values():
            torch.autograd.graph.increment_version(parameter_of(optimizer))
        self.updates.step_alone(self.others)
        return self.row


class UpdateCapture:
    """Captures the check of gradients and the optimizers' step.

    Args:
        watch: finds the largest gradients.
        updates: the optimizers.
        motion: what densification does afterwards, if that can be in the graph.
    """

    def __init__(self, watch: FiniteWatch, updates: ParameterUpdates, motion: Callable[[], Motion | None]) -> None:
        self._watch, self._updates, self._motion = watch, updates, motion
        self._stream: torch.cuda.Stream | None = None

    def try_to(self, losses: Callable[[], tuple[Tensor, Tensor]]) -> CapturedUpdate | None:
        """Capture a graph; None if no optimizers step together, or if that fails.

        Args:
            losses: gives the mean loss of all ranks and that of this one; runs in the graph, before the check.

        Raises:
            SplatkitError: see `captured`.
        """
        try:
            return self._capture(losses)
        except SplatkitError:
            raise
        except Exception as error:
            logger.info("Optimizers step without a CUDA graph (%s: %s).", type(error).__name__, error)
            return None

    def _capture(self, losses: Callable[[], tuple[Tensor, Tensor]]) -> CapturedUpdate | None:
        joined, others = self._updates.joined(), self._updates.not_joined()
        if not joined:
            return None
        motion = self._motion()
        size = 0 if motion is None else motion.size
        numbers = torch.zeros(size + len(joined), dtype=torch.float64, device="cuda")

        def run() -> Tensor:
            loss, own_loss = losses()
            row = self._watch.row(self._watch.largest_gradients(self._updates.optimizers), own_loss, loss)
            self._updates.step_joined(joined, numbers[size:].float())
            if motion is not None:
                motion.launch(numbers[:size])
            return row

        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        self._stream = self._stream or torch.cuda.Stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            row = captured(graph, run)
        current.wait_stream(self._stream)
        return CapturedUpdate(graph, joined, others, motion, numbers, row, self._updates)


class UpdateGraphs:
    """Graphs for steps whose gradients a CUDA graph has computed, of one rank, or averaged before.

    Args:
        watch: finds the largest gradients.
        updates: the optimizers.
        motion: what densification does afterwards, if that can be in the graph.
    """

    def __init__(self, watch: FiniteWatch, updates: ParameterUpdates, motion: Callable[[], Motion | None]) -> None:
        self._updates, self._capture = updates, UpdateCapture(watch, updates, motion)
        self._graphs: dict[Hashable, CapturedUpdate] = {}
        self._seen: Counter[Hashable] = Counter()
        self._losses: list[Tensor] = []
        self.last: CapturedUpdate | None = None
        """The graph of the last step that had one."""
        self._off = watch.every_step  # the host then waits for the gradients in between

    def take(self, own_loss: Tensor, loss: Tensor) -> CapturedUpdate | None:
        """The graph for this step; None if there is none.

        Args:
            own_loss: the loss of this rank's image, scalar.
            loss: the mean over the ranks.

        Raises:
            SplatkitError: see `captured`.
        """
        if self._off:
            return None
        key = self._updates.launch_key()
        step = self._graphs.get(key) or self._new_graph(key, loss)
        if step is not None:
            self.last = step
            torch._foreach_copy_(self._losses, [loss.detach(), own_loss.detach()])  # type: ignore[reportPrivateUsage]
        return step

    def close(self) -> None:
        """Free the graphs; there are no others."""
        self._off, self.last = True, None
        self._graphs.clear()

    def _new_graph(self, key: Hashable, loss: Tensor) -> CapturedUpdate | None:
        """Capture a graph, if these tensors have been seen before; None if not, or if it fails."""
        if len(self._seen) > REMEMBERED:
            self._seen.clear()
        self._seen[key] += 1
        if self._seen[key] <= STEPS_BEFORE:
            return None
        while len(self._graphs) >= MOST_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        self._losses = self._losses or [torch.zeros_like(loss.detach()) for _ in range(2)]
        step = self._capture.try_to(lambda: (self._losses[0], self._losses[1]))
        if step is None:
            self.close()
        else:
            self._graphs[key] = step
        return step


class SharedUpdateGraph:
    """The graph of all ranks of a run, which begins with the exchange of gradients.

    NCCL wants all ranks to capture an exchange at the same step, and to run it as a graph at the same steps. So each
    rank says at the beginning of a step for how many steps its tensors have been the same; the least number decides.

    Args:
        watch: finds the largest gradients.
        updates: the optimizers.
        gradients: exchanges them, where they are at the same addresses in all steps.
        motion: what densification does afterwards, if that can be in the graph.
    """

    def __init__(
        self,
        watch: FiniteWatch,
        updates: ParameterUpdates,
        gradients: RankGradients,
        motion: Callable[[], Motion | None],
    ) -> None:
        self._updates, self._gradients = updates, gradients
        self._capture = UpdateCapture(watch, updates, motion)
        self.last: CapturedUpdate | None = None
        """The graph."""
        self._key: Hashable = None
        self._kind: Hashable = None
        self._alike = 0
        self._off = watch.every_step

    def steps_alike(self, needs_memory: bool = False) -> int:
        """The number of steps in a row that begin with the same tensors; call it at the beginning of each step.

        Args:
            needs_memory: whether the step will need the memory of this graph; it then counts as one with other tensors.
        """
        if self._off:
            return 0
        key = self._updates.launch_key(with_gradients=False)
        self._alike = self._alike + 1 if key == self._key and not needs_memory else 0
        self._key = key
        if self._alike == 0:
            self.last = None
            self._gradients.free_places()
        return self._alike

    def take(self, loss: Tensor) -> CapturedUpdate | None:
        """The graph for this step, the same on all ranks; None if there is none.

        Args:
            loss: that of this rank's image, scalar.

        Raises:
            RankLost: another rank has ended.
            SplatkitError: see `captured`.
        """
        if self._off or self._gradients.steps_alike < STEPS_BEFORE:
            self.last = None
            return None
        kind = self._gradients.place(self._updates.optimizers, loss)
        if kind != self._kind or self.last is None:
            self._kind = kind
            self.last = self._capture.try_to(self._gradients.exchange_placed)
            if not self._gradients.agree(self.last is not None):
                self.close()
                self._gradients.forget_places()
        return self.last

    def close(self) -> None:
        """Free the graph; there is no other."""
        self._off, self.last = True, None
