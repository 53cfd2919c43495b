"""Images and gradients of the CPU kernels for 2D Gaussians against the dense float64 reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense_reference_2dgs import render
from raster_scenes import random_scene
from torch import Tensor

from splatkit_ns.rasterize import Rasterization2DGS, rasterization_2dgs

PARAMETERS = ("means", "quats", "scales", "opacities", "colors", "viewmats")
IMAGE_TOLERANCE = 2e-5
"""Of colours, alphas and normals; ten times as much for depths of about 4, and for normals from depth."""
GRADIENT_TOLERANCE = 2e-4


def leaves(scene: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The scene in `dtype`, its parameters as leaves that require gradients."""
    copy = {name: v.to(dtype).clone() if isinstance(v, Tensor) else v for name, v in scene.items()}
    for name in (*PARAMETERS, "backgrounds"):
        if name in copy:
            copy[name].requires_grad_()
    return copy


def shifts(scene: dict[str, Any]) -> dict[str, Tensor]:
    cameras, n, pixels = len(scene["viewmats"]), len(scene["means"]), scene["width"] * scene["height"]
    shapes = {"mean_shifts": (cameras, n, 2, pixels), "ray_shifts": (cameras, n, 3, 3)}
    return {name: torch.zeros(shape, dtype=torch.float64, requires_grad=True) for name, shape in shapes.items()}


def loss(images: dict[str, Tensor]) -> Tensor:
    """All images, each pixel with its own weight."""
    rng = torch.Generator().manual_seed(7)
    return sum(
        ((image.double() * torch.randn(image.shape, generator=rng, dtype=torch.float64)).sum() / 10
        for image in images.values()), start=torch.zeros(()),
    )  # fmt: skip


def of_result(result: Rasterization2DGS, names: Any) -> dict[str, Tensor]:
    return {name: getattr(result, name) for name in names}


def relative_error(found: Tensor | None, expected: Tensor | None) -> float:
    if found is None or expected is None:  # what nothing depends on may have no gradient at all
        given = found if expected is None else expected
        return 0.0 if given is None else float(given.abs().max())
    return float((found.double() - expected).norm() / expected.norm().clamp(min=1e-9))


def compare(scene: dict[str, Any], options: dict[str, Any], dtype: torch.dtype, image: float, gradient: float) -> None:
    ours, reference, extra = leaves(scene, dtype), leaves(scene, torch.float64), shifts(scene)
    result = rasterization_2dgs(**ours, **options, absgrad=True)
    expected = render(**reference, **options, **extra)
    assert {name for name in Rasterization2DGS._fields[:-1] if getattr(result, name) is not None} == set(expected)
    for name, wanted in expected.items():
        found = getattr(result, name)
        assert found.shape == wanted.shape, name
        bound = image if name in ("alphas", "normals") or options.get("render_mode", "RGB") == "RGB" else 10 * image
        assert float((found - wanted).abs().max().detach()) < bound, name
    info = result.info
    info["means2d"].retain_grad()
    info["ray_transforms"].retain_grad()
    loss(of_result(result, expected)).backward()
    loss(expected).backward()
    for name in (*PARAMETERS, *(["backgrounds"] if "backgrounds" in scene else [])):
        assert relative_error(ours[name].grad, reference[name].grad) < gradient, name
    per_pixel, rays = extra["mean_shifts"].grad, extra["ray_shifts"].grad
    assert per_pixel is not None
    assert rays is not None
    assert relative_error(info["means2d"].grad, per_pixel.sum(-1)) < gradient
    assert relative_error(info["means2d"].absgrad, per_pixel.abs().sum(-1)) < gradient
    assert relative_error(info["ray_transforms"].grad, rays) < gradient
    depths = info["depths"].detach().double()[..., None]
    assert relative_error(info["gradient_2dgs"].grad, rays[..., :2, 2] * depths) < gradient


