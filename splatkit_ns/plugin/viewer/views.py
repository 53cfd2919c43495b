"""The outputs of one camera for viewer, evaluation and ``ns-render``."""

from __future__ import annotations

from typing import Any

import torch
from nerfstudio.data.scene_box import OrientedBox
from torch import Tensor, nn

from splatkit_ns.cameras import View
from splatkit_ns.renderer import RenderOptions, SplatRenderer
from splatkit_ns.splat import SplatTrainingState

INVISIBLE = -1e4
"""A logit that gives an opacity of 0."""


@torch.no_grad()
def view_outputs(
    renderer: SplatRenderer[Any], state: SplatTrainingState, view: View, sh_degree: int, background: Tensor
) -> dict[str, Tensor]:
    """Render one camera with all outputs that can be shown.

    Args:
        renderer: the model's renderer.
        state: the Gaussians.
        view: the camera.
        sh_degree: degree up to which spherical harmonics are evaluated.
        background: colour behind the Gaussians, (3,).

    Returns:
        rgb (H, W, 3), accumulation (H, W, 1), background (H, W, 3); depth (H, W, 1) if the renderer has it, with the
        farthest depth in empty pixels; surface_depth (H, W, 1) if the payload has it; and the payload's `extra_images`.
    """
    options = RenderOptions(sh_degree=sh_degree, backgrounds=background[None], render_mode="RGB+ED")
    payload = renderer.render(state, view, options)
    alphas, depth = payload.alphas[0], payload.depths
    outputs: dict[str, Tensor] = {
        "rgb": payload.renders[0].clamp(0, 1),
        "accumulation": alphas,
        "background": background.expand(view.height, view.width, 3),
    }
    if depth is not None:
        outputs["depth"] = torch.where(alphas > 0, depth[0], depth.max())
    if payload.surface_depths is not None:
        outputs["surface_depth"] = payload.surface_depths[0]
    for name, image in payload.extra_images(view).items():
        outputs[name] = image[0]
    return outputs


@torch.no_grad()
def cropped(state: SplatTrainingState, box: OrientedBox | None) -> SplatTrainingState:
    """The Gaussians whose centres lie in a box; without a box, all of them.

    If there are none, a single invisible Gaussian, so that renderers still make their images.
    """
    if box is None:
        return state
    inside = box.within(state.params["means"].data).squeeze(-1)
    if bool(inside.any()):
        return SplatTrainingState({name: nn.Parameter(p[inside]) for name, p in state.params.items()}, {})
    params = {name: nn.Parameter(p[:1].clone()) for name, p in state.params.items()}
    params["opacities"].fill_(INVISIBLE)
    return SplatTrainingState(params, {})
