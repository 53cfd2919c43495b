"""The alignment of a camera with its photograph, while the Gaussians stay as they are."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.renderer.base import RenderOptions, SplatRenderer
from splatkit_ns.splat import SplatTrainingState

DOWNSCALES = (8, 4, 2, 1)
"""The numbers by which the image's sides are divided, one after the other: a coarse image leads from farther away."""
STEPS = 40
"""Steps of each size."""
PIXELS = 0.5
"""The length of the first step of each size on the image, in its pixels; it falls to a twentieth."""
SMALLEST = 16
"""Sizes with fewer pixels along a side are left out."""


@torch.enable_grad()
def aligned_view(
    renderer: SplatRenderer[Any],
    training_state: SplatTrainingState,
    view: View,
    target: Tensor,
    mask: Tensor | None = None,
    options: RenderOptions = RenderOptions(),
) -> View:
    """Turn and move a camera until its render looks like the photograph, by Adam on the mean absolute difference.

    Poses that are corrected in training drift together, by a turn and a shift of the whole scene that no training image
    shows. Held-out cameras do not take part in that, so their renders are off by it, and PSNR measures the drift.

    Args:
        renderer: draws the Gaussians.
        training_state: the Gaussians; they are not changed.
        view: the camera, one.
        target: its photograph on the background of the options, (H, W, 3) in [0, 1].
        mask: the pixels to compare, (H, W) bool; None for all.
        options: of the renders, but for depth.

    Returns:
        The camera with another pose, or itself if the image is too small.
    """
    photograph = target.movedim(-1, 0)[None]
    weights = photograph.new_ones(1, 1, *target.shape[:2]) if mask is None else mask[None, None].to(photograph)
    with torch.no_grad():
        found = renderer.render(training_state, view, dataclasses.replace(options, render_mode="RGB+ED"))
    depths = found.depths
    seen = None if depths is None else depths[depths > 0]
    distance = 1.0 if seen is None or not len(seen) else float(seen.median())
    change = torch.zeros(6, device=view.device, requires_grad=True)
    for downscale in DOWNSCALES:
        if min(view.width, view.height) // downscale < SMALLEST:
            continue
        counts = F.avg_pool2d(weights, downscale)
        wanted = (F.avg_pool2d(photograph * weights, downscale) / counts.clamp(min=1e-6)).movedim(1, -1)
        counts = (counts > 0.999).to(counts).movedim(1, -1)
        rate = PIXELS * downscale / float(view.Ks[0, 0, 0])
        optimizer = torch.optim.Adam([change], lr=rate)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.05 ** (1 / STEPS))
        for _ in range(STEPS):
            # made smaller as the photograph is: a small render has broader Gaussians, which fit another pose best
            whole = renderer.render(training_state, _changed(view, change, distance), options).renders
            rendered = F.avg_pool2d(whole.movedim(-1, 1), downscale).movedim(1, -1)
            error = ((rendered - wanted) * counts).abs().sum() / counts.sum().clamp(min=1)
            (change.grad,) = torch.autograd.grad(error, change)
            optimizer.step()
            schedule.step()
    return _changed(view, change.detach(), distance)


def _changed(view: View, change: Tensor, distance: float) -> View:
    """A camera, turned by the first three numbers (radians, about its own axes) and moved by the last three.

    Moves are along its own axes, in units of the distance of what it sees, so that all six numbers move the image by
    about as much.
    """
    x, y, z = change[:3].unbind()
    zero = x.new_zeros(())
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    motion = torch.cat([torch.linalg.matrix_exp(cross), distance * change[3:, None]], dim=1)
    bottom = change.new_tensor([[0.0, 0.0, 0.0, 1.0]])
    return dataclasses.replace(view, cam_to_worlds=view.cam_to_worlds @ torch.cat([motion, bottom])[None])
