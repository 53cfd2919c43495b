"""The projection of Gaussians in Triton: in Triton's interpreter, and on a GPU, where gsplat's is beside it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from splatkit_ns.rasterize import rasterization
from splatkit_ns.rasterize.projection import project_in_kernels
from tests.rasterize.projection_checks import add_extremes, check
from tests.rasterize.raster_scenes import as_values, random_scene
from tests.triton_interpreter import assert_prints

NAMES = ("means", "quats", "scales", "opacities", "viewmats")
CASES: list[tuple[Any, ...]] = [
    (1, 300, "antialiased", 0.3),
    (2, 129, "classic", 0.3),
    (3, 17, "antialiased", 0.1),
    (2, 120, "antialiased", 0.3, "opencv", [-0.12, 0.05, 0.003, -0.002]),
    (1, 120, "classic", 0.3, "opencv", [0.3, 0.1, 0.001, 0.002, 0.02, 0.4, 0.15, 0.03, 0.002]),
    (2, 200, "antialiased", 0.3, "opencv_fisheye", [0.03, -0.01, 0.002, -0.0005]),
]


def test_in_the_interpreter() -> None:
    code = "from tests.rasterize.projection_checks import check\n"
    code += "\n".join(f"check('cpu', *{case!r})" for case in CASES)
    assert_prints(f"{code}\nprint('alike')", "alike\n")


@pytest.mark.gpu
@pytest.mark.parametrize("case", [*CASES, (1, 2000, "antialiased", 0.3)])
def test_on_the_gpu(case: Any) -> None:
    check("cuda", *case)


def on_gpu(n: int, cameras: int = 1, width: int = 640, height: int = 480, **options: Any) -> dict[str, Any]:
    scene = random_scene(n=n, cameras=cameras, width=width, height=height, seed=8, **options)
    if n > 20:
        add_extremes(scene)
    return {name: value.cuda() if isinstance(value, Tensor) else value for name, value in scene.items()}


def rendered(scene: dict[str, Any], **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """An image, and the gradients of a random function of it."""
    leaves = {name: scene[name].clone().requires_grad_() for name in (*NAMES, "colors")}
    images, alphas, info = rasterization(**{**scene, **leaves}, **options)
    info["means2d"].retain_grad()
    torch.manual_seed(3)
    values = torch.cat([images, alphas], dim=-1)
    (values * torch.randn(values.shape).to(values)).sum().backward()
    gradients = {name: leaf.grad for name, leaf in leaves.items()} | {"means2d": info["means2d"].grad}
    return images.detach(), {name: gradient for name, gradient in gradients.items() if gradient is not None}


@pytest.mark.gpu
@pytest.mark.usefixtures("compiled_gsplat")
@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
@pytest.mark.parametrize("render_mode", ["RGB", "RGB+ED"])
def test_images_and_gradients_are_those_of_gsplats_projection(rasterize_mode: str, render_mode: str) -> None:
    scene = random_scene(n=20_000, cameras=2, width=640, height=480, sh_bands=16, seed=8, size=0.02)
    scene = {name: value.cuda() if isinstance(value, Tensor) else value for name, value in scene.items()}
    options = {"sh_degree": 3, "rasterize_mode": rasterize_mode, "render_mode": render_mode}
    image, gradients = rendered(scene, **options)
    expected, truth = rendered(scene, backend="gsplat", **options)
    assert float((image - expected).abs().mean()) < 2e-3
    assert gradients.keys() == truth.keys()
    for name, gradient in gradients.items():
        assert float((gradient - truth[name]).norm() / truth[name].norm()) < 1e-2, name


@pytest.mark.gpu
def test_the_same_bits_in_every_run() -> None:
    scene = on_gpu(100_000, cameras=2, size=0.02, sh_bands=16)
    runs = [rendered(scene, sh_degree=3, rasterize_mode="antialiased") for _ in range(3)]
    for image, gradients in runs[1:]:
        assert torch.equal(image, runs[0][0])
        for name, gradient in gradients.items():
            assert torch.equal(gradient, runs[0][1][name]), name


@pytest.mark.gpu
def test_in_a_graph() -> None:
    scene = on_gpu(5_000)
    leaves = [scene[name].requires_grad_() for name in (*NAMES, "Ks")]

    def step() -> list[Tensor]:
        found = project_in_kernels(*as_values(scene, rasterize_mode="antialiased"))
        return list(torch.autograd.grad(found.means2d.sum() + found.conics.sum() + found.opacities.sum(), leaves))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        scene["means"] += 0.01
    graph.replay()
    for found, expected in zip(captured, step(), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.gpu
def test_nothing_is_read_back_and_nothing_compiled_anew() -> None:
    from splatkit_ns.rasterize import _projection_triton as kernels

    def variants() -> int:
        caches = [getattr(f, "device_caches", None) or f.cache for f in (kernels._forward, kernels._backward)]
        return sum(len(c[0] if isinstance(c, tuple) else c) for cache in caches for c in cache.values())

    compiled = None
    for n, cameras in ((77, 1), (1, 1), (16, 2), (1024, 16), (4096, 1)):
        scene = on_gpu(n, cameras, width=640 + n)
        for name in NAMES:
            scene[name].requires_grad_()
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = project_in_kernels(*as_values(scene))
            (found.means2d.sum() + found.depths.sum()).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        compiled = compiled or variants()
    assert variants() == compiled


@pytest.mark.gpu
def test_extreme_gaussians_draw_finite_images_and_gradients() -> None:
    scene = on_gpu(400, cameras=2)
    scene["scales"][20] = 1e30
    scene["scales"][21] = torch.tensor([1e8, 1e-8, 1e-8])
    for options in ({}, {"near_plane": 0.0}, {"eps2d": 0.0}, {"rasterize_mode": "antialiased", "eps2d": 0.0}):
        image, gradients = rendered(scene, **options)
        for value in (image, *gradients.values()):
            assert bool(torch.isfinite(value).all()), options
