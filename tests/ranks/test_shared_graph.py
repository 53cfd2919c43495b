"""The graph that all ranks capture and run at the same steps; graphs here run on the CPU, and call what they hold."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from splatkit_ns.densification import mcmc
from splatkit_ns.plugin.run.processes.roll_call import RollCall
from splatkit_ns.plugin.step import update_graph, updates
from splatkit_ns.plugin.step.finite import FiniteWatch
from splatkit_ns.plugin.step.parts import StepParts
from splatkit_ns.plugin.step.plain import PlainForwardBackward
from splatkit_ns.plugin.step.rank_gradients import RankGradients
from splatkit_ns.plugin.step.update_graph import STEPS_BEFORE, SharedUpdateGraph
from splatkit_ns.plugin.step.updates import ParameterUpdates
from splatkit_ns.ranks import RankLost, Ranks
from tests.faults.runs import CHEAP, make_config
from tests.ranks.bodies import Trained, in_ranks, train
from tests.splat.helpers import make_state


class HeldRun:
    """Runs a function whenever it is replayed, and puts the result where the first one was."""

    def __init__(self) -> None:
        self.replays = 0

    def hold(self, run: Callable[[], Tensor]) -> Tensor:
        self._run, self._result = run, torch.zeros(8)
        return self._result

    def replay(self) -> None:
        self.replays += 1
        self._result.copy_(self._run())


def one_by_one(optimizers: list[Any], rates: Tensor) -> None:
    """As the joint kernel, but with rates of 64 bits."""
    assert len(optimizers) == len(rates)
    for optimizer in optimizers:
        optimizer.step()


def run_graphs_on_the_cpu(patch: Callable[[Any, str, Any], None]) -> None:
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in (("CUDAGraph", HeldRun), ("Stream", lambda: stream), ("current_stream", lambda: stream)):
        patch(torch.cuda, name, value)
    patch(torch.cuda, "stream", lambda stream: nullcontext())
    zeros = torch.zeros
    patch(torch, "zeros", lambda *shape, device=None, **others: zeros(*shape, **others))
    patch(update_graph, "captured", lambda graph, run: graph.hold(run))
    patch(updates, "can_join", lambda optimizer: bool(optimizer.state))
    patch(updates, "step_joined", one_by_one)


class Run:
    """Steps the optimizers of one rank; what the others say is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run_graphs_on_the_cpu(monkeypatch.setattr)
        self.state = make_state(20, stepped=False)
        config = {name: {"optimizer": SimpleNamespace(max_norm=None)} for name in self.state.optimizers}
        nerfstudios: Any = SimpleNamespace(optimizers=self.state.optimizers, schedulers={}, config=config)
        self.updates = ParameterUpdates(nerfstudios, dict.fromkeys(self.state.optimizers, 1), self.state)
        self.roll_call = RollCall(Ranks(), learn=lambda work: None)
        self.gradients = RankGradients(Ranks(), self.roll_call)
        watch = FiniteWatch(list(self.state.optimizers), "cpu", every_step=False)
        self.graph = SharedUpdateGraph(watch, self.updates, self.gradients, lambda: None)
        self.others = 100
        self.frozen = ""

    def step(self, number: int) -> Any:
        """One step; returns the graph that has done it, or None."""
        torch.manual_seed(number)
        self.roll_call.call(False, [0], self.graph.steps_alike())
        for name, param in self.state.params.items():
            param.grad = None if name == self.frozen else torch.randn_like(param)
        expected = {name: param.grad for name, param in self.state.params.items()}
        self.gradients.wait()
        self.roll_call.steps_alike = min(self.roll_call.steps_alike, self.others)
        update = self.graph.take(torch.tensor(1.5))
        if update is None:
            self.gradients.average(self.state.optimizers, torch.tensor(1.5))
            self.updates.step(number)
            return None
        update.prepare(SimpleNamespace(context=SimpleNamespace(step=number)))  # type: ignore[arg-type]
        loss, *largest, own_loss = update.run().tolist()
        assert (loss, own_loss) == (1.5, 1.5)
        assert largest == [0.0 if grad is None else float(grad.abs().max()) for grad in expected.values()]
        for name, param in self.state.params.items():
            assert (param.grad is None) == (expected[name] is None)
        return update

    def done(self, steps: range) -> list[bool]:
        """Whether each of some steps had a graph."""
        return [self.step(number) is not None for number in steps]


def test_it_is_captured_once_and_steps_as_the_optimizers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Run(monkeypatch)
    assert ours.done(range(STEPS_BEFORE + 1)) == [False] * (STEPS_BEFORE + 1), "the first step makes the states"
    graphs = [ours.step(number) for number in range(STEPS_BEFORE + 1, 9)]
    assert len(set(map(id, graphs))) == 1
    assert graphs[0] is not None
    theirs = Run(monkeypatch)
    theirs.others = 0
    assert not any(theirs.done(range(9)))
    for name, param in theirs.state.params.items():
        assert torch.allclose(ours.state.params[name], param, rtol=0, atol=1e-6), name


