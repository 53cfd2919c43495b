"""Gaussians that fade near the camera, nearer than photographs show anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from splatkit_ns.cameras import View
from splatkit_ns.renderer import RenderOptions, SplatRenderer
from splatkit_ns.splat import SplatTrainingState
from splatkit_ns.splat.row_parameters import RowDict

GONE_AT = 2 / 3
"""The share of the depth `near` at which nothing is left of a Gaussian."""
NEARER = 0.75
"""The share of the depth of the nearest things in photographs below which a camera that moves between them has none."""
_LOOKED_AT = 12
"""The most photographs that are drawn to find what is nearest to them."""
_SMALL_SIDE = 160
"""The longest side in pixels of the images that are drawn for this."""
_NEAREST = 0.01
"""The share of a photograph's pixels that is taken as the nearest of it."""


@torch.no_grad()
def nearest_seen(renderer: SplatRenderer[Any], state: SplatTrainingState, views: Sequence[View]) -> float:
    """The smallest depth in world units at which photographs show something.

    Args:
        renderer: that the Gaussians were trained with.
        state: the Gaussians.
        views: the cameras of the photographs, one each, of which a few are drawn, small.

    Returns:
        The smallest hundredth of a photograph's depths, the least of all; 0 if they show nothing, or if the renderer
        makes no depth images.
    """
    options = RenderOptions(backgrounds=torch.zeros(1, 3, device=state.device), render_mode="RGB+ED")
    chosen = torch.linspace(0, len(views) - 1, min(_LOOKED_AT, len(views))).round().long().tolist()
    found: list[float] = []
    for view in (views[index] for index in chosen):
        downscale = min(max(view.width, view.height) // _SMALL_SIDE, view.width, view.height)
        small = view.smaller(max(1, downscale)).to(state.device)
        payload = renderer.render(state, small, options)
        if payload.depths is None:
            return 0.0
        depths = payload.depths[payload.alphas > 0.5].cpu()
        if len(depths):
            found.append(float(depths.quantile(_NEAREST)))
    return min(found, default=0.0)


@torch.no_grad()
def faded(state: SplatTrainingState, view: View, near: float) -> SplatTrainingState:
    """The Gaussians for one camera, without those right before it.

    The opacity of a Gaussian falls from what it is, if its centre is at the depth `near`, to 0 at two thirds of that.

    Args:
        state: N Gaussians.
        view: one camera, on the same device. Depth is along its viewing axis, or the distance from it if its lens is
            not a pinhole.
        near: in world units; 0 changes nothing.

    Returns:
        The same state if all of them are behind the camera or far enough away; otherwise another one, without
        optimizers.
    """
    if not near > 0.0:
        return state
    offsets = state.params["means"] - view.cam_to_worlds[0, :3, 3]
    is_flat = view.lens == "pinhole"
    depths = offsets @ view.cam_to_worlds[0, :3, 2] if is_flat else offsets.norm(dim=1)
    share = ((depths / near - GONE_AT) / (1 - GONE_AT)).clamp(0, 1)
    if bool(((share == 1) | (depths <= 0)).all()):
        return state
    opacities: Tensor = state.params["opacities"].sigmoid() * share * share * (3 - 2 * share)
    logits = torch.where(share < 1, torch.logit(opacities, eps=1e-6), state.params["opacities"])
    params = {**state.params, "opacities": nn.Parameter(logits, requires_grad=False)}
    return SplatTrainingState(RowDict(params), {})
