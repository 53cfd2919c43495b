"""How many Gaussians a scene needs, from how well some of its training images are already reproduced."""

from __future__ import annotations

import math
from typing import Any

import torch

from splatkit_ns.image_metrics.ssim import ssim
from splatkit_ns.image_metrics.ssim_window import WINDOW_SIZE
from splatkit_ns.parts.training_views import TrainingViewSource
from splatkit_ns.ranks import Ranks

NUM_VIEWS = 16
"""Training images that are looked at, spread evenly over all of them."""
LEAST_NEED, MOST_NEED = 0.7, 1.5
"""The range of the factor."""


def need_of_gaussians(data_provider: Any, usual_error: float) -> tuple[float, float]:
    """Compare the error of training images, as they are rendered now, with one that is usual.

    Among scenes with as many seed points, the number of Gaussians that a threshold of gradients arrives at grows with
    about the root of that error (docs/experiments.md, "Gaussians for hard scenes").

    Args:
        data_provider: source of training views.
        usual_error: 1 - SSIM, on the average of images.

    Returns:
        The error of the images, and the factor by which their scene needs more Gaussians than the usual one, from 0.7
        to 1.5. The factor is 1, and the error NaN, if there are no views, or none as large as SSIM's window.
    """
    if not isinstance(data_provider, TrainingViewSource):
        return math.nan, 1.0
    expect_views = getattr(data_provider, "expect_views", None)  # one of a run has it; a provider may do without
    number = data_provider.num_train_images
    count = min(NUM_VIEWS, number)
    indices = [index * number // count for index in range(count)]
    if expect_views is not None:
        expect_views(indices)
    errors: list[torch.Tensor] = []
    for index in indices:
        view = data_provider.training_view(index)
        images = [frames.clamp(0, 1).permute(0, 3, 1, 2) for frames in (view.rendered_frames, view.target_frames)]
        if min(images[0].shape[2:]) >= WINDOW_SIZE:
            errors.append(1 - ssim(*images, mask=view.masks))
    if not errors:
        return math.nan, 1.0
    mean = torch.stack(errors).mean()
    Ranks.current().copy_first(mean)  # a GPU's sums may differ in their last bits, and the ranks grow by this number
    error = float(mean)
    if not math.isfinite(error):
        return math.nan, 1.0
    return error, min(MOST_NEED, max(LEAST_NEED, math.sqrt(max(0.0, error) / usual_error)))
