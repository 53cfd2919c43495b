"""Properties that a CUDA graph of render, loss and backward pass depends on, besides the tensors it reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor

from splatkit_ns.plugin.step.frame import IMAGES, TrainingFrame
from splatkit_ns.plugin.step.interfaces import StepModel

PLAIN = (bool, int, float, str)
"""The types of settings that a graph depends on."""


def kind_of(frame: TrainingFrame, model: StepModel) -> Hashable:
    """The properties of an image by which kernels are chosen."""
    view, distortion = frame.view, frame.view.distortion
    lens = (view.lens, None if distortion is None else distortion.shape)
    missing = (getattr(frame, name) is None for name in IMAGES)
    return (view.width, view.height, *lens, model.wants_depth_now(), *missing)


def settings_now(model: StepModel, parameters: Mapping[str, Tensor]) -> Hashable:
    """The properties of all steps by which kernels are chosen; a module may change a part's during training."""
    parts = (model.parts.renderer, model.parts.image_model, model.parts.loss_fn)
    values = [getattr(part, name) for part in parts for name in _settings_of(type(part))]
    plain = [value for value in values if isinstance(value, PLAIN)]
    trained = [param.requires_grad for param in parameters.values()]
    return (len(model.training_state), model.sh_degree_now(), *plain, *trained)


@lru_cache
def _settings_of(part: type[Any]) -> tuple[str, ...]:
    """The names of the fields of a part's class; empty if it has none."""
    return tuple(field.name for field in dataclasses.fields(part)) if dataclasses.is_dataclass(part) else ()
