"""Analytic gradients against finite differences, in float64.

The image jumps where alpha crosses 1/255 and where a pixel's light runs out; the scenes are small and fixed, so that no
pixel lies within a finite-difference step of a jump.
"""

from __future__ import annotations

import pytest
import torch
from raster_scenes import random_scene

from splatkit_ns.rasterize import rasterization

NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats", "backgrounds")


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"sh_bands": 16}, {"sh_degree": 3, "rasterize_mode": "antialiased"}),
        ({"sh_bands": 4, "cameras": 2}, {"sh_degree": 1, "render_mode": "RGB+ED"}),
        ({"channels": 5}, {"render_mode": "RGB+D", "rasterize_mode": "antialiased"}),
    ],
    ids=["sh3 antialiased", "two cameras with expected depth", "five channels with depth"],
)
def test_gradcheck(settings: dict, options: dict) -> None:
    scene = random_scene(n=6, width=6, height=5, seed=3, size=0.5, dtype=torch.float64, **settings)
    scene["opacities"] = 0.3 + 0.4 * scene["opacities"]
    channels = 3 if "sh_bands" in settings else settings["channels"]
    scene["backgrounds"] = torch.linspace(0.1, 0.9, channels, dtype=torch.float64).repeat(len(scene["viewmats"]), 1)
    fixed = {name: value for name, value in scene.items() if name not in NAMES}

    def image(*values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return rasterization(**dict(zip(NAMES, values, strict=True)), **fixed, **options)[:2]

    inputs = [scene[name].clone().requires_grad_() for name in NAMES]
    assert torch.autograd.gradcheck(image, inputs, eps=1e-6, atol=1e-6, rtol=1e-4, nondet_tol=0.0)
