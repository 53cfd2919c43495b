"""Whether the steps of a run can be CUDA graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.nesting import with_held_parts
from splatkit_ns.plugin.step.graph import GraphForwardBackward
from splatkit_ns.plugin.step.interfaces import ForwardBackward, StepModel
from splatkit_ns.plugin.step.plain import PlainForwardBackward
from splatkit_ns.plugin.step.side_stream import SideStream


def can_capture(part: SplatBaseModule[Any]) -> bool:
    """Whether the class of a renderer or loss declares itself capturable in a graph; subclasses do not inherit this."""
    return bool(vars(type(part)).get("capturable", False))


def forward_backward(
    model: StepModel,
    device: torch.device | str,
    cuda_graphs: bool,
    accumulation: Mapping[str, int],
    measures_work: bool = False,
) -> list[ForwardBackward]:
    """The objects that run render, loss and backward pass of a step's images: with CUDA graphs if wanted and possible.

    They are not possible on the CPU, if renderer, image model or loss, or a part that one of them holds, is not
    capturable, if gradients are summed up over steps, or if a module runs between render and backward pass or measures
    the time of each part of a step. The graphs of several images run beside each other if all parts are ours, which
    write into no tensors that a graph of another image uses.

    Args:
        model: the model, with its modules attached.
        device: the device of the training.
        cuda_graphs: whether CUDA graphs are wanted.
        accumulation: parameter group -> number of steps to sum up gradients over.
        measures_work: whether renders on CUDA count their work, which takes a few short kernels a step.
    """
    dispatcher = model.parts.dispatcher
    in_graph = (model.parts.renderer, model.parts.image_model, model.parts.loss_fn)
    on_cuda = torch.device(device).type == "cuda"
    possible = (
        cuda_graphs
        and on_cuda
        and all(map(can_capture, with_held_parts(in_graph)))
        and not any(map(dispatcher.listens_to, ("pre_compute_loss", "post_compute_loss", "on_phase")))
        and all(accumulation[name] == 1 for name in model.get_param_groups())
    )
    places = range(model.context.batch_size)
    if not possible:
        return [PlainForwardBackward(model, measures_work and on_cuda) for _ in places]
    if len(places) == 1:
        return [GraphForwardBackward(model, measures_work)]
    beside, captures = model.parts.are_ours and SideStream.is_possible(), torch.cuda.Stream()
    return [GraphForwardBackward(model, measures_work, captures, SideStream() if beside else None) for _ in places]
