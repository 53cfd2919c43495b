"""When graphs are captured, given up and replaced; with graphs that only count, so that it needs no GPU."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from splatkit_ns.cameras import LensModel, View
from splatkit_ns.errors import SplatkitError
from splatkit_ns.image_model import IdentityImageModel
from splatkit_ns.loss_fn import Splat3DGSLossFn
from splatkit_ns.plugin.step import graph as step_graph
from splatkit_ns.plugin.step.frame import TrainingFrame
from splatkit_ns.plugin.step.graph import STEPS_BEFORE, GraphForwardBackward
from splatkit_ns.plugin.step.side_stream import SideStream
from splatkit_ns.ranks import RankLost
from splatkit_ns.rasterize.tile_list_space import ListSpace
from splatkit_ns.renderer import Splat3DGSRenderer

VIEW = View(torch.eye(4)[None], torch.eye(3)[None], 8, 6)


def frame(mask: bool = False, view: View = VIEW) -> TrainingFrame:
    """A training image of noise."""
    camera: Any = None
    valid = torch.ones(1, 6, 8, dtype=torch.bool) if mask else None
    return TrainingFrame(camera, view, torch.zeros(3), torch.rand(1, 6, 8, 3), valid)


class CountingGraph:
    """Does nothing when it is replayed; what was run to capture it has been run."""

    needed = 100
    space: ListSpace
    captures: list[int | None]
    replays = 0
    broken = False

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "") -> None:
        if pool is not None:
            CountingGraph.captures.append(CountingGraph.space.capacity)

    def capture_end(self) -> None:
        CountingGraph.space.was_used = True
        if CountingGraph.broken and CountingGraph.space.capacity is not None:
            raise RuntimeError("operation would make the legacy stream depend on a capturing blocking stream")

    def pool(self) -> str:
        return "pool"

    def replay(self) -> None:
        CountingGraph.replays += 1
        CountingGraph.space.needed.fill_(CountingGraph.needed)


class StubModel:
    """Renders one number and has one parameter."""

    def __init__(self) -> None:
        self.renderer, self.image_model, self.loss_fn = Splat3DGSRenderer(), IdentityImageModel(), Splat3DGSLossFn()
        self.parts = self.dispatcher = self
        self.gauss_params = {"means": torch.nn.Parameter(torch.ones(5, 3))}
        self.training_state = self.gauss_params["means"]
        self.degree = 0
        self.fails, self.keeps_losses = False, True
        self.reseeded = 0
        self.rendered = "means"
        self.context: Any = SimpleNamespace(masks=None)
        for name in (*step_graph.CONTEXT_FIELDS, "loss", "loss_terms"):
            setattr(self.context, name, None)

    def get_param_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        return {name: [param] for name, param in self.gauss_params.items()}

    def reseed_render(self) -> None:
        self.reseeded += 1

    def measure(self) -> None:
        """Nothing."""

    def listens_to(self, hook: str) -> bool:
        return self.keeps_losses

    def sh_degree_now(self) -> int:
        return self.degree

    def wants_depth_now(self) -> bool:
        return False

    def use_frame(self, frame: TrainingFrame) -> TrainingFrame:
        self.context.target_frames, self.context.masks = frame.target, frame.mask
        return frame

    def get_outputs(self, camera: Any) -> dict[str, Any]:
        if self.fails and CountingGraph.space.capacity is not None:
            raise ValueError("no")
        self.context.rendered_frames = self.gauss_params[self.rendered].sum()
        return {"rgb": self.context.rendered_frames}

    def get_loss_dict(self, outputs: Any, batch: Any) -> None:
        terms = {"l1": self.context.rendered_frames, "opacity_reg": 2 * self.context.rendered_frames}
        self.context.loss_terms, self.context.loss = terms, terms["l1"] + terms["opacity_reg"]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> StubModel:
    """A model for graphs that count."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    zeros = torch.zeros
    monkeypatch.setattr(torch.cuda, "CUDAGraph", CountingGraph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch, "zeros", lambda *shape, dtype=None, **_: zeros(*shape, dtype=dtype))
    monkeypatch.setattr(step_graph, "MIN_SPACE", 1)
    CountingGraph.captures, CountingGraph.replays = [], 0
    CountingGraph.needed, CountingGraph.broken = 100, False
    return StubModel()


