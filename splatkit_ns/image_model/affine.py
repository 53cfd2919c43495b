"""An affine change of colours for each photograph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from splatkit_ns.image_model.photographs import PhotographModel, clipped, kernels_fit
from splatkit_ns.parts.image_frame import ImageFrame
from splatkit_ns.parts.trainables import Trainable
from splatkit_ns.ranges import NonNegative
from splatkit_ns.triton_kernels import LazyKernel, lazy_kernel


@dataclass
class AffineColor(PhotographModel):
    """A 3×3 matrix and an offset of the colours for each photograph: exposure and white balance.

    As Rematas et al. have it ("Urban Radiance Fields", 2022, https://arxiv.org/abs/2111.14643, section 4.2), but with
    the twelve numbers themselves as parameters. The mean of the maps of all photographs is the identity.
    """

    capturable: ClassVar[bool] = True

    prior: Annotated[float, NonNegative] = 0.1
    """Weight of the squared difference of a photograph's map from the identity."""

    @property
    def gpu_kernels(self) -> tuple[LazyKernel[Any], ...]:
        return (affine_kernel,)

    def trainables(self, num_train_images: int) -> Mapping[str, Trainable]:
        self.change = nn.Parameter(torch.zeros(num_train_images, 4, 3))
        return {"change": Trainable(self.change, lr=self.lr, lr_final=self.lr * self.lr_end)}

    def parameters_of_model(self) -> list[nn.Parameter]:
        return [self.change]

    def photograph_parameters(self) -> list[nn.Parameter]:
        return [self.change]

    def start_from(self, changes: Tensor) -> None:
        self.change.copy_(changes)

    def apply(self, rendered: Tensor, frame: ImageFrame) -> Tensor:
        if frame.image_index is None:
            return rendered
        change = self.change.index_select(0, frame.image_index)
        if kernels_fit(rendered) and (kernel := affine_kernel()) is not None:
            return clipped(kernel(rendered, change))
        colors = rendered.reshape(1, -1, 3)
        return clipped((colors + torch.baddbmm(change[:, 3:], colors, change[:, :3])).reshape(rendered.shape))

    def regularizers(self, frame: ImageFrame) -> Mapping[str, Tensor]:
        if frame.image_index is None:
            return {}
        return {"prior": self.prior * self.change.index_select(0, frame.image_index).square().sum()}


@lazy_kernel(otherwise="Affine maps of colours run without Triton")
def affine_kernel() -> Callable[[Tensor, Tensor], Tensor]:
    """The affine map in one kernel per direction, or None if it cannot be used."""
    from splatkit_ns.image_model._affine_triton import AffineChange, first_launches

    first_launches("cuda")
    return AffineChange.apply
