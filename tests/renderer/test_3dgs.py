"""`Splat3DGSRenderer` on the CPU: the payload, cameras, backgrounds, SH degrees."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.rasterize import GsplatRenderMode
from splatkit_ns.rasterize.versions import radii_have_axes
from splatkit_ns.renderer import RenderMode, RenderOptions, Splat3DGSRenderer
from splatkit_ns.renderer._3dgs import image_fields
from splatkit_ns.splat import SplatTrainingState

WIDTH, HEIGHT = 40, 30
Ks = torch.tensor([[[50.0, 0, 20], [0, 50, 15], [0, 0, 1]]])


def state(num: int = 12, sh_degree: int = 2, seed: int = 0) -> SplatTrainingState:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return SplatTrainingState.from_tensors(
        {
            "means": randn(num, 3) * 0.3,
            "scales": randn(num, 3) * 0.2 - 2.0,
            "quats": randn(num, 4),
            "opacities": randn(num) + 1,
            "sh0": randn(num, 1, 3),
            "shN": randn(num, (sh_degree + 1) ** 2 - 1, 3) * 0.3,
        }
    )


def cameras(count: int = 1) -> Tensor:
    """Camera-to-world matrices, looking along +z at the origin from 2 away, and from further right."""
    poses = torch.eye(4).repeat(count, 1, 1)
    poses[:, 2, 3] = -2.0
    poses[:, 0, 3] = torch.arange(count) * 0.2
    return poses


def view_of(poses: Tensor, device: str = "cpu") -> View:
    return View(poses.to(device), Ks.expand(len(poses), 3, 3).to(device), WIDTH, HEIGHT)


def render(
    gaussians: SplatTrainingState,
    count: int = 1,
    renderer: Splat3DGSRenderer | None = None,
    render_mode: RenderMode = "RGB",
    sh_degree: int | None = None,
    backgrounds: Tensor | None = None,
) -> SplatRenderPayload:
    options = RenderOptions(sh_degree=sh_degree, backgrounds=backgrounds, render_mode=render_mode)
    return (renderer or Splat3DGSRenderer()).render(gaussians, view_of(cameras(count)), options)


def test_the_payload_has_the_documented_shapes() -> None:
    gaussians = state(9)
    out = render(gaussians, count=2, render_mode="RGB+ED")
    assert out.renders.shape == (2, HEIGHT, WIDTH, 3)
    assert out.alphas.shape == (2, HEIGHT, WIDTH, 1)
    assert out.depths is not None
    assert out.depths.shape == (2, HEIGHT, WIDTH, 1)
    assert out.means2d.shape == (2, 9, 2)
    assert out.radii.shape == (2, 9)
    assert (out.n_cameras, out.width, out.height) == (2, WIDTH, HEIGHT)
    assert out.gaussian_ids is None
    assert out.info["means2d"] is out.means2d
    assert out.info["radii"].shape == ((2, 9, 2) if radii_have_axes() else (2, 9))


def test_radii_are_zero_for_what_is_behind_the_camera() -> None:
    gaussians = state(9)
    with torch.no_grad():
        gaussians.params["means"][4] = torch.tensor([0.0, 0.0, -5.0])
    radii = render(gaussians).radii
    assert int(radii[0, 4]) == 0
    assert int((radii[0] > 0).sum()) == 8


@pytest.mark.parametrize("axes", [False, True])
def test_radii_mean_the_same_in_both_shapes_of_gsplat(axes: bool) -> None:
    info = {
        "width": 4, "height": 3, "n_cameras": 1, "means2d": torch.zeros(1, 3, 2),
        "radii": torch.tensor([[[3, 5], [0, 7], [0, 0]]]) if axes else torch.tensor([[5, 0, 0]]),
    }  # fmt: skip
    fields = image_fields(torch.zeros(1, 3, 4, 3), torch.zeros(1, 3, 4, 1), info, "RGB")
    assert SplatRenderPayload(**fields, means2d=info["means2d"]).radii.tolist() == [[5, 0, 0]]


def test_gradients_of_projected_centres_are_there_after_backward() -> None:
    out = render(state(), renderer=Splat3DGSRenderer(absgrad=True))
    out.means2d.retain_grad()
    out.renders.square().sum().backward()
    assert out.means2d.grad is not None
    assert float(out.means2d.grad.abs().max()) > 0
    absgrad: Tensor = out.means2d.absgrad  # type: ignore[attr-defined]
    assert bool((absgrad >= out.means2d.grad.abs() - 1e-4).all())


def test_a_payload_reads_like_a_dict() -> None:
    out = render(state())
    assert out["renders"] is out.renders
    assert torch.equal(out["radii"], out.radii)
    assert "alphas" in out
    assert "normals" not in out
    assert 3 not in out
    assert {"renders", "alphas", "means2d", "depths_expected"} <= set(out.keys())
    assert dict(out.items())["width"] == WIDTH
    with pytest.raises(KeyError, match="SplatRenderPayload has no 'normals'; it has: renders, alphas, width"):
        out["normals"]


def test_depth_modes_fill_the_field_of_their_name() -> None:
    gaussians = state()
    plain, accumulated, expected = (render(gaussians, render_mode=mode) for mode in ("RGB", "RGB+D", "RGB+ED"))
    assert plain.depths is None
    assert accumulated.depths is accumulated.depths_accumulated
    assert accumulated.depths_expected is None
    assert expected.depths is expected.depths_expected
    assert expected.depths_accumulated is None
    seen = accumulated.alphas > 0.05
    ratio = accumulated.depths_accumulated / accumulated.alphas
    torch.testing.assert_close(ratio[seen], expected.depths_expected[seen], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain.renders, expected.renders)


def test_backgrounds_fill_what_alpha_leaves() -> None:
    gaussians = state()
    colour = torch.tensor([[0.2, 0.5, 0.9]])
    black, on_colour = render(gaussians), render(gaussians, backgrounds=colour)
    torch.testing.assert_close(on_colour.renders, black.renders + (1 - black.alphas) * colour, rtol=1e-5, atol=1e-5)


def test_a_degree_uses_its_coefficients_and_no_higher_ones() -> None:
    gaussians = state(sh_degree=2)
    images = [render(gaussians, sh_degree=degree).renders for degree in (0, 1, 2)]
    with torch.no_grad():
        gaussians.params["shN"][:, 3:] += 100.0
    assert torch.equal(render(gaussians, sh_degree=0).renders, images[0])
    assert torch.equal(render(gaussians, sh_degree=1).renders, images[1])
    assert not torch.allclose(render(gaussians, sh_degree=2).renders, images[2])
    assert not torch.allclose(images[0], images[1])


def test_no_degree_and_too_high_a_degree_mean_all_there_are() -> None:
    gaussians = state(sh_degree=1)
    assert torch.equal(render(gaussians).renders, render(gaussians, sh_degree=1).renders)
    assert torch.equal(render(gaussians).renders, render(gaussians, sh_degree=3).renders)


def test_world_to_cams_inverts() -> None:
    generator = torch.Generator().manual_seed(0)
    rotations, _ = torch.linalg.qr(torch.randn(6, 3, 3, generator=generator))
    rotations = rotations * torch.linalg.det(rotations)[:, None, None]
    poses = torch.eye(4).repeat(6, 1, 1)
    poses[:, :3, :3] = rotations
    poses[:, :3, 3] = torch.randn(6, 3, generator=generator) * 10
    torch.testing.assert_close(view_of(poses).world_to_cams @ poses, torch.eye(4).expand(6, 4, 4), rtol=1e-5, atol=1e-5)


def test_gradients_reach_the_pose() -> None:
    """Moving camera and Gaussians together changes nothing, so the gradients of their positions cancel."""
    gaussians = state(sh_degree=0)
    poses = cameras().requires_grad_()
    out = Splat3DGSRenderer().render(gaussians, view_of(poses))
    out.renders.square().sum().backward()
    assert poses.grad is not None
    of_camera, of_gaussians = poses.grad[0, :3, 3], gaussians.params["means"].grad.sum(0)
    assert float(of_camera.norm()) > 1e-2
    torch.testing.assert_close(of_camera, -of_gaussians, rtol=1e-3, atol=1e-2)


def test_planes_cut_and_antialiasing_thins() -> None:
    gaussians = state()
    assert float(render(gaussians, renderer=Splat3DGSRenderer(near_plane=50.0)).alphas.max()) == 0
    assert float(render(gaussians, renderer=Splat3DGSRenderer(far_plane=0.1)).alphas.max()) == 0
    classic, thin = (
        render(gaussians, renderer=Splat3DGSRenderer(rasterize_mode=mode)) for mode in ("classic", "antialiased")
    )
    assert float(thin.alphas.sum()) < float(classic.alphas.sum())


def test_one_gaussian_lands_where_a_pinhole_puts_it() -> None:
    """K [R|t] x by hand: a pixel's centre is half a pixel from its corner."""
    gaussians = state(1)
    with torch.no_grad():
        gaussians.params["means"][0] = torch.tensor([0.2, -0.1, 0.5])
    expected = (50 * 0.2 / 2.5 + 20, 50 * -0.1 / 2.5 + 15)
    assert render(gaussians).means2d[0, 0].tolist() == pytest.approx(expected, abs=1e-4)
    assert math.hypot(*expected) > 0


def test_renderers_offer_gsplats_modes_that_have_colours() -> None:
    assert get_args(RenderMode) == tuple(mode for mode in get_args(GsplatRenderMode) if mode.startswith("RGB"))
