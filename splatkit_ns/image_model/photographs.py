"""The common part of image models that have parameters for each training photograph."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from splatkit_ns.image_model.base import SplatImageModel
from splatkit_ns.image_model.exif import GAMMA, log_gains_of
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.ranges import Fraction, Positive

MAX_NUMBERS = 2**30
"""The limit of numbers in a render, from the kernels' 32-bit indices."""


def kernels_fit(rendered: Tensor) -> bool:
    """Whether Triton kernels can be used for a render (1, H, W, 3): it is float32 and on a GPU."""
    return rendered.is_cuda and rendered.dtype == torch.float32 and rendered.numel() < MAX_NUMBERS


@dataclass
class PhotographModel(SplatImageModel[SplatRenderPayload]):
    """The base of models with parameters for each photograph, 0 in all of which leaves the render as it is.

    The scene could be brighter and all photographs darker by as much. What decides is that the mean of the parameters
    of all photographs is 0, after every step: the colours of the scene are then those of the mean photograph, and two
    runs look alike.
    """

    lr: Annotated[float, Positive] = field(default=0.002, kw_only=True)
    """Learning rate at the start; it falls to a tenth by the last step."""
    start_at: Annotated[float, Fraction] = field(default=0.1, kw_only=True)
    """Share of the steps after which it begins to learn. Before that the scene has not the shape yet by which a change
    of the camera can be told from one of the scene."""
    use_exif: bool = field(default=True, kw_only=True)
    """Start from the exposures (time, ISO, aperture) that the photographs' EXIF data tells, if it does."""

    @abstractmethod
    def parameters_of_model(self) -> list[nn.Parameter]:
        """All parameters."""

    @abstractmethod
    def photograph_parameters(self) -> list[nn.Parameter]:
        """The parameters with a row for each photograph, whose means over all photographs are kept at 0."""

    @abstractmethod
    def start_from(self, log_gains: Tensor) -> None:
        """Set the parameters to the brightness of each photograph.

        Args:
            log_gains: (num_train_images,), the logarithm of the factor by which a photograph is brighter than the mean.
        """

    @torch.no_grad()
    def on_setup(self, logger: logging.Logger, step: int, data_provider: Any) -> None:
        """Start from EXIF data if the run is new."""
        paths = getattr(data_provider, "train_image_paths", None)
        if not self.use_exif or step > 0 or paths is None:
            return
        found = log_gains_of(paths)
        if found is None:
            return
        gains = torch.tensor(found, dtype=torch.float32, device=self.photograph_parameters()[0].device)
        self.start_from(gains - gains.mean())
        self.on_optimize()
        stops = GAMMA / math.log(2) * (max(found) - min(found))
        logger.info("%s starts from the exposures in EXIF, which span %.1f stops.", self.module_name, stops)

    def pre_batch(self, step: int, max_steps: int) -> None:
        """Learn, or not yet; what a CUDA graph captures depends on it."""
        for parameter in self.parameters_of_model():
            parameter.requires_grad_(step > self.start_at * max_steps)

    @torch.no_grad()
    def on_optimize(self) -> None:
        """Keep the mean of the photographs' parameters at 0."""
        for parameter in self.photograph_parameters():
            parameter.sub_(parameter.mean(0, keepdim=True))
