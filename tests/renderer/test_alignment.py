"""A camera is aligned with its photograph, and the Gaussians stay as they are."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.renderer import RenderOptions, Splat3DGSRenderer
from splatkit_ns.renderer.alignment import aligned_view
from splatkit_ns.splat import SplatModel, SplatTrainingState

OPTIONS = RenderOptions(backgrounds=torch.zeros(1, 3))


def scene() -> SplatTrainingState:
    """A hundred coloured Gaussians in a ball."""
    torch.manual_seed(3)
    num = 100
    model = SplatModel(
        means=torch.randn(num, 3) * 0.6,
        scales=torch.full((num, 3), math.log(0.15)),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(num, 1),
        opacities=torch.full((num,), 1.0),
        sh0=torch.randn(num, 1, 3),
        shN=torch.zeros(num, 0, 3),
    )
    return model.to_training_state()


def camera() -> View:
    return View.look_at((0.0, -4.0, 0.5), (0.0, 0.0, 0.0), fov=40.0, width=96, height=72)


def wrong(view: View, degrees: float, shift: float) -> View:
    """The camera, turned about its own y axis and moved sideways."""
    angle = math.radians(degrees)
    motion = torch.eye(4)
    motion[0, 0] = motion[2, 2] = math.cos(angle)
    motion[0, 2], motion[2, 0] = math.sin(angle), -math.sin(angle)
    motion[1, 3] = shift
    return dataclasses.replace(view, cam_to_worlds=view.cam_to_worlds @ motion)


def image(state: SplatTrainingState, view: View) -> Tensor:
    return Splat3DGSRenderer().render(state, view, OPTIONS).renders[0].detach()


def test_a_camera_finds_its_photograph() -> None:
    state, view = scene(), camera()
    photograph = image(state, view)
    off = wrong(view, 1.0, 0.05)
    before = {name: value.detach().clone() for name, value in state.params.items()}
    with torch.no_grad():  # as in an evaluation
        found = aligned_view(Splat3DGSRenderer(), state, off, photograph, None, OPTIONS)
    error = (image(state, off) - photograph).square().mean()
    assert float((image(state, found) - photograph).square().mean()) < 0.01 * float(error)
    assert float((found.cam_to_worlds - view.cam_to_worlds).abs().max()) < 0.02, "a turn and a shift look alike"
    for name, value in before.items():
        assert torch.equal(state.params[name], value), name
        assert state.params[name].grad is None


def test_pixels_outside_the_mask_do_not_count() -> None:
    state, view = scene(), camera()
    photograph = image(state, view)
    mask = torch.ones(72, 96, dtype=torch.bool)
    mask[:, :40] = False
    spoilt = photograph.clone()
    spoilt[:, :40] = photograph[:, 20:60]
    found = aligned_view(Splat3DGSRenderer(), state, wrong(view, 0.5, 0.02), spoilt, mask, OPTIONS)
    assert float((found.cam_to_worlds - view.cam_to_worlds).abs().max()) < 0.02


def test_a_camera_that_fits_stays_and_a_tiny_image_is_left_alone() -> None:
    state, view = scene(), camera()
    found = aligned_view(Splat3DGSRenderer(), state, view, image(state, view), None, OPTIONS)
    assert float((image(state, found) - image(state, view)).abs().mean()) < 2e-3
    small = dataclasses.replace(view, width=10, height=10)
    assert torch.equal(
        aligned_view(Splat3DGSRenderer(), state, small, image(state, small), None, OPTIONS).cam_to_worlds,
        small.cam_to_worlds,
    )
