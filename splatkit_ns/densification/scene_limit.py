"""The limit of Gaussians that follows a scene: its seed points, its pixels, and how hard it is to learn."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Protocol

import torch

from splatkit_ns.image_metrics.ssim import ssim
from splatkit_ns.image_metrics.ssim_window import WINDOW_SIZE
from splatkit_ns.parts.training_views import TrainingViewSource, training_views
from splatkit_ns.ranks import Ranks

NUM_VIEWS = 16
"""Training images that are looked at, spread evenly over all of them."""
LEAST_NEED, MOST_NEED = 0.7, 1.5
"""The range of a scene's need, 1 being usual."""


class LimitSettings(Protocol):
    """A strategy with the settings of a limit; see `SplatMCMCDensification` for their meaning."""

    max_gaussians: int
    max_per_seed: float
    pixels_per_gaussian: float
    usual_seeds: float


class NeedSettings(LimitSettings, Protocol):
    """A strategy whose limit also follows how hard the scene is."""

    usual_error: float

    @property
    def module_name(self) -> str:
        """Its name in the log."""
        ...


def scene_limit(settings: LimitSettings, number_at_start: int, data_provider: Any, need: float = 1.0) -> int:
    """Return the largest number of Gaussians for a scene.

    Args:
        settings: a strategy.
        number_at_start: number of Gaussians that the run started with.
        data_provider: source of ``num_train_pixels``, of all training images together, if it has that.
        need: what ``max_per_seed`` is multiplied by.
    """
    if settings.max_per_seed <= 0:
        return settings.max_gaussians
    many = max(1.0, number_at_start / settings.usual_seeds) if settings.usual_seeds > 0 else 1.0
    limit = need * settings.max_per_seed / many ** (1 / 3) * number_at_start
    num_pixels = getattr(data_provider, "num_train_pixels", None)
    if num_pixels is not None:
        limit = min(max(limit, num_pixels / 1000), num_pixels / settings.pixels_per_gaussian)
    return min(settings.max_gaussians, math.ceil(limit))


class LimitByNeed:
    """The largest number of Gaussians of a run: the most that a scene may need, until enough have been trained to find
    out how many this one needs.

    Args:
        settings: a strategy.
        number_at_start: number of Gaussians that the run started with.
        data_provider: as for `scene_limit`, and source of training views, if it has them.
        logger: gets a line when the scene's need is known.
        need: of a run that goes on, if it was known.
    """

    def __init__(
        self, settings: NeedSettings, number_at_start: int, data_provider: Any, logger: Any, need: float | None = None
    ) -> None:
        self._limit = partial(scene_limit, settings, number_at_start, data_provider)
        self._settings, self._data_provider, self._logger = settings, data_provider, logger
        self.need = need
        """The factor of ``max_per_seed``; None until it has been measured, and if it never is."""
        follows_need = settings.usual_error > 0 and self._limit(LEAST_NEED) < self._limit(MOST_NEED)
        self._is_open = follows_need and need is None
        self.number = self._limit(MOST_NEED if self._is_open else need or 1.0)
        """The limit."""

    def look(self, target: int) -> None:
        """Find out the scene's need, if that is still open and ``target``, the number of Gaussians that the strategy is
        about to grow to, is more than seven tenths of what is usual."""
        if not self._is_open or target <= LEAST_NEED * self._limit(1.0):
            return
        settings = self._settings
        error, self.need = need_of_gaussians(self._data_provider, settings.usual_error)
        self.number, self._is_open = self._limit(self.need), False
        if not math.isnan(error):
            text = "%s: the photographs' error (1 - SSIM) is %.2f, %.2f is usual: at most %s Gaussians."
            self._logger.info(text, settings.module_name, error, settings.usual_error, f"{self.number:,}")


def need_of_gaussians(data_provider: Any, usual_error: float) -> tuple[float, float]:
    """Compare the error of training images, as they are rendered now, with one that is usual.

    Among scenes with as many seed points, the number of Gaussians that a threshold of gradients arrives at grows with
    about the root of that error (docs/experiments.md, "Gaussians for hard scenes").

    Args:
        data_provider: source of training views.
        usual_error: 1 - SSIM, on the average of images.

    Returns:
        The error of the images, and the factor by which their scene needs more Gaussians than the usual one, from 0.7
        to 1.5, with two decimals. The factor is 1, and the error NaN, if there are no views, or none as large as SSIM's
        window.
    """
    if not isinstance(data_provider, TrainingViewSource):
        return math.nan, 1.0
    number = data_provider.num_train_images
    count = min(NUM_VIEWS, number)
    indices = [index * number // count for index in range(count)]
    errors: list[torch.Tensor] = []
    for view in training_views(data_provider, indices):
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
    need = round(math.sqrt(max(0.0, error) / usual_error), 2)  # the last bits of a GPU's sums are to change nothing
    return error, min(MOST_NEED, max(LEAST_NEED, need))
