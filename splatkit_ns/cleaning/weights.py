"""The share of a run's photographs that each Gaussian makes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from splatkit_ns.cameras import View
from splatkit_ns.renderer import RenderOptions, SplatRenderer
from splatkit_ns.splat import SplatTrainingState
from splatkit_ns.splat.initialization import SH_C0
from splatkit_ns.splat.row_parameters import RowDict


def blend_weights(renderer: SplatRenderer[Any], state: SplatTrainingState, views: Iterable[View]) -> Tensor:
    """The sum of each Gaussian's blend weights, alpha times transmittance, over all pixels of some views.

    Args:
        renderer: that the Gaussians were trained with.
        state: N Gaussians.
        views: one camera each.

    Returns:
        Pixels that each Gaussian fills, (N,), as float64 on the CPU.
    """
    total = torch.zeros(len(state), dtype=torch.float64)
    for view in views:
        total += _weights_of(renderer, state, view).detach().double().cpu()
    return total


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
