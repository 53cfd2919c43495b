"""Render, loss and backward pass of a step as one CUDA graph.

A step of a small scene is a hundred short kernels, and launching them one by one from Python takes longer than running
them. A CUDA graph is launched as a whole. Images of each size have one. It is captured anew whenever the arguments of
its kernels change: the number of Gaussians, the addresses of their parameters, the degree of the spherical harmonics.
Where a step renders several images, and all parts are ours, the graphs of all run at the same time.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.step.capturing import GraphMemory, captured
from splatkit_ns.plugin.step.frame import TrainingFrame, copy_frame, empty_frame_like
from splatkit_ns.plugin.step.graph_keys import kind_of, settings_now
from splatkit_ns.plugin.step.interfaces import StepModel
from splatkit_ns.plugin.step.plain import PlainForwardBackward
from splatkit_ns.plugin.step.side_stream import SideStream
from splatkit_ns.plugin.step.work_meter import WorkMeter
from splatkit_ns.rasterize.color_gradients import current_color_gradients
from splatkit_ns.rasterize.tile_list_space import ListSpace

logger = logging.getLogger("splatkit_ns")

MARGIN = 1.5
"""Space for tile lists, relative to the longest of the last steps."""
MIN_SPACE = 100_000
"""The least space for tile lists: those of small scenes grow fast, and this space costs nothing."""
REMEMBERED = 300
"""The number of steps with images of one size whose tile lists' lengths are remembered, and that of steps after which a
graph that was not replayed makes room for another."""
MOST_GRAPHS = 4
"""The most graphs that are kept. They share memory, but each has images and gradients of its own."""
STEPS_BEFORE = 20
"""Steps without a graph at the start: kernels are compiled and loaded, and lengths of tile lists are seen."""

CONTEXT_FIELDS = ("view", "rend_out", "rendered_frames")
"""The fields of the context that a step sets, besides its losses."""
TRIED = 20
"""The number of captures after which graphs are given up, unless each was replayed `WORTH_IT` times on average."""
WORTH_IT = 5
UNKNOWN = -1
"""A length that the device has not written yet."""
LOOKS = 100_000
"""The number of reads of a length after which the host looks whether something has gone wrong."""


@dataclasses.dataclass
class CapturedStep:
    """A graph, with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    frame: TrainingFrame
    """The frame that the graph reads; those of the steps are copied into it."""
    results: dict[str, Any]
    loss_names: list[str]
    losses: Tensor
    """The loss's terms, followed by the loss."""
    single_losses: tuple[Tensor, ...]
    """Each of them, scalar."""
    gradients: dict[str, Tensor]
    color_gradients: Tensor | None
    """The gradients of colours that `ColorGradients` keeps."""
    capacity: int
    used: int = 0
    """The number of the last step that it ran."""


