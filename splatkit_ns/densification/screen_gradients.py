"""Gradients of the loss by the Gaussians' places on the screen: asking the renderer for them, and reading them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from splatkit_ns.errors import ModuleError
from splatkit_ns.parts.base import payload_type
from splatkit_ns.parts.nesting import part_with
from splatkit_ns.parts.payload import SplatRenderPayload

NO_ABSGRAD = (
    "means2d of {} has no absolute gradients after the backward pass, though the renderer has a field absgrad. Pass "
    "absgrad=self.absgrad to rasterization, and its means2d on as it is."
)
"""The message if there are signed gradients in place of absolute ones."""


def request_absgrad(renderer: Any, owner: str) -> None:
    """Make the renderer, or the one that it holds, compute absolute gradients of the projected centres.

    Raises:
        ModuleError: the renderer does not compute them.
    """
    source = part_with(renderer, "absgrad")
    if source is None:
        raise ModuleError(
            f"{owner} needs absolute gradients (absgrad), which {type(renderer).__name__} does not offer: "
            f"it has no field 'absgrad'. Set absgrad to False on {owner}, or use Splat3DGSRenderer."
        )
    payload = payload_type(renderer)
    if payload.key_for_gradient != "means2d":
        raise ModuleError(
            f"{owner} needs absolute gradients (absgrad) of means2d, but with {type(renderer).__name__} densification "
            f"uses the gradients of {payload.key_for_gradient}, which have none. Set absgrad to False on {owner}."
        )
    source.absgrad = True


def best_screen_gradients(
    renderer: Any, data_provider: Any, owner: str, logger: Any
) -> Literal["absolute", "signed"] | None:
    """Make the renderer compute the best gradients on the screen that it can, and say so if they are not absolute.

    Args:
        renderer: of the run; one that does not tell has signed ones.
        data_provider: source of ``train_lenses``, the models of the lenses that are trained through, if it has that.
        owner: the strategy that draws Gaussians by these gradients, for the log.
        logger: the log.

    Returns:
        Their kind; None if there are none.
    """
    if not hasattr(renderer, "screen_gradients"):
        return "signed"
    found = renderer.screen_gradients(getattr(data_provider, "train_lenses", ("pinhole",)))
    name = renderer.module_name
    if found == "absolute":
        request_absgrad(renderer, owner)
    elif found == "signed":
        logger.info("%s computes no absolute gradients on the screen: %s draws by signed ones.", name, owner)
    else:
        logger.info(
            "%s computes no gradients on the screen here: %s draws by opacities alone, as with gradient-power 0.",
            name,
            owner,
        )
    return found


def lacks_absgrad(rend_out: SplatRenderPayload) -> bool:
    """Whether there are gradients on the screen, but no absolute ones."""
    return getattr(rend_out.means2d, "absgrad", None) is None and rend_out.densification_gradient is not None


def gradient_norms(rend_out: SplatRenderPayload, absolute: bool) -> Tensor | None:
    """The lengths of a step's gradients on the screen, in units of half the image, 0 for what is not seen.

    Args:
        rend_out: the step's render.
        absolute: whether they are of the absolute gradients, which the renderer has been asked for.

    Returns:
        (C, N), or (nnz,) as ``rend_out.gaussian_ids``; None if there are no gradients. What `measure` has kept is
        returned as it is.

    Raises:
        ModuleError: there are signed gradients, but no absolute ones.
    """
    if rend_out.gradient_norms is not None:
        return rend_out.gradient_norms
    if absolute and lacks_absgrad(rend_out):
        raise ModuleError(f"{NO_ABSGRAD.format(type(rend_out).__name__)} Or set absgrad of the densification to False.")
    grads = getattr(rend_out.means2d, "absgrad", None) if absolute else rend_out.densification_gradient
    if grads is None:
        return None
    # Gradients are per pixel of an image that is averaged over cameras; this makes them independent of both.
    norms = torch.hypot(
        grads[..., 0] * (rend_out.width / 2 * rend_out.n_cameras),
        grads[..., 1] * (rend_out.height / 2 * rend_out.n_cameras),
    )
    return norms * (rend_out.radii > 0)


def add_to_gaussians(sums: Tensor, values: Tensor, ids: Tensor | None) -> None:
    """Add the values that Gaussians have in each camera to their sums.

    Args:
        sums: (N,), changed.
        values: (C, N); with ids (nnz,), or (1, nnz) of a renderer that draws others than the N Gaussians.
        ids: the Gaussian of each row, (nnz,), see ``SplatRenderPayload.gaussian_ids``; None if each has one.

    Raises:
        ModuleError: without ids, the values are those of another number of Gaussians.
    """
    if ids is not None:
        sums.index_add_(0, ids, values.reshape(-1).to(sums.dtype))
        return
    if values.shape[-1] != len(sums):
        raise ModuleError(
            f"The renderer drew {values.shape[-1]} Gaussians, but {len(sums)} are trained, and densification counts "
            "for each of these how it is seen. Let the renderer's payload have gaussian_ids, the trained Gaussian of "
            "each one that is drawn."
        )
    sums += values[0] if len(values) == 1 else values.sum(0)