def run(graphs: GraphForwardBackward, model: StubModel, steps: int, longest: int = 80) -> int:
    """Train; returns how many of the steps a graph did."""
    done, space = 0, graphs.list_space
    CountingGraph.space = space
    for _ in range(steps):
        model.gauss_params["means"].grad = None
        step_frame = frame()
        model.use_frame(step_frame)
        space.longest = longest  # as steps without a graph note it
        graphs.begin(step_frame)
        done += graphs.run(step_frame, {}) == {}
    return done


def test_a_graph_is_captured_once_and_then_replayed(model: StubModel) -> None:
    graphs = GraphForwardBackward(model)  # type: ignore[arg-type]
    assert run(graphs, model, STEPS_BEFORE + 30) == 30
    assert CountingGraph.captures == [120], "half as much again as the 80 that were seen"
    assert CountingGraph.replays == 30
    assert torch.equal(model.gauss_params["means"].grad, torch.full((5, 3), 3.0))
    assert graphs.list_space.capacity is None


def test_steps_whose_tile_lists_are_not_ours_are_never_captured(model: StubModel) -> None:
    """gsplat composites packed renders, and all of them where Triton is missing."""
    graphs = GraphForwardBackward(model)  # type: ignore[arg-type]
    assert run(graphs, model, STEPS_BEFORE + 10, longest=0) == 0
    assert CountingGraph.captures == []


def test_nor_are_they_if_a_setting_changes_the_lists_during_training(model: StubModel) -> None:
    graphs = GraphForwardBackward(model)  # type: ignore[arg-type]
    assert run(graphs, model, STEPS_BEFORE + 5) == 5
    model.renderer.packed = True
    assert run(graphs, model, 10, longest=0) == 0
    assert len(CountingGraph.captures) == 1


def test_losses_are_copies_and_gradients_are_those_of_the_graph(model: StubModel) -> None:
    graphs = GraphForwardBackward(model)  # type: ignore[arg-type]
    run(graphs, model, STEPS_BEFORE + 1)
    first = model.context.loss
    assert float(first) == 45
    assert {name: float(term) for name, term in model.context.loss_terms.items()} == {"l1": 15, "opacity_reg": 30}
    run(graphs, model, 1)
    assert model.context.loss.data_ptr() != first.data_ptr()


def test_losses_that_no_hook_sees_are_those_of_the_graph(model: StubModel) -> None:
    model.keeps_losses = False
    graphs = GraphForwardBackward(model)  # type: ignore[arg-type]
    run(graphs, model, STEPS_BEFORE + 1)
    first = model.context.loss
    assert float(first) == 45
    assert {name: float(term) for name, term in model.context.loss_terms.items()} == {"l1": 15, "opacity_reg": 30}
    run(graphs, model, 1)
    assert model.context.loss is first


@pytest.mark.parametrize("change", ["degree", "weight", "dropout", "frozen", "parameter", "number"])
def test_what_kernels_hold_is_noticed_when_it_changes(change: str, model: StubModel) -> None:
    graphs = GraphForwardBackward(model)  # type: ignore[arg-type]
    run(graphs, model, STEPS_BEFORE + 10)
    if change == "degree":
        model.degree = 1
    elif change == "weight":
        model.loss_fn.opacity_reg = 0.5
    elif change == "dropout":
        model.renderer.dropout = 0.5
    elif change == "frozen":
        model.gauss_params["means"].requires_grad_(False)
        model.gauss_params["other"] = torch.nn.Parameter(torch.ones(1))
        model.rendered = "other"
    else:
        rows = 6 if change == "number" else 5
        model.training_state = model.gauss_params["means"] = torch.nn.Parameter(torch.ones(rows, 3))
    replays = CountingGraph.replays
    done = run(graphs, model, 10)
    assert done == (10 if change == "parameter" else 9), "what is new may load kernels, so it runs once without a graph"
    assert len(CountingGraph.captures) == 2
    assert CountingGraph.replays == replays + done
    if change == "frozen":
        assert model.gauss_params["means"].grad is None


