"""The share of a run's photographs that each Gaussian makes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from splatkit_ns.cameras import View
from splatkit_ns.formats.gaussians import SH_C0
from splatkit_ns.renderer import RenderOptions, SplatRenderer
from splatkit_ns.splat import SplatTrainingState
from splatkit_ns.splat.row_parameters import RowDict

BACKGROUND = 0.05
"""The share of what a view shows that counts as its background: the farthest of it."""


class Seen(NamedTuple):
    """The contribution of N Gaussians to some views; tensors on the CPU."""

    weights: Tensor
    """(N,) pixels that each fills, in all views together, float64."""
    in_front: Tensor
    """(N,) whether it is nearer than the background of a view that shows it."""


def seen_in(renderer: SplatRenderer[Any], state: SplatTrainingState, views: Iterable[View]) -> Seen:
    """Sum up each Gaussian's blend weights, alpha times transmittance, over all pixels of some views.

    Args:
        renderer: that the Gaussians were trained with.
        state: N Gaussians.
        views: one camera each.
    """
    total = torch.zeros(len(state), dtype=torch.float64)
    in_front = torch.zeros(len(state), dtype=torch.bool)
    means = state.params["means"].detach()
    for view in views:
        weights = _weights_of(renderer, state, view).detach().double()
        depths = means @ view.world_to_cams[0, 2, :3] + view.world_to_cams[0, 2, 3]
        total += weights.cpu()
        in_front |= ((weights > 0) & (depths < _background_depth(depths, weights))).cpu()
    return Seen(total, in_front)


def _background_depth(depths: Tensor, weights: Tensor) -> Tensor:
    """The depth beyond which `BACKGROUND` of the weight lies."""
    order = depths.argsort()
    sums = weights[order].cumsum(0)
    place = torch.searchsorted(sums, (1 - BACKGROUND) * sums[-1:])
    return depths[order[place.clamp(max=len(order) - 1)]]


def _weights_of(renderer: Any, state: SplatTrainingState, view: View) -> Tensor:
    if hasattr(renderer, "blend_weight_sums"):
        ones = torch.ones(view.height, view.width, device=state.device)
        return renderer.blend_weight_sums(state, view, ones)
    # An image is a sum of colours times weights. A grey scene is far from the colours at which images are cut off.
    params = {key: nn.Parameter(value.detach(), requires_grad=False) for key, value in state.params.items()}
    params["sh0"] = nn.Parameter(torch.zeros_like(params["sh0"]))
    with torch.enable_grad():
        payload = renderer.render(SplatTrainingState(RowDict(params), {}), view.detach(), RenderOptions(sh_degree=0))
        (gradient,) = torch.autograd.grad(payload.renders.sum(), params["sh0"])
    return gradient[:, 0].mean(dim=1) / SH_C0
