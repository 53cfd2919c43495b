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
from splatkit_ns.parts.training_views import TrainingView, TrainingViewSource
from splatkit_ns.ranges import Fraction, Positive, Share

MAX_NUMBERS = 2**30
"""The limit of numbers in a render, from the kernels' 32-bit indices."""

CLIPPED = 0.995
"""Values of photographs from this on may have been brighter."""
RIDGE = 1e-3
"""Weight of the squared change of colours in its fit, relative to the mean squared error."""


def kernels_fit(rendered: Tensor) -> bool:
    """Whether Triton kernels can be used for a render (1, H, W, 3): it is float32 and on a GPU."""
    return rendered.is_cuda and rendered.dtype == torch.float32 and rendered.numel() < MAX_NUMBERS


def affine_change(view: TrainingView) -> Tensor:
    """The affine change of a render's colours that brings it nearest to its photograph, by least squares.

    Pixels that are masked out do not count, nor do those that are clipped in the photograph. `RIDGE` draws the change
    towards 0, if colours tell little.

    Args:
        view: a training image beside its render.

    Returns:
        (4, 3), see `PhotographModel.start_from`.
    """
    colors, wanted = view.rendered_frames.reshape(-1, 3), view.target_frames.reshape(-1, 3)
    counts = wanted.amax(-1, keepdim=True) < CLIPPED
    if view.masks is not None:
        counts &= view.masks.reshape(-1, 1)
    inputs = counts * torch.cat([colors, torch.ones_like(colors[:, :1])], dim=1)
    numbers = torch.cat([inputs, wanted - colors], dim=1)
    # sums, because a matrix product over so many pixels need not have the same bits every time on a GPU
    products = torch.stack([(column[:, None] * numbers).sum(0, dtype=torch.float64) for column in inputs.T]).cpu()
    squares = products[:, :4] + RIDGE * counts.sum().clamp(min=1).cpu() * torch.eye(4)
    return torch.linalg.solve(squares, products[:, 4:]).to(colors)  # of 4×4: at once on a CPU


def clipped(image: Tensor) -> Tensor:
    """Limit an image to 1, the highest value that a photograph can have; gradients pass as if it were not limited.

    Where the photograph is at its limit, all brighter values then have an error of 0: it tells no more than that the
    scene is at least so bright. Where it is not, values above 1 are drawn back.

    Args:
        image: of any shape.
    """
    return _Clipped.apply(image)


class _Clipped(torch.autograd.Function):
    """See `clipped`."""

    @staticmethod
    def forward(ctx: Any, image: Tensor) -> Tensor:
        return image.clamp(max=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


@dataclass
class PhotographModel(SplatImageModel[SplatRenderPayload]):
    """The base of models with parameters for each photograph, 0 in all of which leaves the render as it is.

    The scene could be brighter and all photographs darker by as much. What decides is that the mean of the parameters
    of all photographs is 0, after every step: the colours of the scene are then those of the mean photograph, and two
    runs look alike.
    """

    lr: Annotated[float, Positive] = field(default=0.002, kw_only=True)
    """Learning rate at the start."""
    start_at: Annotated[float, Fraction] = field(default=0.1, kw_only=True)
    """Share of the steps after which it begins to learn. Before that the scene has not the shape yet by which a change
    of the camera can be told from one of the scene."""
    lr_end: Annotated[float, Share] = field(default=0.1, kw_only=True)
    """Learning rate at the last step, as a share of `lr`."""
    use_exif: bool = field(default=True, kw_only=True)
    """Start from the exposures (time, ISO, aperture) that the photographs' EXIF data tells, if it does."""
    use_fit: bool = field(default=True, kw_only=True)
    """Start, when it begins to learn, from the affine maps that bring renders nearest to their photographs, unless EXIF
    data has told exposures. Without it, many photographs or few steps leave each too few steps to be learnt in."""

    @abstractmethod
    def parameters_of_model(self) -> list[nn.Parameter]:
        """All parameters."""

    @abstractmethod
    def photograph_parameters(self) -> list[nn.Parameter]:
        """The parameters with a row for each photograph, whose means over all photographs are kept at 0."""

    @abstractmethod
    def start_from(self, changes: Tensor) -> None:
        """Set the parameters so that each photograph's colours are changed by an affine map, as nearly as possible.

        Args:
            changes: (num_train_images, 4, 3): colours (N, 3) become ``colors + colors @ change[:3] + change[3]``.
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
        factors = (gains - gains.mean()).exp()
        changes = torch.zeros(len(gains), 4, 3, device=gains.device)
        changes[:, :3] = (factors - 1)[:, None, None] * torch.eye(3, device=gains.device)
        self.start_from(changes)
        self.on_optimize()
        stops = GAMMA / math.log(2) * (max(found) - min(found))
        logger.info("%s starts from the exposures in EXIF, which span %.1f stops.", self.module_name, stops)

    @torch.no_grad()
    def post_step(self, step: int, max_steps: int, images_per_step: int, data_provider: Any) -> None:
        """Start from a fit after the last step in which nothing is learnt."""
        begins = self.start_at * max_steps
        if not (self.use_fit and step <= begins < step + images_per_step):
            return
        photographs = self.photograph_parameters()
        if not isinstance(data_provider, TrainingViewSource) or any(bool(p.any()) for p in photographs):
            return
        views = (data_provider.training_view(index) for index in range(data_provider.num_train_images))
        self.start_from(torch.stack([affine_change(view) for view in views]))
        self.on_optimize()

    def pre_batch(self, step: int, max_steps: int) -> None:
        """Learn, or not yet; what a CUDA graph captures depends on it."""
        for parameter in self.parameters_of_model():
            parameter.requires_grad_(step > self.start_at * max_steps)

    @torch.no_grad()
    def on_optimize(self) -> None:
        """Keep the mean of the photographs' parameters at 0."""
        for parameter in self.photograph_parameters():
            parameter.sub_(parameter.mean(0, keepdim=True))