def test_lists_that_do_not_fit_get_a_graph_with_more_space(model: StubModel) -> None:
    graphs = GraphForwardBackward(model)  # type: ignore[arg-type]
    run(graphs, model, STEPS_BEFORE + 5)
    CountingGraph.needed = 200
    assert not graphs.needs_graph
    assert run(graphs, model, 1) == 0, "the step runs again without a graph"
    assert graphs.needs_graph, "the next step captures one"
    assert model.reseeded == 1
    assert torch.equal(model.gauss_params["means"].grad, torch.full((5, 3), 3.0))
    assert run(graphs, model, 4) == 4
    assert not graphs.needs_graph
    assert CountingGraph.captures == [120, 300]


def test_the_work_of_each_step_is_known_after_the_next_one(model: StubModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the steps run as graphs, without, or again for lack of space."""
    graphs = GraphForwardBackward(model, measures_work=True)  # type: ignore[arg-type]
    before, counter = graphs.meter._before, graphs.list_space.work
    assert before is not None
    assert counter is not None
    works, kept = list(range(1000, 1000 + STEPS_BEFORE + 12)), list[torch.Tensor]()
    step, short, kinds, found = 0, STEPS_BEFORE + 6, list[str](), list[int]()
    get_outputs, begin, end = model.get_outputs, CountingGraph.capture_begin, CountingGraph.capture_end

    def rendered(camera: Any) -> dict[str, Any]:
        counter.add_(works[step])
        return get_outputs(camera)

    def capture_begin(self: Any, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        kept[:] = [before.clone(), counter.clone()]

    def capture_end(self: Any) -> None:
        end(self)
        before.copy_(kept[0])  # nothing runs in a capture
        counter.copy_(kept[1])

    def replay(self: Any) -> None:
        graphs.meter.begin()
        counter.add_(5 if step == short else works[step])
        CountingGraph.space.needed.fill_(200 if step >= short else 100)

    monkeypatch.setattr(model, "get_outputs", rendered)
    monkeypatch.setattr(CountingGraph, "capture_begin", capture_begin)
    monkeypatch.setattr(CountingGraph, "capture_end", capture_end)
    monkeypatch.setattr(CountingGraph, "replay", replay)
    for step in range(len(works)):  # the functions above read it
        run(graphs, model, 1)
        found.append(graphs.work)
        kinds.append("again" if graphs.needs_graph else "graph" if graphs.is_replay else "plain")
        assert graphs.last_work() == works[step]
    assert kinds == ["plain"] * STEPS_BEFORE + ["graph"] * 6 + ["again"] + ["graph"] * 5
    assert found == [0, *works[:-1]]


def test_without_counted_work_it_is_the_length_of_the_tile_lists(model: StubModel) -> None:
    """Of renders that do not count, too."""
    for graphs in (GraphForwardBackward(model), GraphForwardBackward(model, measures_work=True)):  # type: ignore[arg-type]
        found: list[tuple[int, int]] = []
        for length in (70, 80, 90):
            run(graphs, model, 1, longest=length)
            found.append((graphs.work, graphs.last_work()))
        assert found == [(0, 70), (70, 80), (80, 90)]


class NotedSide(SideStream):
    """Notes what a side stream is asked for."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    @contextmanager
    def own_random_numbers(self) -> Generator[None]:
        self._notes.append("random numbers")
        yield

    @contextmanager
    def launching(self) -> Generator[None]:
        self._notes.append("launch")
        yield

    def wait(self) -> None:
        self._notes.append("wait")


def test_graphs_beside_those_of_other_images_are_launched_before_their_results_are_waited_for(
    model: StubModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: notes.append("scratch memory"))
    side = NotedSide(notes)
    graphs = GraphForwardBackward(model, side=side)  # type: ignore[arg-type]
    CountingGraph.space = graphs.list_space
    found: list[list[str]] = []
    for step in range(STEPS_BEFORE + 4):
        CountingGraph.needed = 200 if step == STEPS_BEFORE + 2 else 100
        notes.clear()
        model.gauss_params["means"].grad = None
        graphs.list_space.longest = 80
        image = frame()
        graphs.begin(image)
        assert model.gauss_params["means"].grad is None, "the next image's graph would add up its gradients"
        notes.append("begun")
        is_graph = graphs.run(image, {}) == {}
        assert torch.equal(model.gauss_params["means"].grad, torch.full((5, 3), 3.0))
        found.append([*notes, "graph" if is_graph else "plain"])
    replayed = ["launch", "begun", "wait", "graph"]
    captured = ["scratch memory", "random numbers", *replayed]
    assert found[: STEPS_BEFORE + 2] == [["begun", "plain"]] * STEPS_BEFORE + [captured, replayed]
    assert found[STEPS_BEFORE + 2 :] == [["launch", "begun", "wait", "plain"], captured]


def test_short_lists_have_space_to_grow(model: StubModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_graph, "MIN_SPACE", 5000)
    run(GraphForwardBackward(model), model, STEPS_BEFORE + 5)  # type: ignore[arg-type]
    assert CountingGraph.captures == [5000]


def test_graphs_that_are_hardly_replayed_are_given_up(model: StubModel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="splatkit_ns")
    graphs = GraphForwardBackward(model)  # type: ignore[arg-type]
    run(graphs, model, STEPS_BEFORE + 2)
    for number in range(100):
        model.loss_fn.opacity_reg = number / 1000
        run(graphs, model, 2)
    assert len(CountingGraph.captures) == step_graph.TRIED
    assert run(graphs, model, 10) == 0
    assert "properties that a graph depends on change too often" in caplog.text


def test_a_step_that_fails_while_it_is_captured_runs_without(
    model: StubModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", logger="splatkit_ns")
    graphs = GraphForwardBackward(model)  # type: ignore[arg-type]
    has_memory: list[bool] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: has_memory.append(graphs._memory._holder is not None))
    model.fails = True
    assert run(graphs, model, STEPS_BEFORE + 5) == 0
    assert len(CountingGraph.captures) == 1, "it is not tried again"
    assert has_memory == [True], "an earlier step may still be running on the device"
    assert graphs._memory._holder is None
    assert "Steps run without CUDA graphs (ValueError: no)." in caplog.text
    assert graphs.list_space.capacity is None


def test_a_capture_that_cuda_refuses_is_one_message(model: StubModel) -> None:
    graphs = GraphForwardBackward(model)  # type: ignore[arg-type]
    CountingGraph.broken = True
    with pytest.raises(SplatkitError, match="--cuda-graphs False"):
        run(graphs, model, STEPS_BEFORE + 1)
    assert graphs.list_space.capacity is None


def test_a_graph_reads_the_lens_of_each_photograph(model: StubModel) -> None:
    """Its coefficients are copied into the graph's own; another model of lenses, or a lens without any, is another
    kind of step."""
    read: list[list[float]] = []
    use_frame = model.use_frame

    def noted(used: TrainingFrame) -> TrainingFrame:
        read.append([] if used.view.distortion is None else used.view.distortion[0].tolist())
        return use_frame(used)

    model.use_frame = noted  # type: ignore[method-assign]
    graphs = GraphForwardBackward(model)  # type: ignore[arg-type]
    first, second = ([0.5, 0.25, 0.0, 0.0], [-0.5, 0.125, 0.0, 0.0])

    def step(lens: LensModel, distortion: list[float] | None) -> bool:
        values = None if distortion is None else torch.tensor([distortion])
        seen = frame(view=dataclasses.replace(VIEW, lens=lens, distortion=values))
        CountingGraph.space = graphs.list_space
        graphs.list_space.longest = 80
        graphs.begin(seen)
        return graphs.run(seen, {}) == {}

    for _ in range(STEPS_BEFORE):
        assert not step("opencv_fisheye", first)
    assert step("opencv_fisheye", first)
    assert step("opencv_fisheye", second)
    assert read[-1] == second
    assert step("opencv_fisheye", first)
    assert read[-1] == first
    assert len(CountingGraph.captures) == 1
    for lens, distortion in (("opencv", first), ("opencv", [0.1] * 9), ("opencv_fisheye", None)):
        assert not step(lens, distortion)
        assert step(lens, distortion)
    assert len(CountingGraph.captures) == 4


def run_sizes(graphs: GraphForwardBackward, model: StubModel, sizes: list[int], longest: int = 80) -> list[bool]:
    """Train on images of these heights; returns which steps a graph did."""
    CountingGraph.space = graphs.list_space
    done: list[bool] = []
    for size in sizes:
        model.gauss_params["means"].grad = None
        graphs.list_space.longest = longest
        image = frame(view=dataclasses.replace(VIEW, height=size))
        graphs.begin(image)
        done.append(graphs.run(image, {}) == {})
    return done


def test_sizes_that_take_turns_have_a_graph_each(model: StubModel) -> None:
    graphs = GraphForwardBackward(model)  # type: ignore[arg-type]
    run_sizes(graphs, model, [6] * STEPS_BEFORE)
    assert run_sizes(graphs, model, [7, 6, 7, 6, 7, 6]) == [False, True, True, True, True, True]
    assert len(CountingGraph.captures) == 2
    assert torch.equal(model.gauss_params["means"].grad, torch.full((5, 3), 3.0))
    model.training_state = model.gauss_params["means"] = torch.nn.Parameter(torch.ones(6, 3))
    assert run_sizes(graphs, model, [7, 6, 7, 6]) == [False, False, True, True], "both are captured anew"
    assert len(CountingGraph.captures) == 4
    CountingGraph.needed = 200
    assert run_sizes(graphs, model, [6, 7]) == [False, False], "lists outgrow their space by the size of the image"
    assert run_sizes(graphs, model, [6, 7]) == [True, True]
    assert CountingGraph.captures[-2:] == [300, 300]


def test_there_are_not_more_graphs_than_memory_is_meant_for(model: StubModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_graph, "REMEMBERED", 30)
    graphs = GraphForwardBackward(model)  # type: ignore[arg-type]
    sizes = list(range(6, 6 + step_graph.MOST_GRAPHS))
    run_sizes(graphs, model, sizes * STEPS_BEFORE)
    assert all(run_sizes(graphs, model, sizes))
    assert run_sizes(graphs, model, [20] * 20) == [False] * 20, "the graphs of the others may still be of use"
    assert run_sizes(graphs, model, [20] * 20)[-1], "but not for ever"
    assert len(graphs._graphs) <= step_graph.MOST_GRAPHS


def test_closed_it_does_no_more(model: StubModel) -> None:
    graphs = GraphForwardBackward(model)  # type: ignore[arg-type]
    run(graphs, model, STEPS_BEFORE + 5)
    graphs.begin(frame())
    graph = weakref.ref(next(iter(graphs._graphs.values())).graph)
    graphs.close()
    assert graph() is None, "an error may come between an image's begin and its run"
    assert run(graphs, model, 5) == 0


def test_while_the_device_does_not_begin_a_step_others_can_be_looked_for(
    model: StubModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks that have ended may be what it waits for."""
    graphs = GraphForwardBackward(model)  # type: ignore[arg-type]
    run(graphs, model, STEPS_BEFORE + 1)
    monkeypatch.setattr(step_graph, "LOOKS", 10)
    monkeypatch.setattr(CountingGraph, "replay", lambda self: None)

    def look() -> None:
        raise RankLost("gone")

    graphs.when_slow = look
    with pytest.raises(RankLost):
        run(graphs, model, 1)
