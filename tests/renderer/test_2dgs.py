"""`Splat2DGSRenderer` on the CPU: the payload, its gradients, and the images made of normals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from splatkit_ns.densification import SplatDefaultDensification
from splatkit_ns.errors import ModuleError
from splatkit_ns.renderer import RenderMode, RenderOptions, Splat2DGSPayload, Splat2DGSRenderer
from splatkit_ns.splat import SplatTrainingState
from tests.renderer.test_3dgs import HEIGHT, WIDTH, cameras, state, view_of

NAMES = {"normals", "normals_camera", "normals_of_surface", "distortion"}


def render(
    gaussians: SplatTrainingState,
    count: int = 1,
    renderer: Splat2DGSRenderer | None = None,
    render_mode: RenderMode = "RGB+ED",
    backgrounds: Tensor | None = None,
) -> Splat2DGSPayload:
    options = RenderOptions(backgrounds=backgrounds, render_mode=render_mode)
    return (renderer or Splat2DGSRenderer()).render(gaussians, view_of(cameras(count)), options)


def wall(tilt: float = 0.0) -> SplatTrainingState:
    """One large opaque disc through the origin, its normal turned by ``tilt`` radians from -z towards +x."""
    half = tilt / 2
    return SplatTrainingState.from_tensors(
        {
            "means": torch.zeros(1, 3),
            "scales": torch.tensor([[0.0, 0.0, -5.0]]),
            "quats": torch.tensor([[math.cos(half), 0.0, -math.sin(half), 0.0]]),
            "opacities": torch.tensor([12.0]),
            "sh0": torch.zeros(1, 1, 3),
            "shN": torch.zeros(1, 0, 3),
        }
    )


def test_the_payload_has_the_documented_shapes() -> None:
    out = render(state(9), count=2)
    image = (2, HEIGHT, WIDTH)
    assert out.renders.shape == out.normals.shape == (*image, 3)
    assert out.normals_from_depth is not None
    assert out.normals_from_depth.shape == (*image, 3)
    for single in (out.alphas, out.depths, out.depths_expected, out.render_distort, out.depths_median):
        assert single is not None
        assert single.shape == (*image, 1)
    assert out.means2d.shape == out.gradient_2dgs.shape == (2, 9, 2)
    assert out.radii.shape == (2, 9)
    assert out["gradient_2dgs"] is out.info["gradient_2dgs"]
    assert {"normals", "render_distort", "gradient_2dgs", "depths_expected"} <= set(out.keys())


def test_what_comes_of_depth_is_none_without_it() -> None:
    out = render(state(), render_mode="RGB")
    assert out.depths is out.normals_from_depth is out.render_distort is out.depths_median is None
    assert set(out.extra_images(view_of(cameras()))) == {"normals", "normals_camera"}
    assert render(state(), renderer=Splat2DGSRenderer(distloss=False)).render_distort is None
    accumulated = render(state(), render_mode="RGB+D")
    assert accumulated.depths is accumulated.depths_accumulated


def test_backgrounds_are_behind_the_discs() -> None:
    gaussians = state()
    black, red = render(gaussians), render(gaussians, backgrounds=torch.tensor([[1.0, 0.0, 0.0]]))
    expected = black.renders + (1 - black.alphas) * torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(red.renders, expected)
    torch.testing.assert_close(red.depths, black.depths)


def test_the_third_scale_has_no_effect() -> None:
    thin, thick = state(), state()
    with torch.no_grad():
        thick.params["scales"][:, 2] = 1.0
    assert torch.equal(render(thin).renders, render(thick).renders)


def test_densification_looks_at_the_discs_gradient() -> None:
    out = render(state())
    out.retain_gradients()
    assert out.densification_gradient is None
    out.renders.square().sum().backward()
    assert out.densification_gradient is out.gradient_2dgs.grad
    assert out.densification_gradient is not None
    assert float(out.densification_gradient.abs().max()) > 0
    assert out.means2d.grad is not None


def test_densification_gradient_is_how_the_loss_changes_as_a_disc_moves_on_the_screen() -> None:
    """A large disc moved by dx in the world moves by f / z dx pixels."""
    gaussians = wall()
    with torch.no_grad():
        gaussians.params["scales"][:, :2] = math.log(0.15)
        gaussians.params["opacities"].fill_(1.0)
    ramp = torch.linspace(0, 1, WIDTH)[None, None, :, None]

    def loss() -> tuple[Tensor, Splat2DGSPayload]:
        out = render(gaussians, render_mode="RGB")
        return (out.alphas * ramp).sum(), out

    value, out = loss()
    value.backward()
    assert out.densification_gradient is not None
    step = 0.01
    with torch.no_grad():
        gaussians.params["means"][0, 0] = step
    moved, _ = loss()
    pixels = step * 50 / 2
    assert float(moved - value) / pixels == pytest.approx(float(out.densification_gradient[0, 0, 0]), rel=0.05)


def test_absolute_gradients_are_refused_where_densification_has_none() -> None:
    with pytest.raises(ModuleError, match=r"needs absolute gradients.*Splat2DGSRenderer.*gradient_2dgs, which have"):
        SplatDefaultDensification(absgrad=True).on_setup(None, Splat2DGSRenderer(), state())


@pytest.mark.parametrize("tilt", [0.0, 0.5])
def test_normals_face_the_camera_in_world_axes(tilt: float) -> None:
    out = render(wall(tilt))
    middle = out.normals[0, HEIGHT // 2, WIDTH // 2]
    torch.testing.assert_close(middle, torch.tensor([math.sin(tilt), 0.0, -math.cos(tilt)]), atol=2e-3, rtol=0)


def test_images_of_normals_are_colours_in_the_cameras_axes_too() -> None:
    poses = cameras()
    images = render(wall(0.5)).extra_images(view_of(poses))
    assert set(images) == NAMES
    middle = {name: image[0, HEIGHT // 2, WIDTH // 2] for name, image in images.items()}
    world = torch.tensor([math.sin(0.5), 0.0, -math.cos(0.5)])
    torch.testing.assert_close(middle["normals"], world / 2 + 0.5, atol=2e-3, rtol=0)
    facing = torch.tensor([math.sin(0.5), 0.0, math.cos(0.5)])  # x right, y up, z towards the viewer
    torch.testing.assert_close(middle["normals_camera"], facing / 2 + 0.5, atol=2e-3, rtol=0)
    assert float(middle["distortion"]) == pytest.approx(0.0, abs=1e-5), "one disc alone is not spread along the ray"
    for name in NAMES - {"distortion"}:
        assert float(images[name].min()) >= 0
        assert float(images[name].max()) <= 1


def test_images_of_normals_turn_with_the_camera() -> None:
    """A camera that looks along +x at a wall across x: its normal is -x in the world, and towards the camera there."""
    turn = torch.tensor([[[0.0, 0, 1, -2], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]]])
    out = Splat2DGSRenderer().render(wall(math.pi / 2), view_of(turn), RenderOptions(render_mode="RGB+ED"))
    images = out.extra_images(view_of(turn))
    middle = {name: image[0, HEIGHT // 2, WIDTH // 2] for name, image in images.items()}
    torch.testing.assert_close(middle["normals"], torch.tensor([0.0, 0.5, 0.5]), atol=2e-3, rtol=0)
    torch.testing.assert_close(middle["normals_camera"], torch.tensor([0.5, 0.5, 1.0]), atol=2e-3, rtol=0)


def test_where_nothing_is_images_of_normals_are_black() -> None:
    gaussians = wall()
    with torch.no_grad():
        gaussians.params["scales"].fill_(math.log(0.05))
    out = render(gaussians)
    images = out.extra_images(view_of(cameras()))
    empty = out.alphas[..., 0] == 0
    assert bool(empty.any())
    for name in NAMES:
        assert float(images[name][empty].abs().max()) == 0, name


def test_setting_up_makes_the_gaussians_flat() -> None:
    gaussians = state()
    Splat2DGSRenderer().on_setup(gaussians)
    assert float(gaussians.scales[:, 2].max()) == pytest.approx(1e-6)


@pytest.mark.gpu
def test_cuda_renders_what_the_cpu_renders() -> None:
    gaussians = state()
    on_gpu = SplatTrainingState.from_tensors({k: v.detach() for k, v in gaussians.params.items()}, device="cuda")
    results: list[Splat2DGSPayload] = []
    for one, device in ((gaussians, "cpu"), (on_gpu, "cuda")):
        options = RenderOptions(backgrounds=torch.full((1, 3), 0.3, device=device), render_mode="RGB+ED")
        out = Splat2DGSRenderer().render(one, view_of(cameras(), device), options)
        out.retain_gradients()
        (out.renders.square().sum() + out.normals.square().sum()).backward()
        results.append(out)
    cpu, gpu = results
    for name in ("renders", "alphas", "normals", "depths_expected", "render_distort"):
        difference = (gpu[name].cpu() - cpu[name]).abs()
        assert float((difference > 1e-2).float().mean()) < 0.01, name  # gsplat 1.4 cuts discs off at 3 sigma
    assert cpu.densification_gradient is not None
    assert gpu.densification_gradient is not None
    torch.testing.assert_close(gpu.densification_gradient.cpu(), cpu.densification_gradient, rtol=0.1, atol=0.2)
