"""Random ellipses on screens, for the tests of kernels that begin after the projection."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def random_ellipses(
    cameras: int, number: int, screen: tuple[int, int], margin: float, long: tuple[float, float],
    short: tuple[float, float],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Centres (C, N, 2) in pixels and conics (C, N, 3), drawn from the global generator.

    Args:
        cameras: C.
        number: N.
        screen: width and height; centres lie up to half a ``margin`` outside.
        margin: pixels.
        long: least length and range of the longer half-axes, in pixels.
        short: of the shorter ones.
    """
    means = torch.rand(cameras, number, 2) * (torch.tensor(screen) + margin) - margin / 2
    angle = torch.rand(cameras, number) * math.pi
    a, b = (torch.rand(cameras, number) * extent + least for least, extent in (long, short))
    cos, sin = angle.cos(), angle.sin()
    xx, yy = (cos * a) ** 2 + (sin * b) ** 2, (sin * a) ** 2 + (cos * b) ** 2
    xy = cos * sin * (a**2 - b**2)
    return means, torch.stack([yy, -xy, xx], -1) / (xx * yy - xy**2)[..., None]
