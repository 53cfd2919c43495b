"""The channels of an image, on any device: colours, depth, or both."""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import GsplatRenderMode


def composited_channels(
    colors: Tensor, depths: Tensor, backgrounds: Tensor | None, render_mode: GsplatRenderMode
) -> tuple[Tensor, Tensor | None]:
    """Return the values to composite, (C, N, X), and the background of each channel (C, X); that of depth is 0."""
    if render_mode == "RGB":
        return colors, backgrounds
    depth = depths[..., None]
    if not render_mode.startswith("RGB"):
        return depth, None
    if backgrounds is not None:
        backgrounds = torch.nn.functional.pad(backgrounds, (0, 1))
    return torch.cat([colors, depth], dim=-1), backgrounds


def with_expected_depth(images: Tensor, alphas: Tensor, render_mode: GsplatRenderMode) -> Tensor:
    """Return the images with their last channel, accumulated depth, divided by alpha if the mode has expected depth."""
    if "ED" not in render_mode:
        return images
    return torch.cat([images[..., :-1], images[..., -1:] / alphas.clamp(min=1e-10)], dim=-1)