class GraphForwardBackward:
    """Runs steps with the graphs for their kinds of images, which are captured when they are first needed.

    Args:
        model: the model on a CUDA device, with its modules attached.
        measures_work: whether renders count their work.
        captures: the stream on which the graphs of all of a step's images are captured: results of a capture keep nodes
            of autograd alive that belong to its stream, and that the next one uses. None makes one, for a single image.
        side: the stream on which these graphs run, beside those of the step's other images; None if they run in turn.
    """

    makes_graphs = True

    def __init__(
        self,
        model: StepModel,
        measures_work: bool = False,
        captures: torch.cuda.Stream | None = None,
        side: SideStream | None = None,
    ) -> None:
        self._model, self._side, self.runs_beside = model, side, side is not None
        self.meanwhile: Callable[[], None] = lambda: None
        self.when_slow: Callable[[], None] = lambda: None
        self._shows_losses = any(map(model.parts.dispatcher.listens_to, ("on_optimize", "post_step", "on_evaluate")))
        """Whether a hook sees losses, and may keep them: then it gets copies."""
        self._plain = PlainForwardBackward(model)
        self._stream = captures or torch.cuda.Stream()
        self._memory = GraphMemory(self._stream)
        self._graphs: dict[Hashable, CapturedStep] = {}
        self._warm: set[Hashable] = set()
        self._settings: Hashable = None
        self._places: Hashable = None
        self._steps = 0
        self._lengths: defaultdict[Hashable, deque[int]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self.is_replay = self.needs_graph = False
        self._captures = self._replays = 0
        self._kind: Hashable = None
        self._begun: CapturedStep | None = None
        """The graph that runs the image which has begun, of this kind; None if none does."""
        self._off = False
        self.list_space = ListSpace(needed=torch.zeros(1, dtype=torch.int64, pin_memory=True))
        """The space for the tile lists of these images."""
        assert self.list_space.needed is not None
        self._needed = self.list_space.needed.numpy()
        self.meter = WorkMeter(self.list_space, measures_work)

    def close(self) -> None:
        """Free the graphs and their memory; there are no others."""
        self._off, self._begun = True, None
        self._graphs.clear()
        self._memory.free()

    @property
    def work(self) -> int:
        return self.meter.before

    def last_work(self) -> int:
        return self.meter.last()

    def begin(self, frame: TrainingFrame) -> None:
        self.needs_graph = False
        self._kind = kind_of(frame, self._model)
        self._begun = self._graph_for(self._kind, frame)
        if self._begun is not None:
            self._launch(self._begun, frame)

    def run(self, frame: TrainingFrame, batch: dict[str, Any]) -> dict[str, Any]:
        kind, step, self._begun = self._kind, self._begun, None
        self.is_replay = step is not None and self._finish(kind, step, frame)
        if self.is_replay:
            return {}
        frame = self._model.parts.use_frame(dataclasses.replace(frame, list_space=self.list_space))
        colors = current_color_gradients()
        if colors is not None:
            colors.forget()  # a graph of this step may have been begun
        self.meter.begin(again=self.needs_graph)
        outputs = self._plain.run(frame, batch)
        self._note_length(kind)
        return outputs

    def _graph_for(self, kind: Hashable, frame: TrainingFrame) -> CapturedStep | None:
        """The graph for an image, captured now if there is none; None if it is not to run as a graph."""
        if self._off:
            return None
        self._steps += 1
        parameters = self._parameters()
        self._forget_what_is_old(parameters)
        if kind not in self._warm or self._steps <= STEPS_BEFORE or not self._lengths[kind]:
            self._warm.add(kind)
            return None
        return self._graphs.get(kind) or self._new_graph(kind, frame)

    def _forget_what_is_old(self, parameters: Mapping[str, Tensor]) -> None:
        """Forget the graphs if other kernels are chosen now, or if they have other arguments."""
        settings = settings_now(self._model, parameters)
        places = tuple(param.data_ptr() for param in parameters.values())
        if settings != self._settings:
            self._warm.clear()
        if settings != self._settings or places != self._places:
            self._graphs.clear()
        self._settings, self._places = settings, places

    def _new_graph(self, kind: Hashable, frame: TrainingFrame) -> CapturedStep | None:
        """Capture a graph for a kind; None if that is not worth it, fails, or if there are enough graphs."""
        if self._captures >= TRIED and self._replays < WORTH_IT * self._captures:
            logger.info("Steps run without CUDA graphs: the properties that a graph depends on change too often.")
            self._give_up()
            return None
        self._graphs = {k: step for k, step in self._graphs.items() if self._steps - step.used <= REMEMBERED}
        if len(self._graphs) >= MOST_GRAPHS:
            return None
        self._captures += 1
        return self._try_to_capture(kind, frame)

    def _launch(self, step: CapturedStep, frame: TrainingFrame) -> None:
        self._replays += 1
        step.used = self._steps
        self._needed.fill(UNKNOWN)
        copy_frame(frame, step.frame)
        with nullcontext() if self._side is None else self._side.launching():
            step.graph.replay()

    def _finish(self, kind: Hashable, step: CapturedStep, frame: TrainingFrame) -> bool:
        """Let context and gradients hold the results of a graph that has been launched.

        Returns:
            False if the space for its tile lists did not suffice, so that the image has to run again.
        """
        model, context, parameters = self._model, self._model.context, self._parameters()
        shown = dataclasses.replace(step.frame, image_name=frame.image_name, image_index=frame.image_index)
        model.parts.use_frame(shown)
        self.meanwhile()
        length = self._wait_for_length()
        if self._side is not None:
            self._side.wait()
        self.meter.note(length)
        self._lengths[kind].append(length)
        if length > step.capacity:
            logger.info("A step runs again without a graph: lists of %d had space for %d.", length, step.capacity)
            del self._graphs[kind]
            self.needs_graph = True
            self._drop_gradients()
            model.parts.reseed_render()
            return False
        for name, value in step.results.items():
            setattr(context, name, value)
        losses = step.losses.clone().unbind() if self._shows_losses else step.single_losses
        context.loss_terms, context.loss = dict(zip(step.loss_names, losses, strict=False)), losses[-1]
        colors = current_color_gradients()
        for name, gradient in step.gradients.items():
            parameters[name].grad = gradient
        if colors is not None:
            colors.found = step.color_gradients
        return True

    def _wait_for_length(self) -> int:
        """The length of the tile lists of the replay that has just been launched.

        The device writes it early in the step, so that the host then has the rest of the step for its own work.
        """
        looks = 0
        while int(self._needed[0]) == UNKNOWN:
            time.sleep(0)  # lets other threads run
            looks += 1
            if looks % LOOKS == 0:
                self.when_slow()
                torch.cuda.current_stream().query()  # raises the device's error if there was one
        return int(self._needed[0])

    def _parameters(self) -> dict[str, nn.Parameter]:
        return {name: params[0] for name, params in self._model.get_param_groups().items()}

    def _note_length(self, kind: Hashable) -> None:
        """Record the length of the tile lists of a step without a graph."""
        length, self.list_space.longest = self.list_space.longest, 0
        if not self.needs_graph:  # else the graph that was run in vain has noted it
            self.meter.note(length)
        if length:
            self._lengths[kind].append(length)
        else:  # the tile lists are not ours, as in packed renders: such steps read back, and are never captured
            self._lengths.pop(kind, None)

    # ------------------------------------------------------------------ capturing

    def _try_to_capture(self, kind: Hashable, frame: TrainingFrame) -> CapturedStep | None:
        """Capture a graph; if that fails, run all further steps without graphs.

        Raises:
            SplatkitError: the capture failed in a way after which CUDA's random numbers cannot be drawn any more.
        """
        try:
            self._graphs[kind] = self._capture(kind, frame)
            return self._graphs[kind]
        except SplatkitError:
            raise
        except Exception as error:
            logger.info("Steps run without CUDA graphs (%s: %s).", type(error).__name__, error)
            self._give_up()
            self._drop_gradients()
            return None

    def _give_up(self) -> None:
        """Run further steps without graphs; the memory of those that there were is free for them."""
        torch.cuda.synchronize()  # PyTorch waits for the stream of a capture before it unmaps memory, not for replays
        self.close()

    def _drop_gradients(self) -> None:
        """Forget the gradients of a graph that has not been run yet, or in vain."""
        for param in self._parameters().values():
            param.grad = None

    def _capture(self, kind: Hashable, frame: TrainingFrame) -> CapturedStep:
        model, context = self._model, self._model.context
        static = dataclasses.replace(empty_frame_like(frame), list_space=self.list_space)
        copy_frame(frame, static)
        model.parts.use_frame(static)
        capacity = max(MIN_SPACE, int(MARGIN * max(self._lengths[kind])))
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        self._stream.wait_stream(current)
        pool, colors = self._memory.pool(), current_color_gradients()
        if colors is not None:
            colors.forget()  # those of another image of this step
        own = nullcontext() if self._side is None else self._side.capturing()
        with torch.cuda.stream(self._stream), self.list_space.fixed(capacity), own:
            losses = captured(graph, lambda: self._render_loss_backward(static), pool)
        current.wait_stream(self._stream)
        if not self.list_space.was_used:
            raise RuntimeError("the tile lists are not ours")
        results = {name: getattr(context, name) for name in CONTEXT_FIELDS}
        gradients = {name: param.grad for name, param in self._parameters().items() if param.grad is not None}
        self._drop_gradients()
        kept = None if colors is None else colors.found
        names = list(context.loss_terms)
        return CapturedStep(graph, static, results, names, losses, losses.unbind(), gradients, kept, capacity)

    def _render_loss_backward(self, frame: TrainingFrame) -> Tensor:
        """Run render, loss and backward pass in PyTorch; returns the loss's terms, followed by the loss."""
        context = self._model.context
        self.meter.begin()
        self._plain.run(frame, {})
        assert context.loss is not None
        return torch.stack([value.detach() for value in (*context.loss_terms.values(), context.loss)])
