"""Our kernels against gsplat's own PyTorch functions, those that run without CUDA."""

from __future__ import annotations

import pytest
import torch
from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci, _spherical_harmonics
from raster_scenes import random_scene

from splatkit_ns.rasterize import radii_in_pixels, rasterization


def test_projection() -> None:
    scene = random_scene(n=400, cameras=2, width=50, height=37, seed=30, dtype=torch.float64)
    leaves = [scene[name].clone().requires_grad_() for name in ("means", "quats", "scales", "viewmats")]
    twins = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    scene |= dict(zip(("means", "quats", "scales", "viewmats"), leaves, strict=True))
    _, _, info = rasterization(**scene, rasterize_mode="antialiased")
    covars, _ = _quat_scale_to_covar_preci(twins[1], twins[2], compute_preci=False)
    _, means2d, depths, conics, compensations = _fully_fused_projection(
        twins[0], covars, twins[3], scene["Ks"], 50, 37, calc_compensations=True
    )
    seen = radii_in_pixels(info) > 0
    assert int(seen.sum()) > 300
    weights = torch.Generator().manual_seed(0)
    losses = [0.0, 0.0]
    opacities = scene["opacities"] * compensations
    pairs = {"means2d": means2d, "depths": depths, "conics": conics, "opacities": opacities}
    for name, theirs in pairs.items():
        ours = info[name]
        torch.testing.assert_close(ours[seen], theirs[seen], rtol=1e-9, atol=1e-9)
        weight = torch.randn(ours[seen].shape, generator=weights, dtype=torch.float64)
        losses[0] += (ours[seen] * weight).sum()
        losses[1] += (theirs[seen] * weight).sum()
    for loss in losses:
        loss.backward()
    for leaf, twin in zip(leaves, twins, strict=True):
        assert float((leaf.grad - twin.grad).norm() / twin.grad.norm()) < 1e-9


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spherical_harmonics(degree: int) -> None:
    from splatkit_ns.rasterize.cpu.autograd import ShColours

    rng = torch.Generator().manual_seed(degree)
    means = torch.randn(64, 3, generator=rng, dtype=torch.float64).requires_grad_()
    centres = torch.randn(2, 3, generator=rng, dtype=torch.float64).requires_grad_()
    coefficients = torch.randn(64, 16, 3, generator=rng, dtype=torch.float64).requires_grad_()
    radii = torch.ones(2, 64, 2, dtype=torch.int32)
    ours = ShColours.apply(means, centres, coefficients, radii, degree)
    shs = coefficients.expand(2, -1, -1, -1)
    theirs = torch.clamp_min(_spherical_harmonics(degree, means - centres[:, None], shs) + 0.5, 0.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)
    weight = torch.randn(ours.shape, generator=rng, dtype=torch.float64)
    inputs = [means, centres, coefficients] if degree else [coefficients]
    found = torch.autograd.grad((ours * weight).sum(), inputs)
    expected = torch.autograd.grad((theirs * weight).sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
