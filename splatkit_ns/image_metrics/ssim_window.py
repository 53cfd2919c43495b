"""The window and the constants of SSIM, those of 3DGS, for the three ways in which it is computed."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

WINDOW_SIZE = 11
"""Side of the window in pixels."""
SIGMA = 1.5
"""Standard deviation of the window's Gaussian in pixels."""
C1 = 0.01**2
C2 = 0.03**2


@lru_cache(maxsize=16)
def gaussian_window(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Make the vector (11,) of sum 1 whose outer product with itself is the window."""
    half = WINDOW_SIZE // 2
    weights = [math.exp(-(x * x) / (2 * SIGMA * SIGMA)) for x in range(-half, half + 1)]
    total = math.fsum(weights)
    return torch.tensor([weight / total for weight in weights], dtype=dtype, device=device)
