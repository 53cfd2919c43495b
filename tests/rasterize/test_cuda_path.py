"""The CUDA path of `rasterization` around gsplat and the kernels, as far as it can be told without a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from raster_scenes import as_values, random_scene

from splatkit_ns.rasterize import BackendUnavailableError, cuda_rasterization, radii_in_pixels, rasterization
from splatkit_ns.rasterize.arguments import Gaussians
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


def test_without_gaussians_packed() -> None:
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
    monkeypatch.setattr(cuda_rasterization, "require_gsplat", lambda reason: None)
    monkeypatch.setattr(gsplat, "spherical_harmonics", lambda degree, directions, coefficients, masks: directions)
    monkeypatch.setattr(torch.linalg, "inv", None)
    colors = {"colors": scene["colors"][:, :1], "sh_rest": scene["colors"][:, 1:]}
    gaussians = Gaussians(scene["means"], scene["quats"], scene["scales"], scene["opacities"], **colors)
    colors = cuda_rasterization.sh_colors(1, gaussians, viewmats, torch.ones(2, 7).bool())
    assert torch.equal(colors, (expected + 0.5).clamp(min=0.0))
    (grad,) = torch.autograd.grad((colors - 0.5).square().sum(), viewmats)
    torch.testing.assert_close(grad, expected_grad)


def test_what_needs_gsplat_says_why_and_that_it_is_missing() -> None:
    """On a machine without a GPU gsplat's code cannot be used, and Triton does not work."""
    with pytest.raises(BackendUnavailableError) as packed:
        rasterize_on_cuda(*as_values(random_scene(n=7), packed=True))
    assert str(packed.value).startswith("packed is gsplat's; with packed False nothing of gsplat is needed. gsplat's")
    with pytest.raises(BackendUnavailableError) as chosen:
        rasterize_on_cuda(*as_values(random_scene(n=7), backend="gsplat"))
    assert str(chosen.value).startswith("The backend gsplat was chosen; with splatkit nothing of gsplat is needed. ")
    with pytest.raises(BackendUnavailableError) as neither:
        rasterize_on_cuda(*as_values(random_scene(n=7)))
    assert str(neither.value).startswith("Triton's kernels cannot be used here (")
    assert ", so that gsplat would have to render. gsplat's CUDA code cannot be used here." in str(neither.value)


def test_kernels_are_for_one_type() -> None:
    with pytest.raises(ValueError, match=r"means: expected torch.float32 on CUDA, found torch.float64"):
        rasterize_on_cuda(*as_values(random_scene(n=7, dtype=torch.float64)))


def test_gsplat_is_refused_on_the_cpu() -> None:
    with pytest.raises(ValueError, match="backend: expected 'splatkit' on the CPU, found 'gsplat'"):
        rasterization(**random_scene(n=7), backend="gsplat")
    with pytest.raises(ValueError, match="backend: expected one of splatkit, gsplat, found 'cuda'"):
        rasterization(**random_scene(n=7), backend="cuda")  # type: ignore[arg-type]


LENS_CODE = """
import sys
sys.path.insert(0, "tests/rasterize")
import torch
from raster_scenes import as_values
from test_lens_projection import lens_scene
from splatkit_ns.rasterize import _compositing_triton as compositing, _tile_lists_triton as lists
from splatkit_ns.rasterize import cuda_rasterization, rasterization
from splatkit_ns.rasterize.projection import project_in_kernels, project_through_lens

cuda_rasterization.own_tile_size = lambda pixels: 16
kernels = cuda_rasterization.OwnKernels(lists.tile_lists, compositing.composite, project_in_kernels)
for name, project in (("opencv", project_in_kernels), ("fisheye", project_in_kernels), ("fisheye", None)):
    if project is not None:
        cuda_rasterization.project_through_lens = project
    else:  # in PyTorch, because the kernels cannot be loaded here
        cuda_rasterization.project_through_lens = project_through_lens
    scene = lens_scene(name, n=25, width=30, height=20)
    scene = {key: value.float() if torch.is_tensor(value) else value for key, value in scene.items()}
    options = {"render_mode": "RGB+ED", "rasterize_mode": "antialiased"}
    grads, images = [], []
    for draw in ("kernels", "cpu"):
        leaves = {key: scene[key].clone().requires_grad_() for key in ("means", "quats", "scales", "viewmats")}
        if draw == "cpu":
            image, alpha, _ = rasterization(**{**scene, **leaves, **options})
        else:
            image, alpha, info = cuda_rasterization.rasterize_with_own_kernels(
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
    """Lenses are projected by kernels, or in PyTorch, and then go through the other kernels of the GPU."""
    assert_prints(LENS_CODE, "ok\n")
