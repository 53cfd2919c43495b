"""The CUDA path of `rasterization` around gsplat and the kernels, as far as it can be told without a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from raster_scenes import as_values, random_scene

from splatkit_ns.rasterize import cuda_rasterization, radii_in_pixels, rasterization
from splatkit_ns.rasterize.cuda_rasterization import rasterize_on_cuda
from tests.triton_interpreter import assert_prints

SETTINGS = {
    "near_plane": 0.01, "far_plane": 1e10, "radius_clip": 0.0, "eps2d": 0.3, "packed": False, "tile_size": 16,
    "absgrad": True, "rasterize_mode": "classic",
}  # fmt: skip
LEAVES = ("means", "quats", "scales", "opacities", "colors")


def leaves_of(scene: dict[str, Any]) -> dict[str, Any]:
    return {name: value.clone().requires_grad_() if name in LEAVES else value for name, value in scene.items()}


@pytest.mark.parametrize("render_mode", ["RGB", "D", "ED", "RGB+D", "RGB+ED"])
@pytest.mark.parametrize("sh_degree", [None, 1])
@pytest.mark.parametrize("axes", [False, True], ids=["1.4.0", "1.5.3"])
def test_without_gaussians_gsplat_is_not_called(
    render_mode: str, sh_degree: int | None, axes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither version of it has code for the CPU, so that a call would fail; 1.5.3 on a GPU ends the process."""
    monkeypatch.setattr(cuda_rasterization, "check_cuda_backend", lambda: None)
    monkeypatch.setattr(cuda_rasterization, "radii_have_axes", lambda: axes)
    scene = random_scene(n=0, cameras=2, width=21, height=13, sh_bands=None if sh_degree is None else 16)
    options: dict[str, Any] = {"render_mode": render_mode, "sh_degree": sh_degree}
    for backgrounds in (None, torch.rand(2, 3)):
        if backgrounds is None or render_mode.startswith("RGB"):
            options["backgrounds"] = backgrounds
        leaves = leaves_of(scene)
        images, alphas, info = rasterize_on_cuda(*as_values(leaves, **SETTINGS, **options))
        expected, _, cpu_info = rasterization(**scene, **options)
        assert torch.equal(images, expected)
        assert alphas.shape == (2, 13, 21, 1)
        assert float(alphas.abs().max()) == 0.0
        assert info["means2d"].shape == cpu_info["means2d"].shape == (2, 0, 2)
        assert info["radii"].shape == ((2, 0, 2) if axes else (2, 0))
        assert radii_in_pixels(info).shape == (2, 0)
        info["means2d"].retain_grad()
        (images.sum() + alphas.sum()).backward()
        trained = LEAVES if render_mode.startswith("RGB") else LEAVES[:-1]
        assert all(leaves[name].grad.shape == leaves[name].shape for name in trained)
        assert info["means2d"].grad.shape == info["means2d"].absgrad.shape == (2, 0, 2)


def test_without_gaussians_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_rasterization, "check_cuda_backend", lambda: None)
    scene, backgrounds = random_scene(n=0, cameras=2), torch.rand(2, 3)
    settings = {**SETTINGS, "packed": True, "sh_degree": None, "render_mode": "RGB+ED"}
    images, _, info = rasterize_on_cuda(*as_values(scene, **settings, backgrounds=backgrounds))
    assert torch.equal(images[:, 4, 5], torch.nn.functional.pad(backgrounds, (0, 1)))
    assert info["means2d"].shape == (0, 2)
    assert len(info["gaussian_ids"]) == len(info["camera_ids"]) == len(radii_in_pixels(info)) == 0


def test_centres_of_cameras_that_are_trained_are_inverted_without_looking_at_the_error_flag(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a GPU that look waits for it at every step. Values and gradients are those of `torch.linalg.inv`."""
    import gsplat

    scene = random_scene(n=7, cameras=2, sh_bands=4)
    viewmats = scene["viewmats"].clone().requires_grad_()
    expected = scene["means"][None] - torch.linalg.inv(viewmats)[:, None, :3, 3]
    (expected_grad,) = torch.autograd.grad(expected.clamp(min=-0.5).square().sum(), viewmats)
    monkeypatch.setattr(gsplat, "spherical_harmonics", lambda degree, directions, coefficients, masks: directions)
    monkeypatch.setattr(torch.linalg, "inv", None)
    colors = cuda_rasterization.sh_colors(1, scene["means"], scene["colors"], viewmats, torch.ones(2, 7).bool())
    assert torch.equal(colors, (expected + 0.5).clamp(min=0.0))
    (grad,) = torch.autograd.grad((colors - 0.5).square().sum(), viewmats)
    torch.testing.assert_close(grad, expected_grad)


LENS_CODE = """
import sys
sys.path.insert(0, "tests/rasterize")
import torch
from raster_scenes import as_values
from test_lens_projection import lens_scene
from splatkit_ns.rasterize import _compositing_triton as compositing, _tile_lists_triton as lists
from splatkit_ns.rasterize import cuda_rasterization, rasterization

cuda_rasterization.own_tile_size = lambda pixels: 16
kernels = cuda_rasterization.OwnKernels(lists.tile_lists, compositing.composite, compositing.MAX_CHANNELS)
for name in ("opencv", "fisheye"):
    scene = lens_scene(name, n=25, width=30, height=20)
    scene = {key: value.float() if torch.is_tensor(value) else value for key, value in scene.items()}
    options = {"render_mode": "RGB+ED", "rasterize_mode": "antialiased"}
    grads, images = [], []
    for draw in ("kernels", "cpu"):
        leaves = {key: scene[key].clone().requires_grad_() for key in ("means", "quats", "scales", "viewmats")}
        if draw == "cpu":
            image, alpha, _ = rasterization(**{**scene, **leaves, **options})
        else:
            image, alpha, info = cuda_rasterization._rasterize_with_own_kernels(
                kernels, *as_values({**scene, **leaves}, **options)
            )
            assert info["radii"].shape[:2] == (2, 25)
        (image.square().sum() + alpha.sum()).backward()
        images.append(image.detach())
        grads.append([leaf.grad for leaf in leaves.values()])
    assert float((images[0] - images[1]).abs().mean()) < 1e-4, name
    for found, expected in zip(*grads):
        assert float((found - expected).norm() / expected.norm()) < 1e-3, name
print("ok")
"""


def test_lenses_in_float32_with_triton_s_interpreter() -> None:
    """Lenses are projected in PyTorch, and then go through the kernels of the GPU."""
    assert_prints(LENS_CODE, "ok\n")
