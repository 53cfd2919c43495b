"""Frames and renders for image models, without a run."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.image_model import PPISP, AffineColor, BilateralGrid
from splatkit_ns.parts.image_frame import ImageFrame

NUM_IMAGES = 5
HEIGHT, WIDTH = 12, 18
MODELS = (AffineColor, BilateralGrid, PPISP)


def frame(index: int | None = 2, crop: tuple[int, int, int, int] | None = None) -> ImageFrame:
    """A camera whose principal point is not the middle, and the number of a photograph."""
    K = torch.tensor([[20.0, 0, 8.0], [0, 19.0, 7.0], [0, 0, 1]])
    view = View(torch.eye(4)[None], K[None], WIDTH, HEIGHT)
    if crop is not None:
        view = view.crop(*crop)
    return ImageFrame(view, None if index is None else torch.tensor([index]))


def render(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(1, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Data:
    """A data provider with two cameras, and no EXIF."""

    train_image_paths: tuple[Any, ...] = ()
    train_camera_numbers = (0, 0, 0, 0, 1)
    train_extent = (0.5, 0.4)


def made(kind: Any, data: Any = Data, **settings: Any) -> Any:
    """An image model, set up."""
    model = kind(**settings)
    model.trainables(NUM_IMAGES)
    model.on_setup(logging.getLogger("splatkit_ns"), 0, data)
    return model


def shaken(model: Any, amount: float = 0.1, seed: int = 1) -> Any:
    """The model with random parameters."""
    generator = torch.Generator().manual_seed(seed)
    for entry in model.trainables(NUM_IMAGES).values():
        parameter = entry.parameter
        with torch.no_grad():
            parameter.copy_(amount * torch.randn(parameter.shape, generator=generator))
    return model
