"""What surrounds the 2DGS kernels on CUDA, as far as it can be told without a GPU: gsplat's part is a stand-in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gsplat
import pytest
import torch
from raster_scenes import as_values, random_scene
from torch import Tensor

from splatkit_ns.rasterize import (
    BackendUnavailableError,
    cuda_rasterization,
    cuda_rasterization_2dgs,
    projection_2dgs,
    rasterization_2dgs,
    versions,
)
from splatkit_ns.rasterize.arguments import Gaussians, RasterCameras
from splatkit_ns.rasterize.cuda_rasterization_2dgs import rasterize_2dgs_on_cuda
from splatkit_ns.rasterize.gsplat_rasterization_2dgs import CHANNELS
from splatkit_ns.rasterize.projection_2dgs import Projected, project_in_torch

NAMES = ("means", "quats", "scales", "viewmats")
VERSIONS = [(1, 4, 0), (1, 5, 3)]


def test_projection_in_torch_is_that_of_the_kernels() -> None:
    scene = random_scene(n=300, cameras=2, seed=30, dtype=torch.float64)
    leaves = {name: scene[name].clone().requires_grad_() for name in NAMES}
    twins = {name: scene[name].clone().requires_grad_() for name in NAMES}
    info = rasterization_2dgs(**{**scene, **leaves}).info
    radii = info["radii"]
    seen = (radii > 0).all(-1) if radii.dim() == 3 else radii > 0
    assert int(seen.sum()) > 200
    found = project_in_torch(*as_values({**scene, **twins})[:2])
    rng = torch.Generator().manual_seed(0)
    losses = [torch.zeros(()), torch.zeros(())]
    for name, theirs in zip(("means2d", "depths", "ray_transforms", "normals"), found, strict=True):
        assert bool(torch.isfinite(theirs).all())
        torch.testing.assert_close(theirs[seen], info[name][seen], rtol=1e-9, atol=1e-9)
        weight = torch.randn(theirs[seen].shape, generator=rng, dtype=torch.float64)
        losses = [losses[0] + (info[name][seen] * weight).sum(), losses[1] + (theirs[seen] * weight).sum()]
    losses[0].backward()
    losses[1].backward()
    for name in NAMES:
        assert float((leaves[name].grad - twins[name].grad).norm() / leaves[name].grad.norm()) < 1e-9, name


class StandIn:
    """gsplat's functions with its own checks of shapes; an image of sums over the Gaussians."""

    def __init__(self, version: tuple[int, int, int]) -> None:
        self.axes = version >= (1, 5, 0)
        self.calls: list[SimpleNamespace] = []

    def fully_fused_projection_2dgs(self, means, quats, scales, viewmats, Ks, width, height, *limits: float):
        assert limits == (0.3, 0.02, 90.0, 1.0)
        cameras, n = len(viewmats), len(means)
        radii = torch.full((cameras, n, 2) if self.axes else (cameras, n), 4, dtype=torch.int32)
        gaussians = Gaussians(means, quats, scales, means[:, 0], means)
        return radii, *project_in_torch(gaussians, RasterCameras(viewmats, Ks, width, height))

    def isect_tiles(self, means2d: Tensor, radii: Tensor, depths: Tensor, *sizes: int):
        assert means2d.shape == (1, *depths.shape[1:], 2)
        assert radii.shape == (means2d.shape if self.axes else depths.shape)
        return sizes, "keys", "ids"

    def isect_offset_encode(self, keys: str, cameras: int, width: int, height: int):
        return keys, cameras, width, height

    def spherical_harmonics(self, degree: int, directions: Tensor, coefficients: Tensor, masks: Tensor) -> Tensor:
        assert masks.shape == directions.shape[:-1]
        return coefficients[..., 0, :] * 0.28

    def rasterize_to_pixels_2dgs(self, means2d, rays, colors, opacities, normals, densify, *rest: Any, **options: Any):
        n, channels = means2d.shape[1], colors.shape[-1]
        assert means2d.shape == (1, n, 2) == densify.shape
        assert rays.shape == (1, n, 3, 3)
        assert normals.shape == (1, n, 3)
        assert opacities.shape == (1, n)
        assert channels in CHANNELS
        assert bool(torch.isfinite(colors).all())
        width, height, *lists = rest
        assert lists == [16, ("keys", 1, 3, 2), "ids"]
        background = options["backgrounds"]
        if background is not None:
            assert background.shape == (1, channels)
        self.calls.append(SimpleNamespace(colors=colors, **options))
        image = (colors.sum(1) + rays.sum() * 0)[:, None, None].expand(1, height, width, channels)
        one = image[..., :1] * 0 + 0.5
        return image, one, normals.sum(1)[:, None, None].expand(1, height, width, 3), one, image[..., -1:]


