"""Render, loss and backward pass of a step as one CUDA graph.

A step of a small scene is a hundred short kernels, and launching them one by one from Python takes longer than running
them. A CUDA graph is launched as a whole. It is captured anew whenever something changes that its kernels' arguments
hold: the number of Gaussians, where their parameters lie, the size of the image, the degree of the spherical harmonics.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import deque
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.errors import SplatkitError
from splatkit_ns.rasterize.tile_list_space import ListSpace

if TYPE_CHECKING:
    from splatkit_ns.plugin.model import SplatkitModel
    from splatkit_ns.plugin.trainer import SplatkitTrainer

logger = logging.getLogger("splatkit_ns")

MARGIN = 1.5
"""Space for tile lists, relative to the longest of the last steps."""
MIN_SPACE = 100_000
"""Space for tile lists at least: those of small scenes grow fast, and this much costs nothing."""
REMEMBERED = 300
"""Steps whose tile lists' lengths are remembered."""
STEPS_BEFORE = 20
"""Steps without a graph at the start: kernels are compiled and loaded, and lengths of tile lists are seen."""

CONTEXT_FIELDS = ("view", "rend_out", "rendered_frames")
"""What a step leaves in the context, besides its losses."""
TRIED = 20
"""After so many captures a graph must have been replayed `WORTH_IT` times each, or there are no more."""
WORTH_IT = 5


class Inputs(NamedTuple):
    """What differs from step to step, copied to where the graph reads it."""

    cam_to_worlds: Tensor
    Ks: Tensor
    background: Tensor
    target: Tensor
    mask: Tensor | None


class CapturedStep(NamedTuple):
    """A graph, where it reads and where it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Inputs
    results: dict[str, Any]
    loss_names: list[str]
    losses: Tensor
    """The loss's terms, and as the last the loss."""
    gradients: dict[str, Tensor]
    capacity: int
    needed: Tensor
    """Length of the last replay's tile lists."""


def can_capture(part: Any) -> bool:
    """Whether a renderer's or loss's class says of itself, not of its subclasses, that graphs may hold its steps."""
    return bool(vars(type(part)).get("capturable", False))


def step_graphs(trainer: SplatkitTrainer) -> StepGraphs | None:
    """What captures a run's steps, or None if they have to run kernel by kernel.

    They do on the CPU, where camera poses are corrected, where gradients are summed up over steps, where the loss
    compares with more than images, and where a module looks at a step between render and
    backward pass, or wants to know how long each part of it takes.
    """
    model = trainer.pipeline.model
    renderer, loss_fn, dispatcher = model.renderer, model.loss_fn, model.dispatcher
    watchers = [*dispatcher.listeners("pre_compute_loss"), *dispatcher.listeners("post_compute_loss")]
    possible = (
        trainer.config.cuda_graphs
        and torch.device(trainer.device).type == "cuda"
        and can_capture(renderer)
        and can_capture(loss_fn)
        and not loss_fn.wanted_targets
        and not watchers
        and not dispatcher.listeners("on_phase")
        and model.config.camera_optimizer.mode == "off"
        and all(trainer.gradient_accumulation_steps[name] == 1 for name in model.gauss_params)
    )
    return StepGraphs(model) if possible else None


def settings_of(part: Any) -> tuple[dataclasses.Field[Any], ...]:
    """The fields of a part that has any."""
    return dataclasses.fields(part) if dataclasses.is_dataclass(part) else ()


