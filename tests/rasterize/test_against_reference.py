"""Images and gradients of the kernels against the dense float64 reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense_reference import render
from raster_scenes import random_scene
from torch import Tensor

from splatkit_ns.rasterize import rasterization
from splatkit_ns.rasterize.cuda_rasterization import own_kernels

PARAMETERS = ("means", "quats", "scales", "opacities", "colors", "viewmats")
IMAGE_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4


def leaves(scene: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The scene in `dtype`, its parameters as leaves that require gradients."""
    copy = {name: v.to(dtype).clone() if isinstance(v, Tensor) else v for name, v in scene.items()}
    for name in PARAMETERS:
        copy[name].requires_grad_()
    return copy


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm().clamp(min=1e-12))


SCENES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sh0": ({"sh_bands": 1, "seed": 1}, {"sh_degree": 0}),
    "sh1 of 16 bands": ({"sh_bands": 16, "seed": 2}, {"sh_degree": 1}),
    "sh2": ({"sh_bands": 9, "seed": 3}, {"sh_degree": 2}),
    "sh3 antialiased": ({"sh_bands": 16, "seed": 4}, {"sh_degree": 3, "rasterize_mode": "antialiased"}),
    "one channel": ({"channels": 1, "seed": 5}, {}),
    "two channels": ({"channels": 2, "seed": 6}, {"rasterize_mode": "antialiased"}),
    "seven channels": ({"channels": 7, "seed": 7, "width": 33, "height": 17}, {}),
    "two cameras": ({"cameras": 2, "seed": 8, "sh_bands": 9}, {"sh_degree": 2}),
    "depth": ({"seed": 9}, {"render_mode": "D"}),
    "expected depth": ({"seed": 10}, {"render_mode": "ED"}),
    "colour and depth": ({"seed": 11}, {"render_mode": "RGB+D"}),
    "colour and expected depth": ({"seed": 12, "cameras": 2}, {"render_mode": "RGB+ED"}),
    "tiny Gaussians": ({"seed": 13, "size": 0.01}, {"rasterize_mode": "antialiased"}),
    "huge Gaussians": ({"seed": 14, "size": 0.8, "n": 60}, {}),
    "wide image": ({"seed": 15, "width": 70, "height": 9}, {}),
    "tall image": ({"seed": 16, "width": 5, "height": 50}, {}),
    "one pixel": ({"seed": 17, "width": 1, "height": 1}, {}),
    "near and far planes": ({"seed": 18}, {"near_plane": 3.6, "far_plane": 4.6}),
    "no blur": ({"seed": 19, "size": 0.3}, {"eps2d": 0.0}),
}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("with_background", [False, True], ids=["no background", "background"])
@pytest.mark.parametrize("name", SCENES)
def test_image_and_gradients_match_the_dense_reference(name: str, with_background: bool, device: str) -> None:
    settings, options = SCENES[name]
    scene = random_scene(**settings)
    ours, reference = leaves(scene, torch.float32), leaves(scene, torch.float64)
    names = list(PARAMETERS)
    if with_background:
        rng = torch.Generator().manual_seed(99)
        channels = 3 if "sh_bands" in settings else settings.get("channels", 3)
        backgrounds = torch.rand(settings.get("cameras", 1), channels, generator=rng)
        ours["backgrounds"] = backgrounds.clone().requires_grad_()
        reference["backgrounds"] = backgrounds.double().requires_grad_()
        if options.get("render_mode") not in ("D", "ED"):
            names.append("backgrounds")
    pixels = scene["width"] * scene["height"]
    shifts = torch.zeros(len(scene["viewmats"]), len(scene["means"]), pixels, 2, dtype=torch.float64).requires_grad_()

    moved = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in ours.items()}
    renders, alphas, info = rasterization(**moved, **options, absgrad=True)
    assert device == "cpu" or own_kernels() is not None, own_kernels.failure
    renders, alphas = renders.cpu(), alphas.cpu()
    info["means2d"].retain_grad()
    expected, expected_alphas = render(**reference, **options, mean_shifts=shifts)

    largest = max(1.0, float(expected.detach().abs().max()))  # depths are about 4 world units
    assert renders.shape == expected.shape
    assert float((renders - expected).abs().max()) < IMAGE_TOLERANCE * largest
    assert float((alphas - expected_alphas).abs().max()) < IMAGE_TOLERANCE

    rng = torch.Generator().manual_seed(1)
    v_renders = torch.randn(expected.shape, generator=rng)
    v_alphas = torch.randn(expected_alphas.shape, generator=rng)
    ((renders * v_renders).sum() + (alphas * v_alphas).sum()).backward()
    ((expected * v_renders).sum() + (expected_alphas * v_alphas).sum()).backward()
    errors = {
        key: relative_error(ours[key].grad, reference[key].grad) for key in names if reference[key].grad is not None
    }
    errors["means2d"] = relative_error(info["means2d"].grad.cpu(), shifts.grad.sum(2))
    errors["absgrad"] = relative_error(info["means2d"].absgrad.cpu(), shifts.grad.abs().sum(2))
    assert {key: error for key, error in errors.items() if error > GRADIENT_TOLERANCE} == {}


def test_colours_a_camera_get_their_own_gradient() -> None:
    scene = random_scene(cameras=2, seed=21)
    scene["colors"] = torch.rand(2, len(scene["means"]), 3, generator=torch.Generator().manual_seed(0))
    ours, reference = leaves(scene, torch.float32), leaves(scene, torch.float64)
    rasterization(**ours)[0].square().sum().backward()
    render(**reference)[0].square().sum().backward()
    assert ours["colors"].grad.shape == scene["colors"].shape
    assert relative_error(ours["colors"].grad, reference["colors"].grad) < GRADIENT_TOLERANCE


def test_float64_agrees_to_rounding() -> None:
    scene = random_scene(sh_bands=16, seed=22, cameras=2)
    ours, reference = leaves(scene, torch.float64), leaves(scene, torch.float64)
    renders, _, _ = rasterization(**ours, sh_degree=3, rasterize_mode="antialiased")
    expected, _ = render(**reference, sh_degree=3, rasterize_mode="antialiased")
    assert float((renders - expected).detach().abs().max()) < 1e-12
    renders.square().sum().backward()
    expected.square().sum().backward()
    for name in PARAMETERS:
        assert relative_error(ours[name].grad, reference[name].grad) < 1e-11, name