SCENES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sh3": ({"sh_bands": 16, "seed": 1}, {"sh_degree": 3, "render_mode": "RGB+ED"}),
    "sh1 of 16 bands": ({"sh_bands": 16, "seed": 2}, {"sh_degree": 1, "render_mode": "RGB+D"}),
    "colours only": ({"seed": 3}, {}),
    "depth": ({"seed": 4}, {"render_mode": "D"}),
    "expected depth": ({"seed": 5}, {"render_mode": "ED", "depth_mode": "median"}),
    "two channels and depth": ({"seed": 6, "channels": 2}, {"render_mode": "RGB+D", "depth_mode": "median"}),
    "seven channels": ({"seed": 7, "channels": 7, "width": 33, "height": 17}, {"render_mode": "RGB+ED"}),
    "two cameras": ({"seed": 8, "cameras": 2, "sh_bands": 9}, {"sh_degree": 2, "render_mode": "RGB+ED"}),
    "tiny discs": ({"seed": 9, "size": 0.01}, {"render_mode": "RGB+D"}),
    "huge discs": ({"seed": 10, "size": 0.8, "n": 50}, {"render_mode": "RGB+ED"}),
    "wide image": ({"seed": 11, "width": 70, "height": 9}, {"render_mode": "RGB+D"}),
    "tall image": ({"seed": 12, "width": 5, "height": 50}, {"render_mode": "RGB+ED"}),
    "one pixel": ({"seed": 13, "width": 1, "height": 1}, {"render_mode": "RGB+ED"}),
    "near and far planes": ({"seed": 14}, {"render_mode": "RGB+D", "near_plane": 3.6, "far_plane": 4.6}),
}


@pytest.mark.parametrize("name", SCENES)
def test_images_and_gradients(name: str) -> None:
    settings, options = SCENES[name]
    scene = random_scene(**{"n": 100, "width": 36, "height": 25, **settings})
    compare(scene, options, torch.float32, IMAGE_TOLERANCE, GRADIENT_TOLERANCE)


@pytest.mark.parametrize("name", ["sh3", "two channels and depth", "two cameras", "huge discs"])
def test_in_float64_only_rounding_is_left(name: str) -> None:
    settings, options = SCENES[name]
    scene = random_scene(**{"n": 100, "width": 36, "height": 25, **settings})
    compare(scene, options, torch.float64, 1e-11, 1e-9)


@pytest.mark.parametrize("render_mode", ["RGB", "D", "RGB+ED"])
def test_backgrounds(render_mode: str) -> None:
    scene = random_scene(n=100, width=36, height=25, cameras=2, seed=15)
    scene["backgrounds"] = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    compare(scene, {"render_mode": render_mode}, torch.float32, IMAGE_TOLERANCE, GRADIENT_TOLERANCE)


def test_colours_for_each_camera() -> None:
    scene = random_scene(n=60, cameras=2, seed=16)
    scene["colors"] = torch.rand(2, 60, 4, generator=torch.Generator().manual_seed(0))
    compare(scene, {"render_mode": "RGB+D"}, torch.float32, IMAGE_TOLERANCE, GRADIENT_TOLERANCE)


def around_the_camera(seed: int) -> dict[str, Any]:
    """Discs on all sides of the camera, some across its plane, many at grazing angles."""
    scene = random_scene(n=300, width=36, height=25, seed=seed, size=0.3)
    rng = torch.Generator().manual_seed(seed)
    scene["viewmats"] = torch.eye(4)[None]
    scene["means"] = torch.randn(300, 3, generator=rng) * torch.tensor([0.6, 0.4, 1.5]) + torch.tensor([0, 0, 0.8])
    scene["quats"] = scene["quats"] * torch.tensor([1.0, 1.0, 0.05, 0.05])  # turned about x: seen from the edge or so
    return scene


@pytest.mark.parametrize("seed", [17, 18, 19])
def test_around_the_camera(seed: int) -> None:
    scene = around_the_camera(seed)
    z, reach = scene["means"][:, 2], 3.3 * scene["scales"][:, 1]
    assert int(((z > 0.05) & (z < reach)).sum()) > 20, "some reach behind the camera"
    compare(scene, {"render_mode": "RGB+D", "near_plane": 0.05}, torch.float64, 1e-10, 1e-7)


def test_in_float32_around_the_camera() -> None:
    options = {"render_mode": "RGB+D", "near_plane": 0.05}
    compare(around_the_camera(17), options, torch.float32, 1e-3, 5e-3)
