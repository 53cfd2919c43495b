"""Panoramas and fisheye images, put together from pinhole images: right directions, distances and no seams."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.errors import ModuleError, SplatkitError
from splatkit_ns.formats.gaussians import SH_C0
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.parts.payload_2dgs import Splat2DGSPayload
from splatkit_ns.renderer import RenderOptions, Splat2DGSRenderer, Splat3DGSRenderer, SplatRenderer
from splatkit_ns.renderer.wide_lenses import pixel_directions
from splatkit_ns.splat import SplatModel, SplatTrainingState

EYE = torch.tensor([0.3, -0.2, 0.5])
BACKGROUND = (0.2, 0.4, 0.1)
RENDERERS = pytest.mark.parametrize("renderer", [Splat3DGSRenderer(), Splat2DGSRenderer()], ids=["3dgs", "2dgs"])


def looking(width: int = 96, height: int = 48) -> View:
    """A camera whose axes are no axes of the world."""
    return View.look_at(EYE, EYE + torch.tensor([1.0, 0.4, 0.2]), width=width, height=height)


def balls(
    centres: Tensor, size: float | Tensor, color: tuple[float, float, float] = (0.9, 0.5, 0.3)
) -> SplatTrainingState:
    """Opaque Gaussians, discs that face the eye for a renderer of discs."""
    count = len(centres)
    forward = F.normalize(centres - EYE, dim=1)
    # the turn from +z to the line of sight
    axis = torch.linalg.cross(torch.tensor([0.0, 0, 1]).expand_as(forward), forward)
    quats = F.normalize(torch.cat([1 + forward[:, 2:], axis], dim=1), dim=1)
    return SplatModel(
        means=centres,
        scales=torch.as_tensor(size).log().expand(count, 3),
        quats=quats,
        opacities=torch.full((count,), 8.0),
        sh0=((torch.tensor(color) - 0.5) / SH_C0).repeat(count, 1, 1),
        shN=torch.zeros(count, 0, 3),
    ).for_rendering()


def on_a_sphere(count: int) -> Tensor:
    """Unit vectors (count, 3), evenly spread (a Fibonacci lattice)."""
    number = torch.arange(count) + 0.5
    z, turn = 1 - 2 * number / count, math.pi * (1 + math.sqrt(5)) * number
    across = (1 - z * z).sqrt()
    return torch.stack([across * turn.cos(), across * turn.sin(), z], dim=1)


def test_directions_of_a_panorama() -> None:
    directions = pixel_directions(looking(8, 4).panorama())
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(4, 8))
    longitude = torch.atan2(directions[..., 0], directions[..., 2]).rad2deg()
    torch.testing.assert_close(longitude, (torch.arange(8) * 45.0 - 157.5).expand(4, 8))
    downwards = torch.asin(directions[..., 1]).rad2deg()
    torch.testing.assert_close(downwards, (torch.arange(4) * 45.0 - 67.5)[:, None].expand(4, 8))


@pytest.mark.parametrize("coefficients", [None, (-0.03, 0.01, -0.002, 0.0003)])
def test_directions_of_a_fisheye_are_those_that_opencv_projects_there(coefficients: tuple[float, ...] | None) -> None:
    view = looking(40, 30).fisheye(150)
    distortion = None if coefficients is None else torch.tensor([coefficients])
    view = replace(view, Ks=view.Ks + torch.tensor([[0.0, 0, 1.5], [0, 0.7, -1], [0, 0, 0]]), distortion=distortion)
    directions = pixel_directions(view).reshape(-1, 1, 3).double().numpy()
    in_front = directions[:, 0, 2] > 0.05
    K = view.Ks[0].double().numpy()
    found, _ = cv2.fisheye.projectPoints(
        directions[in_front], np.zeros(3), np.zeros(3), K, np.array(coefficients or [0.0] * 4)
    )
    y, x = np.mgrid[:30, :40].reshape(2, -1)[:, in_front] + 0.5
    assert in_front.sum() > 600
    np.testing.assert_allclose(found[:, 0], np.stack([x, y], 1), atol=0.02)


def test_a_fisheye_sees_nothing_beyond_half_a_turn() -> None:
    view = looking(60, 40).fisheye(360)
    sees = pixel_directions(view).norm(dim=-1)
    y, x = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(60) + 0.5, indexing="ij")
    angle = torch.hypot(x - 30, y - 20) * (360 / 40)
    torch.testing.assert_close(sees, (angle <= 180).float())
    options = RenderOptions(backgrounds=torch.tensor([BACKGROUND]))
    payload = Splat3DGSRenderer().render(balls(EYE + on_a_sphere(300), 0.3), view, options)
    outside = payload.renders[0][angle > 180]
    torch.testing.assert_close(outside, torch.tensor(BACKGROUND).expand_as(outside))
    assert float(payload.alphas[0][angle > 180].max()) == 0
    assert float(payload.alphas[0][angle < 178].min()) > 0.9


@RENDERERS
def test_a_panorama_shows_each_gaussian_in_its_direction_at_its_distance(renderer: SplatRenderer) -> None:
    view = looking().panorama()
    directions = on_a_sphere(14)
    distances = torch.linspace(1.0, 3.0, 14)
    gaussians = balls(EYE + directions * distances[:, None], 0.08 * distances[:, None])
    options = RenderOptions(backgrounds=torch.tensor([BACKGROUND]), render_mode="RGB+ED")
    payload = renderer.render(gaussians, view, options)
    assert payload.depths is not None
    pixels = pixel_directions(view) @ view.cam_to_worlds[0, :3, :3].T
    for direction, distance in zip(directions, distances, strict=True):
        nearest = (pixels @ direction).flatten().argmax()
        alpha, depth = payload.alphas.flatten()[nearest], payload.depths.flatten()[nearest]
        assert float(alpha) > 0.6
        assert float(depth) == pytest.approx(float(distance), rel=0.02)
        color = payload.renders.reshape(-1, 3)[nearest]
        expected = alpha * torch.tensor([0.9, 0.5, 0.3]) + (1 - alpha) * torch.tensor(BACKGROUND)
        torch.testing.assert_close(color, expected, atol=2e-3, rtol=0)
    empty = (pixels.reshape(-1, 3) @ directions.T).amax(1) < math.cos(0.45)
    assert float(payload.alphas.flatten()[empty].max()) < 1e-3


@RENDERERS
def test_no_seams_show_in_a_shell_of_one_colour(renderer: SplatRenderer) -> None:
    gaussians = balls(EYE + 2 * on_a_sphere(1500), 0.12)
    options = RenderOptions(render_mode="RGB+ED")
    payload = renderer.render(gaussians, looking().panorama(), options)
    assert payload.depths is not None
    assert float(payload.alphas.min()) > 0.95
    color = torch.tensor([0.9, 0.5, 0.3])
    torch.testing.assert_close(payload.renders, payload.alphas * color)
    assert float(payload.depths.min()) > 1.9
    assert float(payload.depths.max()) < 2.1
    if isinstance(payload, Splat2DGSPayload):
        inwards = -pixel_directions(looking().panorama()) @ looking().cam_to_worlds[0, :3, :3].T
        assert float((payload.normals[0] * inwards).sum(-1).min()) > 0.95
        assert payload.depths_median is not None
        assert float((payload.depths_median - 2).abs().max()) < 0.1


def test_a_wide_image_agrees_with_a_pinhole_image_of_the_same_camera() -> None:
    pinhole = View.look_at(EYE, EYE + torch.tensor([1.0, 0.4, 0.2]), fov=40, width=40, height=40)
    wide = replace(pinhole, Ks=pinhole.Ks, lens="opencv_fisheye")  # the same resolution in the middle
    generator = torch.Generator().manual_seed(1)
    gaussians = balls(EYE + on_a_sphere(800) * (2 + torch.rand(800, 1, generator=generator)), 0.1)
    gaussians.params["sh0"].data += torch.randn(800, 1, 3, generator=generator)
    renderer, options = Splat3DGSRenderer(), RenderOptions(render_mode="RGB+ED")
    expected, found = renderer.render(gaussians, pinhole, options), renderer.render(gaussians, wide, options)
    middle = slice(14, 26)  # within 6 degrees of the axis, where an angle is its tangent
    difference = (expected.renders - found.renders)[0, middle, middle].abs()
    assert float(difference.mean()) < 0.02
    assert float(expected.renders[0, middle, middle].std()) > 0.1


@pytest.mark.parametrize(
    "view", [looking(160, 160).fisheye(200), looking(160, 80).panorama()], ids=["fisheye", "panorama"]
)
def test_fisheyes_and_panoramas_of_them_look_as_if_from_pinhole_images(view: View) -> None:
    """Small Gaussians are drawn the same; beside and behind the camera, too."""
    generator = torch.Generator().manual_seed(2)
    gaussians = balls(EYE + on_a_sphere(500) * (2 + torch.rand(500, 1, generator=generator)), 0.08)
    gaussians.params["sh0"].data += torch.randn(500, 1, 3, generator=generator)
    options = RenderOptions(render_mode="RGB+ED")
    direct = Splat3DGSRenderer().render(gaussians, view, options)
    parts = OwnRenderer().render(gaussians, view, options)
    assert bool(direct.info) == (view.lens == "opencv_fisheye")
    assert not parts.info
    assert float((direct.renders - parts.renders).abs().mean()) < 0.02
    both = ((direct.alphas > 0.9) & (parts.alphas > 0.9))[0, ..., 0]
    assert int(both.sum()) > 100
    assert direct.depths is not None
    assert parts.depths is not None
    assert float((direct.depths - parts.depths)[0][both].abs().mean()) < 0.03


def test_several_cameras_at_once() -> None:
    views = View.look_at(torch.stack([EYE, EYE + 0.2]), EYE + 3, width=32, height=16).panorama()
    gaussians, renderer = balls(EYE + 2 * on_a_sphere(60), 0.2), Splat3DGSRenderer()
    backgrounds = torch.tensor([[1.0, 0, 0], [0, 0, 1]])
    both = renderer.render(gaussians, views, RenderOptions(backgrounds=backgrounds))
    assert both.n_cameras == 2
    for number, view in enumerate(views):
        one = renderer.render(gaussians, view, RenderOptions(backgrounds=backgrounds[number : number + 1]))
        assert torch.equal(both.renders[number], one.renders[0])


@dataclass(kw_only=True)
class OwnPayload(SplatRenderPayload):
    """Has an image of its own."""

    light: Tensor


class OwnRenderer(SplatRenderer[OwnPayload]):
    """Draws pinhole images alone, as renderers of one's own do."""

    def render(
        self, training_state: SplatTrainingState, view: View, options: RenderOptions = RenderOptions()
    ) -> OwnPayload:
        assert view.lens == "pinhole"
        plain = Splat3DGSRenderer().render(training_state, view, options)
        return OwnPayload(**dict(plain.items()), light=plain.renders.mean(-1, keepdim=True))


def test_a_renderer_of_ones_own_makes_panoramas_with_its_own_images() -> None:
    view = looking(32, 16).panorama()
    payload = OwnRenderer().render(balls(EYE + 2 * on_a_sphere(60), 0.2), view)
    torch.testing.assert_close(payload.light, payload.renders.mean(-1, keepdim=True))
    assert payload.light.shape == (1, 16, 32, 1)


@RENDERERS
def test_what_cannot_be_drawn_is_refused(renderer: SplatRenderer) -> None:
    gaussians, view = balls(EYE + on_a_sphere(5), 0.2), looking()
    name = type(renderer).__name__
    with pytest.raises(ModuleError, match=rf"^{name} draws views .* in training, found equirectangular"):
        renderer.render(gaussians, view.panorama(), RenderOptions(is_training=True))
    if isinstance(renderer, Splat2DGSRenderer):
        with pytest.raises(ModuleError, match=rf"^{name} draws views .* model pinhole, found opencv\. Undistort"):
            renderer.render(gaussians, replace(view, lens="opencv"))
    with pytest.raises(SplatkitError, match="fov is 400, expected an angle in degrees, more than 0 and at most 360"):
        view.fisheye(400)
