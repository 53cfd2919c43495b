"""A sky behind the Gaussians: its colours, its gradients, and the sphere of Gaussians that shows it elsewhere."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.errors import ModuleError
from splatkit_ns.loss_fn.geometry import pixel_rays
from splatkit_ns.renderer import RenderOptions, Splat2DGSRenderer, Splat3DGSRenderer
from splatkit_ns.renderer.sky import sh_basis, sky_images, sky_shell
from splatkit_ns.renderer.wide_lenses import pixel_directions
from splatkit_ns.splat import SplatModel

OPTIONS = RenderOptions(backgrounds=torch.ones(1, 3))


def nothing() -> SplatModel:
    """One Gaussian that cannot be seen."""
    return SplatModel(
        means=torch.zeros(1, 3),
        scales=torch.zeros(1, 3),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        opacities=torch.full((1,), -20.0),
        sh0=torch.zeros(1, 1, 3),
        shN=torch.zeros(1, 0, 3),
    )


def camera(width: int = 60, height: int = 44) -> View:
    return View.look_at((0.0, 0.0, 0.0), (1.0, 2.0, 0.7), fov=60.0, width=width, height=height)


def with_sky(kind: Any, degree: int, seed: int = 0) -> Any:
    renderer = kind(sky_degree=degree)
    renderer.trainables()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        renderer.sky.copy_(torch.randn(renderer.sky.shape, generator=generator) * 0.2)
    return renderer


def test_a_direction_has_the_colour_of_a_gaussian_with_the_same_coefficients() -> None:
    """The colours of Gaussians come from another implementation."""
    renderer = with_sky(Splat3DGSRenderer, 3)
    view = camera(240, 176)
    direction = view.cam_to_worlds[0, :3, 2]
    coefficients = renderer.sky.detach()
    large = SplatModel(
        means=5 * direction[None],
        scales=torch.zeros(1, 3),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        opacities=torch.full((1,), 30.0),
        sh0=coefficients[None, :1],
        shN=coefficients[None, 1:],
    )
    drawn = Splat3DGSRenderer().render(large, view, RenderOptions()).renders[0, 88, 120]
    found = sky_images(coefficients, view)[0, 87:89, 119:121].mean((0, 1))
    torch.testing.assert_close(found, drawn, atol=5e-3, rtol=0)
    basis = sh_basis(direction[None], 3)
    torch.testing.assert_close(found, (basis @ coefficients + 0.5).clamp(min=0)[0], atol=2e-3, rtol=0)


@pytest.mark.parametrize("kind", [Splat3DGSRenderer, Splat2DGSRenderer])
def test_the_sky_takes_the_place_of_the_background(kind: Any) -> None:
    view, renderer = camera(), with_sky(kind, 2)
    payload = renderer.render(nothing(), view, OPTIONS)
    torch.testing.assert_close(payload.renders, sky_images(renderer.sky, view))
    assert float(payload.alphas.max()) < 0.01
    plain = kind().render(nothing(), view, OPTIONS)
    torch.testing.assert_close(plain.renders, torch.ones_like(plain.renders), atol=1e-5, rtol=0)


LENS_VIEWS = {
    "opencv": dataclasses.replace(
        camera(121, 89), lens="opencv", distortion=torch.tensor([[-0.15, 0.02, 0.002, -0.001]])
    ),
    "fisheye": camera(121, 89).fisheye(150.0),
    "panorama": camera(128, 64).panorama(),
}


@pytest.mark.parametrize("name", LENS_VIEWS)
def test_the_sky_is_right_through_lenses(name: str) -> None:
    """Where a pinhole camera looks that is turned to a pixel's ray, it sees the colour of that pixel."""
    renderer, view = with_sky(Splat3DGSRenderer, 3), LENS_VIEWS[name]
    image = renderer.render(nothing(), view, OPTIONS).renders[0]
    rays = pixel_directions(view) if name == "panorama" else F.normalize(pixel_rays(view)[0], dim=-1)
    for row, column in ((5, 7), (30, 90), (60, 20), (44, 60)):
        direction = view.cam_to_worlds[0, :3, :3] @ rays[row, column]
        expected = (sh_basis(direction[None], 3) @ renderer.sky.detach() + 0.5).clamp(min=0)[0]
        torch.testing.assert_close(image[row, column].detach(), expected, atol=0.01, rtol=0)