class StepGraphs:
    """The graph of the present kind of step, captured when it is first needed.

    Args:
        model: on a CUDA device, its modules attached.
    """

    def __init__(self, model: SplatkitModel) -> None:
        self._model = model
        self._stream = torch.cuda.Stream()
        self._holder: torch.cuda.CUDAGraph | None = None
        self._step: CapturedStep | None = None
        self._key: Hashable = None
        self._warm: set[Hashable] = set()
        self._steps = 0
        self._lengths: deque[int] = deque(maxlen=REMEMBERED)
        self._length = torch.zeros(1, dtype=torch.int64, pin_memory=True)
        self._captures = self._replays = 0
        self._off = False
        self.list_space = ListSpace()
        """The space for the tile lists of all training images, in a graph or not."""

    def _pool(self) -> Any:
        """A memory pool that outlives the single graphs, so that each finds the memory of the one before."""
        if self._holder is None:
            holder = torch.cuda.CUDAGraph()
            with torch.cuda.stream(self._stream):
                holder.capture_begin(capture_error_mode="thread_local")
                self._held = torch.zeros(1, device="cuda")
                holder.capture_end()
            self._holder = holder
        return self._holder.pool()

    def close(self) -> None:
        """Give the graph and its memory back; there is no other graph."""
        self._off = True
        self._forget()
        self._holder = self._held = None

    # ------------------------------------------------------------------ one step

    def run(self, view: View) -> bool:
        """Render, loss and backward of a step whose data are in the context, if a graph can do it.

        Returns:
            Whether it was done; then context and gradients are as after the three, until the next step.
        """
        if self._off:
            return False
        model, context = self._model, self._model.context
        kind = (self._kind(view), self._settings())
        self._steps += 1
        if kind not in self._warm or self._steps <= STEPS_BEFORE or not self._lengths:
            self._run_without(kind)
            return False
        key = (kind, *(param.data_ptr() for param in model.gauss_params.values()))
        self._look_at_length()
        if self._step is None or key != self._key:
            self._forget()
            if self._captures >= TRIED and self._replays < WORTH_IT * self._captures:
                logger.info("Steps run without CUDA graphs: what they hold changes too often.")
                self.close()
                return False
            self._step = self._try_to_capture(view)
            self._key = key
            self._captures += 1
        else:
            self._fill(self._step.inputs, view)
        step = self._step
        if step is None:
            return False
        self._replays += 1
        step.graph.replay()
        self._length.copy_(step.needed, non_blocking=True)
        for name, value in step.results.items():
            setattr(context, name, value)
        losses = step.losses.clone().unbind()  # whoever keeps them keeps this step's
        context.loss_terms, context.loss = dict(zip(step.loss_names, losses, strict=False)), losses[-1]
        for name, gradient in step.gradients.items():
            model.gauss_params[name].grad = gradient
        return True

    def _kind(self, view: View) -> Hashable:
        """What a graph's kernels are chosen by, besides the Gaussians."""
        model, context = self._model, self._model.context
        return (
            view.width,
            view.height,
            model.sh_degree_now(),
            model.wants_depth_now(),
            context.masks is None,
            len(model.training_state),
        )

    def _settings(self) -> tuple[Any, ...]:
        """Numbers and words that the kernels were chosen by, which a module may change during training."""
        model = self._model
        values = [getattr(part, f.name) for part in (model.renderer, model.loss_fn) for f in settings_of(part)]
        plain = [value for value in values if isinstance(value, bool | int | float | str)]
        return (*plain, *(param.requires_grad for param in model.gauss_params.values()))

    def _run_without(self, kind: Hashable) -> None:
        """Before a step that PyTorch does kernel by kernel."""
        self._forget()
        self._warm = {kind}
        if self.list_space.longest:
            self._lengths.append(self.list_space.longest)
            self.list_space.longest = 0

    def _look_at_length(self) -> None:
        """Note how long the lists of the last replay were, and give up a graph whose space did not suffice.

        The copy may not have arrived yet; then this is the length of a step before.
        """
        length = int(self._length)
        if length == 0:
            return
        self._lengths.append(length)
        step = self._step
        if step is not None and length > step.capacity:
            logger.info("A step lacked the farthest Gaussians: lists of %d had space for %d.", length, step.capacity)
            self._forget()

    def _forget(self) -> None:
        self._step, self._key = None, None

    # ------------------------------------------------------------------ capturing

    def _try_to_capture(self, view: View) -> CapturedStep | None:
        """Capture, or go without from now on.

        Raises:
            SplatkitError: the capture has been broken, after which CUDA's random numbers cannot be drawn any more.
        """
        try:
            return self._capture(view)
        except SplatkitError:
            raise
        except Exception as error:
            logger.info("Steps run without CUDA graphs (%s: %s).", type(error).__name__, error)
            self.close()
            for param in self._model.gauss_params.values():
                param.grad = None
            return None

    def _capture(self, view: View) -> CapturedStep:
        model, context = self._model, self._model.context
        inputs = self._inputs(view)
        self._fill(inputs, view)
        capacity = max(MIN_SPACE, int(MARGIN * max(self._lengths)))
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        pool = self._pool()
        with torch.cuda.stream(self._stream), self.list_space.fixed(capacity):
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            failure: Exception | None = None
            losses: Tensor | None = None
            try:
                losses = self._three(view, inputs)
            except Exception as error:
                failure = error
            try:
                graph.capture_end()
            except RuntimeError as error:
                raise SplatkitError(
                    f"This step cannot be captured in a CUDA graph ({failure or error}). Start again with "
                    "--cuda-graphs False, or do not say of the renderer or loss that it is capturable."
                ) from (failure or error)
            needed = self.list_space.needed
        if failure is not None:
            raise failure
        current.wait_stream(self._stream)
        if losses is None or needed is None:
            raise RuntimeError("the tile lists are not ours")
        results = {name: getattr(context, name) for name in CONTEXT_FIELDS}
        gradients = {name: param.grad for name, param in model.gauss_params.items() if param.grad is not None}
        return CapturedStep(graph, inputs, results, list(context.loss_terms), losses, gradients, capacity, needed)

    def _three(self, view: View, inputs: Inputs) -> Tensor:
        """Render, loss and backward pass; returns the loss's terms and the loss, one after the other."""
        model, context = self._model, self._model.context
        model.render_for_training(
            dataclasses.replace(view, cam_to_worlds=inputs.cam_to_worlds, Ks=inputs.Ks), inputs.background
        )
        model.get_loss_dict({}, {})
        assert context.loss is not None
        context.loss.backward()
        return torch.stack([value.detach() for value in (*context.loss_terms.values(), context.loss)])

    def _inputs(self, view: View) -> Inputs:
        """Places for what differs from step to step."""
        context = self._model.context
        assert context.target_frames is not None
        mask = context.masks
        return Inputs(
            torch.empty_like(view.cam_to_worlds),
            torch.empty_like(view.Ks),
            torch.empty_like(self._model.step_background),
            torch.empty_like(context.target_frames),
            None if mask is None else torch.empty_like(mask),
        )

    def _fill(self, inputs: Inputs, view: View) -> None:
        """Copy this step's data to where the graph reads them."""
        context = self._model.context
        inputs.cam_to_worlds.copy_(view.cam_to_worlds)
        inputs.Ks.copy_(view.Ks)
        inputs.background.copy_(self._model.step_background)
        assert context.target_frames is not None
        inputs.target.copy_(context.target_frames)
        if inputs.mask is not None and context.masks is not None:
            inputs.mask.copy_(context.masks)
        context.target_frames, context.masks = inputs.target, inputs.mask
