"""The parts of a model, as its attributes."""

from __future__ import annotations

from typing import Any

from splatkit_ns.densification import SplatDensification
from splatkit_ns.image_model import SplatImageModel
from splatkit_ns.loss_fn import SplatLossFn
from splatkit_ns.parts.dispatch import ModuleDispatcher
from splatkit_ns.plugin.step.parts import StepParts
from splatkit_ns.renderer import SplatRenderer


class PartAttributes:
    """The parts of a model.

    They are properties, because PyTorch would count an attribute that is an `nn.Module` as a submodule.
    """

    parts: StepParts

    @property
    def renderer(self) -> SplatRenderer[Any]:
        """The run-time copy of the renderer."""
        return self.parts.renderer

    @property
    def image_model(self) -> SplatImageModel[Any]:
        """The run-time copy of the image model."""
        return self.parts.image_model

    @property
    def loss_fn(self) -> SplatLossFn[Any]:
        """The run-time copy of the loss."""
        return self.parts.loss_fn

    @property
    def densification(self) -> SplatDensification[Any]:
        """The run-time copy of the densification."""
        return self.parts.densification

    @property
    def dispatcher(self) -> ModuleDispatcher:
        """Runs the hooks of all parts."""
        return self.parts.dispatcher