def test_the_sky_is_smooth_between_the_places_where_it_is_computed() -> None:
    """Pixel by pixel it differs from the formula by less than a picture's 8 bits can show."""
    renderer, view = with_sky(Splat3DGSRenderer, 3), camera(61, 45)
    K = view.Ks[0]
    y, x = torch.meshgrid(torch.arange(45) + 0.5, torch.arange(61) + 0.5, indexing="ij")
    rays = torch.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], torch.ones_like(x)], dim=-1)
    directions = torch.nn.functional.normalize(rays @ view.cam_to_worlds[0, :3, :3].T, dim=-1)
    wanted = (sh_basis(directions, 3) @ renderer.sky.detach() + 0.5).clamp(min=0)
    assert float((sky_images(renderer.sky, view)[0] - wanted).abs().max()) < 2 / 255


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 9), (8, 17)])
def test_tiny_images_have_a_sky(width: int, height: int) -> None:
    sky = sky_images(torch.zeros(4, 3), camera(width, height))
    torch.testing.assert_close(sky, torch.full((1, height, width, 3), 0.5))


def test_the_sky_is_learnt_from_the_pixels_that_are_free() -> None:
    renderer, view = with_sky(Splat3DGSRenderer, 1), camera()
    renderer.render(nothing(), view, OPTIONS).renders.square().mean().backward()
    assert float(renderer.sky.grad.abs().min()) > 0
    renderer.sky.grad.zero_()
    wall = dataclasses.replace(nothing(), means=3 * view.cam_to_worlds[:, :3, 2], scales=torch.full((1, 3), 5.0))
    wall = dataclasses.replace(wall, opacities=torch.full((1,), 30.0))
    renderer.render(wall, view, OPTIONS).renders.square().mean().backward()
    assert float(renderer.sky.grad.abs().max()) < 1e-2


def test_panoramas_show_the_whole_sky() -> None:
    renderer = with_sky(Splat3DGSRenderer, 1)
    with torch.no_grad():
        renderer.sky.zero_()
        renderer.sky[2] = torch.tensor([0.4, 0.0, -0.4])  # the coefficient of z
        panorama = renderer.render(nothing(), camera(64, 32).panorama(), OPTIONS).renders[0]
    assert panorama.shape == (32, 64, 3)
    assert float(panorama[2, :, 0].mean()) > float(panorama[-3, :, 0].mean()) + 0.2


@pytest.mark.parametrize("kind", [Splat3DGSRenderer, Splat2DGSRenderer])
def test_a_sphere_of_gaussians_looks_like_the_sky(kind: Any) -> None:
    renderer = with_sky(kind, 2)
    shell = sky_shell(renderer.sky, torch.tensor([0.1, 0.0, -0.1]), 50.0, 8000, 3)
    assert shell.sh_degree == 3
    assert len(shell) == 8000
    drawn: Tensor = kind().render(SplatModel.from_gaussians(shell), camera(), RenderOptions()).renders
    difference = (drawn - sky_images(renderer.sky, camera())).abs().detach()
    assert float(difference.mean()) < 0.01
    assert float(difference.max()) < 0.06


def test_a_renderer_in_no_run_says_what_it_lacks() -> None:
    with pytest.raises(ModuleError, match="trainables"):
        Splat3DGSRenderer(sky_degree=1).render(nothing(), camera(), OPTIONS)


def test_without_a_sky_there_is_nothing_to_train() -> None:
    assert Splat3DGSRenderer().trainables() == {}
    assert not Splat3DGSRenderer().may_own_parameters
    assert Splat3DGSRenderer(sky_degree=0).may_own_parameters

    class Own(Splat3DGSRenderer):
        def trainables(self) -> Any:
            return {}

    assert Own().may_own_parameters
