"""The check of gradients and the optimizers' step as one CUDA graph, which follows that of the backward pass.

The graph is captured anew when the address of a tensor changes, or a setting of an optimizer. Learning rates are read
on the device.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.step.capturing import captured
from splatkit_ns.plugin.step.finite import FiniteWatch
from splatkit_ns.plugin.step.updates import ParameterUpdates
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
    """Those that step by themselves afterwards."""
    rates: Tensor
    """The learning rate of each in `joined`."""
    largest: Tensor
    """The largest gradients."""
    rates_on_host: list[float] = field(default_factory=list[float])


class UpdateGraphs:
    """Runs the check of gradients and the optimizers' step of a step whose gradients a CUDA graph has computed.

    Args:
        watch: finds the largest gradients.
        updates: the optimizers.
    """

    def __init__(self, watch: FiniteWatch, updates: ParameterUpdates) -> None:
        self._watch, self._updates = watch, updates
        self._graphs: dict[Hashable, CapturedUpdate] = {}
        self._seen: Counter[Hashable] = Counter()
        self._stream: torch.cuda.Stream | None = None
        self._off = watch.every_step  # the host then waits for the gradients in between

    def run(self) -> Tensor | None:
        """Step the optimizers.

        Returns:
            The largest gradients, as `FiniteWatch.largest_gradients` has them; None if there is no graph for this step,
            and nothing has been done.

        Raises:
            SplatkitError: see `captured`.
        """
        if self._off:
            return None
        key = self._updates.launch_key()
        step = self._graphs.get(key)
        if step is None:
            step = self._new_graph(key)
        if step is None:
            return None
        rates = learning_rates(list(step.joined.values()))
        if rates != step.rates_on_host:
            step.rates.copy_(torch.tensor(rates), non_blocking=True)
            step.rates_on_host = rates
        step.graph.replay()
        for optimizer in step.joined.values():
            torch.autograd.graph.increment_version(optimizer.param_groups[0]["params"][0])
        self._updates.step_alone(step.others)
        return step.largest

    def close(self) -> None:
        """Free the graphs; there are no others."""
        self._off = True
        self._graphs.clear()

    def _new_graph(self, key: Hashable) -> CapturedUpdate | None:
        """Capture a graph, if these tensors have been seen before; None if not, or if it fails."""
        if len(self._seen) > REMEMBERED:
            self._seen.clear()
        self._seen[key] += 1
        if self._seen[key] <= STEPS_BEFORE:
            return None
        while len(self._graphs) >= MOST_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        try:
            step = self._capture()
        except SplatkitError:
            raise
        except Exception as error:
            logger.info("Optimizers step without a CUDA graph (%s: %s).", type(error).__name__, error)
            step = None
        if step is None:
            self.close()
        else:
            self._graphs[key] = step
        return step

    def _capture(self) -> CapturedUpdate | None:
        """Capture a graph; None if no optimizers step together."""
        joined, others = self._updates.joined(), self._updates.not_joined()
        if not joined:
            return None
        rates = torch.zeros(len(joined), device="cuda")

        def run() -> Tensor:
            largest = self._watch.largest_gradients(self._updates.optimizers)
            self._updates.step_joined(joined, rates)
            return largest

        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        self._stream = self._stream or torch.cuda.Stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            largest = captured(graph, run)
        current.wait_stream(self._stream)
        return CapturedUpdate(graph, joined, others, rates, largest)
