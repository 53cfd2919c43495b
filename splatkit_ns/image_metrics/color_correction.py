"""The affine change of an image's colours that brings it nearest to another image."""

from __future__ import annotations

import torch
from torch import Tensor


def color_corrected(rendered: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """Correct the colours of a render by the affine map that is nearest to its photograph.

    The 3×3 matrix A and the offset b minimise the sum of |A r + b - t|² over the pixels that the mask keeps, with r
    the colour of the render and t that of the photograph: in closed form, A = Cov(t, r) Cov(r, r)⁺ and
    b = mean(t) - A mean(r). Every image has its own map, so exposure and white balance of a photograph do not count.
    RawNeRF compares images like this (https://arxiv.org/abs/2111.13679), with a factor and an offset for each channel;
    the matrix here also takes differences of white balance that mix the channels.

    Args:
        rendered: (H, W, 3) in [0, 1].
        target: (H, W, 3) in [0, 1].
        mask: (H, W) bool, or None for all pixels.

    Returns:
        (H, W, 3) in [0, 1]: the corrected render. The render itself if the mask keeps no pixel.
    """
    colors = rendered.reshape(-1, 3).double()
    wanted = target.reshape(-1, 3).double()
    if mask is not None:
        kept = mask.reshape(-1)
        colors, wanted = colors[kept], wanted[kept]
    if len(colors) == 0:
        return rendered
    mean_color, mean_wanted = colors.mean(0), wanted.mean(0)
    from_mean = colors - mean_color
    # the pseudo-inverse, because a render may have few colours; of 3×3, which a CPU does at once
    inverse = torch.linalg.pinv((from_mean.T @ from_mean).cpu(), hermitian=True, rtol=1e-9).to(colors)
    matrix = (wanted - mean_wanted).T @ from_mean @ inverse
    offset = mean_wanted - matrix @ mean_color
    return (rendered.double() @ matrix.T + offset).clamp(0, 1).to(rendered.dtype)
