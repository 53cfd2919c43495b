"""When the graph of the optimizers' step is captured, and what it is replayed with; the graphs here run on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from splatkit_ns.plugin.step import update_graph, updates
from splatkit_ns.plugin.step.finite import FiniteWatch
from splatkit_ns.plugin.step.update_graph import STEPS_BEFORE, UpdateGraphs
from splatkit_ns.plugin.step.updates import ParameterUpdates
from splatkit_ns.splat import SplatTrainingState
from tests.splat.helpers import make_state


class HeldRun:
    """Runs a function whenever it is replayed, and puts the result where the first one was."""

    captures = 0

    def hold(self, run: Callable[[], Tensor]) -> Tensor:
        HeldRun.captures += 1
        self._run, self._result = run, torch.zeros(8)
        return self._result

    def replay(self) -> None:
        self._result.copy_(self._run())


def one_by_one(optimizers: list[Optimizer], rates: Tensor) -> None:
    """As the joint kernel: the rates are those of the tensor."""
    for optimizer, rate in zip(optimizers, rates.tolist(), strict=True):
        group = optimizer.param_groups[0]
        present, group["lr"] = group["lr"], rate
        optimizer.step()
        group["lr"] = present


class Run:
    """Steps optimizers with graphs where there are some."""

    def __init__(self, state: SplatTrainingState, max_norm: float | None = None) -> None:
        self.state = state
        config = {name: {"optimizer": SimpleNamespace(max_norm=max_norm)} for name in state.optimizers}
        nerfstudios: Any = SimpleNamespace(optimizers=state.optimizers, schedulers={}, config=config)
        self.updates = ParameterUpdates(nerfstudios, dict.fromkeys(state.optimizers, 1), state)
        self.watch = FiniteWatch(list(state.optimizers), "cpu", every_step=False)
        self.graphs = UpdateGraphs(self.watch, self.updates, lambda: None)
        self.grads = {name: torch.zeros_like(param) for name, param in state.params.items()}

    def step(self, number: int, with_graphs: bool = True) -> bool:
        """Whether a graph has done it."""
        torch.manual_seed(number)
        for name, param in self.state.params.items():
            param.grad = self.grads[name].copy_(torch.randn_like(param))
            self.state.optimizers[name].param_groups[0]["lr"] = 0.01 * 0.9**number
        update = self.graphs.take(torch.tensor(1.5), torch.tensor(2.5)) if with_graphs else None
        if update is None:
            self.updates.step(number)
            return False
        update.prepare(SimpleNamespace(context=SimpleNamespace(step=number)))  # type: ignore[arg-type]
        loss, *largest, own_loss = update.run().tolist()
        assert (loss, own_loss) == (2.5, 1.5)
        expected = [float(grad.abs().max()) for grad in self.grads.values()]
        assert self.updates._max_norms["means"] is not None or largest == expected
        return True


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in (("CUDAGraph", HeldRun), ("Stream", lambda: stream), ("current_stream", lambda: stream)):
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, device=None, **others: zeros(*shape, **others))
    monkeypatch.setattr(update_graph, "captured", lambda graph, run: graph.hold(run))
    monkeypatch.setattr(updates, "can_join", lambda optimizer: not optimizer.param_groups[0]["amsgrad"])
    monkeypatch.setattr(updates, "step_joined", one_by_one)
    HeldRun.captures = 0


@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_graphs_step_as_the_optimizers_do(max_norm: float | None) -> None:
    ours, theirs = Run(make_state(20, stepped=False), max_norm), Run(make_state(20, stepped=False), max_norm)
    done = [ours.step(number) for number in range(8)]
    assert done == [False] * (STEPS_BEFORE + 1) + [True] * (7 - STEPS_BEFORE), "the first step makes the states"
    for number in range(8):
        theirs.step(number, with_graphs=False)
    for name, param in theirs.state.params.items():
        assert torch.allclose(ours.state.params[name], param, rtol=0, atol=1e-7), name


def replace_state(run: Run) -> None:
    state = run.state.optimizers["quats"].state[run.state.params["quats"]]
    state["exp_avg"] = state["exp_avg"].clone()


def replace_gradient(run: Run) -> None:
    run.grads["quats"] = run.grads["quats"].clone()


def set_weight_decay(run: Run) -> None:
    run.state.optimizers["quats"].param_groups[0]["weight_decay"] = 0.1


def add_hook(run: Run) -> None:
    run.state.optimizers["quats"].register_step_pre_hook(lambda *_: None)


def remove_gaussians(run: Run) -> None:
    run.state.remove(torch.arange(len(run.state)) < 3)
    run.grads = {name: torch.zeros_like(param) for name, param in run.state.params.items()}


@pytest.mark.parametrize(
    "change", [replace_state, replace_gradient, set_weight_decay, add_hook, remove_gaussians], ids=lambda f: f.__name__
)
def test_other_tensors_and_settings_need_another_graph(change: Callable[[Run], None]) -> None:
    run = Run(make_state(20, stepped=False))
    for number in range(6):
        run.step(number)
    assert HeldRun.captures == 1
    change(run)
    assert [run.step(number) for number in range(6, 10)] == [False] * STEPS_BEFORE + [True] * (4 - STEPS_BEFORE)
    assert HeldRun.captures == 2


def test_other_optimizers_step_by_themselves() -> None:
    ours, theirs = Run(make_state(20, stepped=False)), Run(make_state(20, stepped=False))
    for run in (ours, theirs):
        run.state.optimizers["scales"].param_groups[0]["amsgrad"] = True
    assert [ours.step(number) for number in range(6)][-1]
    for number in range(6):
        theirs.step(number, with_graphs=False)
    for name, param in theirs.state.params.items():
        assert torch.allclose(ours.state.params[name], param, rtol=0, atol=1e-7), name


def test_without_optimizers_that_step_together_there_is_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "can_join", lambda optimizer: False)
    run = Run(make_state(20, stepped=False))
    assert not any(run.step(number) for number in range(8))
    assert HeldRun.captures == 0


def test_a_capture_that_fails_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def fails(graph: Any, run: Any) -> Any:
        tried.append(1)
        raise RuntimeError("no")

    monkeypatch.setattr(update_graph, "captured", fails)
    run = Run(make_state(20, stepped=False))
    assert not any(run.step(number) for number in range(8))
    assert len(tried) == 1
