"""Render, loss and backward pass of a step, kernel by kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from splatkit_ns.errors import HookFailedError, SplatkitError, hook_failure
from splatkit_ns.parts.context import StepContext
from splatkit_ns.plugin.step.frame import TrainingFrame
from splatkit_ns.plugin.step.interfaces import StepModel
from splatkit_ns.plugin.step.work_meter import WorkMeter
from splatkit_ns.rasterize.tile_list_space import ListSpace

WAS_FREED = (
    "A part uses a tensor with the graph of an earlier step, or has called backward() itself: compute it anew in every "
    "step, or keep it with detach()."
)


class PlainForwardBackward:
    """Runs render, loss and backward pass in PyTorch, kernel by kernel.

    Args:
        model: the model, with its modules attached.
        measures_work: whether renders count their work, on CUDA.
    """

    makes_graphs = is_replay = needs_graph = runs_beside = False

    def __init__(self, model: StepModel, measures_work: bool = False) -> None:
        self._model = model
        self.meanwhile: Callable[[], None] = lambda: None
        self.when_slow: Callable[[], None] = lambda: None
        self._list_space = ListSpace()
        self._meter = WorkMeter(self._list_space, measures_work)

    @property
    def work(self) -> int:
        return self._meter.before

    def last_work(self) -> int:
        return self._meter.last()

    def begin(self, frame: TrainingFrame) -> None:
        pass

    def run(self, frame: TrainingFrame, batch: dict[str, Any]) -> dict[str, Any]:
        model, measures = self._model, frame.list_space is None  # else the caller does
        if measures:
            self._list_space.longest = 0
            self._meter.begin()
            model.parts.use_frame(dataclasses.replace(frame, list_space=self._list_space))
        outputs = model.get_outputs(frame.camera)
        model.get_loss_dict(outputs, batch)
        _backward(model.context)
        model.parts.measure()
        if measures:
            self._meter.note(self._list_space.longest)
        return outputs

    def close(self) -> None:
        pass


def _backward(context: StepContext) -> None:
    """Run the backward pass of the loss; what fails in it was computed by some part."""
    assert context.loss is not None
    try:
        context.loss.backward()
    except (SplatkitError, HookFailedError):
        raise
    except Exception as error:
        failure = hook_failure(f"The backward pass of image {context.image_name}", context.step, error)
        hint = f" {WAS_FREED}" if "backward through the graph a second time" in str(error) else ""
        raise type(failure)(f"{failure}{hint}") from error
