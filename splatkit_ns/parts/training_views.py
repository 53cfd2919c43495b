"""The interface through which modules see a run's training views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from splatkit_ns.cameras import View


@dataclass(frozen=True, eq=False)
class TrainingView:
    """A training image beside its render, as this step would see them."""

    view: View
    """The camera, with the size of the images here."""
    target_frames: Tensor
    """The photograph, (1, H, W, 3) in [0, 1]."""
    rendered_frames: Tensor
    """The image that the image model makes of the render, (1, H, W, 3), without gradients."""
    masks: Tensor | None
    """(1, H, W) bool, True = use this pixel, or None for all of them."""
    depths: Tensor | None = None
    """The depth of the render, (1, H, W, 1), expected depth along the camera's axis in world units; None unless it was
    asked for."""


@runtime_checkable
class TrainingViewSource(Protocol):
    """A ``data_provider`` that renders training images with the Gaussians as they are now."""

    @property
    def num_train_images(self) -> int:
        """Number of training images."""
        ...

    def training_view(self, index: int, with_depth: bool = False) -> TrainingView:
        """A training image, from 0, beside its render, and its depth if it is asked for."""
        ...


def training_views(source: Any, indices: Sequence[int]) -> Iterator[TrainingView]:
    """Some training images of a `TrainingViewSource`, each rendered when it is asked for.

    Args:
        source: may have ``expect_views``, as that of a run, and then reads the images ahead.
        indices: the numbers of the images, from 0.
    """
    if hasattr(source, "expect_views"):
        source.expect_views(indices)
    for index in indices:
        yield source.training_view(index)
