"""Training states, payloads with made-up gradients, and a strategy that is set up on a state."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch
from torch import Tensor

from splatkit_ns.densification import SplatDefaultDensification, SplatMCMCDensification
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.parts.payload_2dgs import Splat2DGSPayload
from splatkit_ns.rasterize.versions import radii_have_axes
from splatkit_ns.splat import SplatTrainingState

LOGGER = logging.getLogger("splatkit_ns.tests")
WIDTH, HEIGHT = 64, 48


def random_state(num: int = 60, seed: int = 0, max_scale: float = 0.05) -> SplatTrainingState:
    """Gaussians of all sizes and opacities, of SH degree 1, with optimizers that have a state already."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    state = SplatTrainingState.from_tensors(
        {
            "means": uniform(-1, 1, num, 3),
            "scales": uniform(0.001, max_scale, num, 3).log(),
            "quats": torch.randn(num, 4, generator=generator),
            "opacities": uniform(0.002, 0.9, num).logit(),
            "sh0": torch.randn(num, 1, 3, generator=generator),
            "shN": torch.randn(num, 3, 3, generator=generator),
        }
    )
    optimize(state, seed)
    return state


def optimize(state: SplatTrainingState, seed: int) -> None:
    """One step of every optimizer with random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for name, param in state.params.items():
        param.grad = torch.randn(param.shape, generator=generator)
        state.optimizers[name].step()


def payload(gradients: Tensor, radii: Tensor) -> SplatRenderPayload:
    """What a render returns as far as strategies look at it.

    Args:
        gradients: of the projected centres, (C, N, 2).
        radii: (C, N) in pixels.
    """
    means2d = torch.zeros_like(gradients, requires_grad=True)
    means2d.grad = gradients.clone()
    means2d.absgrad = gradients.abs() * 2  # type: ignore[attr-defined]
    cameras = gradients.shape[0]
    info = {
        "width": WIDTH,
        "height": HEIGHT,
        "n_cameras": cameras,
        "gaussian_ids": None,
        "means2d": means2d,
        "radii": radii[..., None].expand(*radii.shape, 2) if radii_have_axes() else radii,
    }
    image = torch.zeros(cameras, HEIGHT, WIDTH, 3)
    return SplatRenderPayload(
        renders=image, alphas=image[..., :1], width=WIDTH, height=HEIGHT, n_cameras=cameras, info=info, means2d=means2d
    )


def packed(unpacked: SplatRenderPayload) -> SplatRenderPayload:
    """The same as gsplat packs it: a row for each camera and Gaussian that it sees, and which Gaussian that is."""
    seen = unpacked.radii > 0
    ids = seen.nonzero()[:, 1]
    means2d = torch.zeros(len(ids), 2, requires_grad=True)
    assert unpacked.means2d.grad is not None
    means2d.grad = unpacked.means2d.grad[seen]
    means2d.absgrad = unpacked.means2d.absgrad[seen]  # type: ignore[attr-defined]
    rows = {"gaussian_ids": ids, "means2d": means2d, "radii": unpacked.info["radii"][seen]}
    return dataclasses.replace(unpacked, info={**unpacked.info, **rows}, means2d=means2d, gaussian_ids=ids)


def disc_payload(gradients: Tensor, radii: Tensor) -> Splat2DGSPayload:
    """The same of a render of discs: `gradients` are those of ``gradient_2dgs``, and means2d has others."""
    fields = dict(payload(gradients * 7, radii).items())
    probe = torch.zeros_like(gradients, requires_grad=True)
    probe.grad = gradients.clone()
    fields["info"] = {**fields["info"], "gradient_2dgs": probe}
    return Splat2DGSPayload(**fields, gradient_2dgs=probe, normals=fields["renders"])


def random_payload(num: int, seed: int, cameras: int = 1, size: float = 4e-5) -> SplatRenderPayload:
    """Gradients of about the size that decides about growth; a third of the Gaussians is not seen."""
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(cameras, num, 2, generator=generator) * size
    radii = torch.randint(0, 30, (cameras, num), generator=generator, dtype=torch.int32)
    radii[torch.rand(cameras, num, generator=generator) < 0.33] = 0
    return payload(gradients, radii)


def set_up(
    strategy: SplatDefaultDensification | SplatMCMCDensification, state: SplatTrainingState, renderer: Any = None
) -> None:
    """Set up a strategy as the model does, with row changes reaching it."""
    if isinstance(strategy, SplatDefaultDensification):
        state.subscribe(strategy.on_gaussians_changed)
        strategy.on_setup(LOGGER, renderer, state)
    else:
        strategy.on_setup(LOGGER, state)