@pytest.fixture(params=VERSIONS, ids=["1.4.0", "1.5.3"])
def stand_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn(request.param)
    for module in (cuda_rasterization, cuda_rasterization_2dgs):
        monkeypatch.setattr(module, "require_gsplat", lambda reason: None)
    for module in (projection_2dgs, versions):
        monkeypatch.setattr(module, "gsplat_version", lambda: request.param)
    monkeypatch.setattr(projection_2dgs, "projection_kernel", lambda: None)
    for name in (
        "fully_fused_projection_2dgs", "isect_tiles", "isect_offset_encode", "spherical_harmonics",
        "rasterize_to_pixels_2dgs",
    ):  # fmt: skip
        monkeypatch.setattr(gsplat, name, getattr(made, name))
    return made


def render(scene: dict[str, Any], **options: Any) -> tuple[Any, ...]:
    settings = {
        "near_plane": 0.02, "far_plane": 90.0, "radius_clip": 1.0, "sh_degree": None, "tile_size": 16,
        "backgrounds": None, "render_mode": "RGB+D", "absgrad": False, "backend": "gsplat",
    }  # fmt: skip
    return rasterize_2dgs_on_cuda(*as_values(scene, **{**settings, **options}))


@pytest.mark.parametrize("mode", ["RGB", "D", "ED", "RGB+D", "RGB+ED"])
@pytest.mark.parametrize("channels", [1, 2, 4, 5, 8])
def test_gsplat_is_given_channels_that_it_has(stand_in: StandIn, mode: str, channels: int) -> None:
    scene = random_scene(n=7, cameras=2, channels=channels)
    backgrounds = torch.rand(2, channels) if mode.startswith("RGB") else None
    renders, alphas, normals, distortion, median, info = render(scene, render_mode=mode, backgrounds=backgrounds)
    colour = scene["colors"].sum(0).expand(2, -1)
    depth = info["depths"].sum(1, keepdim=True)
    expected = {"RGB": colour, "D": depth, "ED": depth}.get(mode, torch.cat([colour, depth], -1))
    torch.testing.assert_close(renders[:, 0, 0], expected)
    assert alphas.shape == distortion.shape == median.shape == (2, scene["height"], scene["width"], 1)
    assert normals.shape == (2, scene["height"], scene["width"], 3)
    if mode != "RGB":
        torch.testing.assert_close(median[:, 0, 0], depth, msg="the last channel is the depth")
    for camera, call in enumerate(stand_in.calls):
        if backgrounds is not None:
            assert torch.equal(call.backgrounds[call.backgrounds != 0], backgrounds[camera])


def test_spherical_harmonics_and_absgrad(stand_in: StandIn) -> None:
    scene = random_scene(n=7, sh_bands=4)
    *_, info = render(scene, sh_degree=1, absgrad=True)
    assert stand_in.calls[0].absgrad
    colours = (0.28 * scene["colors"][:, 0] + 0.5).clamp(min=0.0)
    torch.testing.assert_close(stand_in.calls[0].colors[0, :, :3], colours)
    assert info["gradient_2dgs"].requires_grad
    with pytest.raises(ValueError, match="absgrad: expected one camera with gsplat's 2D Gaussians, found 2"):
        render(random_scene(n=7, cameras=2), absgrad=True)


def test_no_discs(stand_in: StandIn) -> None:
    scene = random_scene(n=0, cameras=2)
    scene["means"].requires_grad_()
    backgrounds = torch.rand(2, 3)
    renders, alphas, normals, distortion, median, info = render(scene, backgrounds=backgrounds)
    assert torch.equal(renders[:, 3, 4, :3], backgrounds)
    for image in (alphas, normals, distortion, median, renders[..., 3:]):
        assert float(image.abs().max()) == 0.0
    assert info["means2d"].shape == info["gradient_2dgs"].shape == (2, 0, 2)
    assert stand_in.calls == []
    info["means2d"].retain_grad()
    renders.sum().backward()
    for gradient in (scene["means"].grad, info["means2d"].grad, info["gradient_2dgs"].grad):
        assert gradient is not None


@pytest.mark.parametrize("stand_in", VERSIONS[:1], indirect=True)
def test_the_kernel_projects_unless_the_cameras_need_gradients(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def kernel(gaussians: Gaussians, cameras: RasterCameras) -> Projected:
        calls.append(cameras.size)
        probe = torch.zeros(len(cameras), len(gaussians), 2, requires_grad=True)
        return Projected(*project_in_torch(gaussians, cameras), probe)

    scene = random_scene(n=7, cameras=2)
    expected = render(scene)
    monkeypatch.setattr(projection_2dgs, "projection_kernel", lambda: kernel)
    found = render(scene)
    assert calls == [(scene["width"], scene["height"])]
    torch.testing.assert_close(found[0], expected[0])
    scene["viewmats"].requires_grad_()
    render(scene)[-1]["means2d"].sum().backward()
    assert len(calls) == 1
    assert float(scene["viewmats"].grad.norm()) > 0


def test_what_needs_gsplat_says_why_and_that_it_is_missing() -> None:
    """On a machine without a GPU gsplat's code cannot be used, and Triton does not work."""
    with pytest.raises(BackendUnavailableError, match=r"^The backend gsplat was chosen; with splatkit nothing"):
        render(random_scene(n=7))
    with pytest.raises(BackendUnavailableError, match=r"^Triton's kernels cannot be used here \(.*gsplat's CUDA code"):
        render(random_scene(n=7), backend="splatkit")