def test_tensors_of_another_rank_that_change_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.done(range(5))
    first = run.step(5)
    run.others = 0
    assert run.step(6) is None
    run.others = 1
    assert run.step(7) is None
    run.others = STEPS_BEFORE
    second = run.step(8)
    assert second is not None
    assert second is not first


def test_tensors_of_this_rank_that_change_are_told_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.done(range(5))
    assert run.roll_call.steps_alike >= STEPS_BEFORE
    run.state.remove(torch.arange(len(run.state)) < 3)
    assert run.done(range(5, 9)) == [False] * (STEPS_BEFORE) + [True] * (4 - STEPS_BEFORE)


@pytest.mark.parametrize("changes", [True, False], ids=["rows are removed", "too little space for tile lists"])
def test_before_other_graphs_are_captured_nothing_of_this_one_is_left(
    monkeypatch: pytest.MonkeyPatch, changes: bool
) -> None:
    run = Run(monkeypatch)
    run.done(range(5))
    params = list(run.state.params.values())
    kept = [weakref.ref(tensor) for tensor in (*params * changes, *(param.grad for param in params))]
    if changes:
        run.state.remove(torch.arange(len(run.state)) < 3)
    run.updates.clear_all_gradients()
    del params
    assert run.graph.steps_alike(needs_memory=not changes) == 0
    gc.collect()
    assert not any(tensor() is not None for tensor in kept)
    assert run.graph.last is None


def test_gradients_of_other_parameters_need_another_graph_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.done(range(5))
    first = run.step(5)
    run.frozen = "shN"
    assert run.step(6) is not first


def test_if_one_rank_cannot_capture_none_uses_its_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    monkeypatch.setattr(RankGradients, "agree", lambda self, holds: False)
    assert not any(run.done(range(8)))
    assert run.graph.steps_alike() == 0
    assert not run.state.optimizers["means"].param_groups[0]["params"][0].grad.isnan().any()


def test_a_lost_rank_ends_the_step_before_parameters_change(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.done(range(STEPS_BEFORE + 1))
    before = {name: param.detach().clone() for name, param in run.state.params.items()}

    def lost(*arguments: Any) -> Any:
        raise RankLost("Another process of this run has ended.")

    monkeypatch.setattr(RankGradients, "agree", lost)
    with pytest.raises(RankLost):
        run.step(STEPS_BEFORE + 1)
    for name, param in run.state.params.items():
        assert torch.equal(param, before[name])


def noise(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, numbers: Tensor) -> None:
    """Noise as the kernel has it, as far as it depends on the numbers."""
    strength, seed = numbers.tolist()
    means.add_(strength * 1e-3 * torch.randn(means.shape, generator=torch.Generator().manual_seed(int(seed))))


def train_as_ours(config: Any, modules: Any) -> Trained:
    """The body of a rank, which takes all parts for ours, and whose noise has a kernel."""
    StepParts.are_ours = True  # type: ignore[assignment]
    setattr(mcmc, "_kernel_for", lambda state: noise)  # noqa: B010
    return train(config, modules)


def train_with_graphs(config: Any, modules: Any) -> tuple[Trained, int]:
    """The same with a graph for the second part of a step; returns also how often one has run."""
    graphs: list[HeldRun] = []

    class Counted(HeldRun):
        def __init__(self) -> None:
            super().__init__()
            graphs.append(self)

    run_graphs_on_the_cpu(setattr)
    PlainForwardBackward.makes_graphs = True
    for owner, name, value in (
        (torch.cuda, "CUDAGraph", Counted),
        (torch.autograd.graph, "increment_version", lambda tensor: None),
        (FiniteWatch, "every_step", property(lambda self: False, lambda self, value: None)),
    ):
        setattr(owner, name, value)
    return train_as_ours(config, modules), sum(graph.replays for graph in graphs)


def test_two_ranks_with_it_have_the_bits_of_two_without(scene: Path, tmp_path: Path) -> None:
    plain = in_ranks(make_config(scene, tmp_path / "plain", **CHEAP), body=train_as_ours)
    found, replays = in_ranks(make_config(scene, tmp_path / "graphs", **CHEAP), body=train_with_graphs)
    assert replays >= 5
    assert len(set(found.numbers)) > 1, "Gaussians come, and graphs are captured anew"
    for rank in range(2):
        for name, value in plain.parameters[0].items():
            assert torch.equal(found.parameters[rank][name], value), (rank, name)
