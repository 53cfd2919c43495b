"""Training with small images first, as long as they hold the detail that is learnt then, or on a fixed schedule."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from splatkit_ns.errors import ModuleError
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.ranges import NonNegative, Positive, Share

SMALLEST_SHARE = 0.25
"""The least share of the amplitudes of every photograph that the first images hold."""
SMALLEST_SIDE = 32
"""The least number of pixels of an image's shorter side."""
NEARLY_ALL = 1 - 1e-5
"""The share from which on all amplitudes count as kept; the rest is rounding."""
MAX_IMAGES = 50
"""The number of photographs, evenly drawn from all, that stand for all."""


@dataclass
class SplatResolutionSchedule(SplatBaseModule[SplatRenderPayload]):
    """Divides the sides of training images by a number that falls to 1 as training goes on.

    As in DashGaussian (https://arxiv.org/abs/2503.18402): an image divided by n holds the centre of the photographs'
    spectrum, a share of their amplitudes, and the logarithm of the share that is wanted rises in proportion to the
    step. Pictures with much fine detail soon need all pixels, smooth ones later.

    Raises:
        OptionsError: if a setting is out of range.
        ModuleError: at set-up, if there are no training images.
    """

    max_downscale: Annotated[int, Positive] = 4
    """The largest number by which sides are divided at the start of training; 1 is off."""
    full_from: Annotated[float, Share] = 0.9
    """Share of the steps after which images are whole."""
    halve_every: Annotated[int, NonNegative] = 0
    """With a number above 0, the divisor does not follow the photographs: it is halved every this many steps."""

    @property
    def is_idle(self) -> bool:
        return self.max_downscale == 1

    def on_setup(self, logger: logging.Logger, data_provider: Any, max_steps: int) -> None:
        if self.halve_every > 0:
            halvings = range(self.max_downscale.bit_length())
            self._ends = {self.max_downscale >> n: (n + 1) * self.halve_every for n in halvings}
            return
        if not hasattr(data_provider, "train_image"):
            raise ModuleError(f"{self.module_name} needs training images, but the run's data offers none.")
        number = data_provider.num_train_images
        indices = torch.linspace(0, number - 1, min(number, MAX_IMAGES)).round().long().unique().tolist()
        shares = [amplitude_shares(data_provider.train_image(index), self.max_downscale + 1) for index in indices]
        self._ends = last_steps(shares, self.full_from * max_steps, self.max_downscale)
        plan = ", ".join(f"1/{n} to step {end}" for n, end in sorted(self._ends.items(), reverse=True) if end > 0)
        logger.info("Images of training: %s.", plan or "whole")

    def pre_batch(self, step: int, data_provider: Any) -> None:
        data_provider.use_downscale(self.downscale(step))

    def downscale(self, step: int) -> int:
        """The number by which the sides are divided in this step (from 1)."""
        return max((n for n, end in self._ends.items() if step <= end), default=1)


def amplitude_shares(image: Tensor, max_downscale: int) -> list[float]:
    """The share of an image's spectrum that smaller images hold.

    Args:
        image: (H, W, 3 or 4), uint8 or float.
        max_downscale: at least 1.

    Returns:
        The share of the sum of amplitudes that lies within the frequencies of an image with sides divided by 1, 2, …,
        as far as its shorter side keeps `SMALLEST_SIDE` pixels. All of a black image, which has nothing to lose.
    """
    gray = image[..., :3].float().mean(-1)
    height, width = gray.shape
    amplitudes = torch.fft.fftshift(torch.fft.fft2(gray).abs())
    total = float(amplitudes.sum())
    shares = [1.0]
    for n in range(2, max_downscale + 1):
        rows, columns = height // n, width // n
        if min(rows, columns) < SMALLEST_SIDE:
            break
        top, left = (height - rows) // 2, (width - columns) // 2
        part = float(amplitudes[top : top + rows, left : left + columns].sum())
        shares.append(part / total if total > 0 else 1.0)
    return shares


def last_steps(shares: Sequence[Sequence[float]], last: float, max_downscale: int) -> dict[int, int]:
    """The last step in which images are divided by each number.

    At first the images are to hold `SMALLEST_SHARE` of the amplitudes or, if they may not be divided further, the
    share that images divided by one more would hold; at the end all. Images that lose nothing are divided to the last
    step.

    Args:
        shares: of each image, as `amplitude_shares` gives them.
        last: step up to which images are divided at all.
        max_downscale: see `SplatResolutionSchedule`.
    """
    fitting = min(max(n for n, share in enumerate(image, start=1) if share >= SMALLEST_SHARE) for image in shares)
    most = min(fitting, max_downscale)
    means = [sum(image[n - 1] for image in shares) / len(shares) for n in range(1, most + 1)]
    next_ones = [image[most] for image in shares if len(image) > most]
    first = max(SMALLEST_SHARE, sum(next_ones) / len(next_ones)) if next_ones else SMALLEST_SHARE
    if first >= NEARLY_ALL:  # then any other share to begin with keeps what loses nothing to the last step
        first = SMALLEST_SHARE
    return {n: math.floor(last * (1 - math.log(means[n - 1]) / math.log(first))) for n in range(2, most + 1)}
