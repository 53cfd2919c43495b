"""Normals of depth images: the definition, and the Triton kernels, run by Triton's interpreter, against PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from splatkit_ns.rasterize import surfaces
from splatkit_ns.rasterize.surfaces import normals_of_depth, to_world
from tests.rasterize.raster_scenes import random_scene
from tests.triton_interpreter import assert_prints


def views(cameras: int, height: int, width: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Rough depth images with a hole, intrinsics and view matrices."""
    scene = random_scene(n=1, cameras=cameras, width=width, height=height, dtype=dtype)
    generator = torch.Generator().manual_seed(height)
    depths = 2 + 0.1 * torch.rand(cameras, height, width, 1, generator=generator, dtype=dtype)
    depths[:, height // 2 :, : width // 2] = 0.0
    return depths, scene["Ks"], scene["viewmats"]


def test_normals_are_crosses_of_differences_of_points() -> None:
    depths, Ks, viewmats = views(2, 9, 11)
    y, x = torch.meshgrid(torch.arange(9.0) + 0.5, torch.arange(11.0) + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1).to(depths.dtype)
    points = (pixels[None] @ torch.linalg.inv(Ks)[:, None].transpose(2, 3)) * depths
    down = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    across = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    expected = torch.zeros(2, 9, 11, 3, dtype=depths.dtype)
    expected[:, 1:-1, 1:-1] = torch.nn.functional.normalize(torch.linalg.cross(down, across), dim=-1)
    assert float((expected == 0).all(-1)[:, 1:-1, 1:-1].float().mean()) > 0.1, "holes"
    torch.testing.assert_close(normals_of_depth(depths, Ks), expected)
    torch.testing.assert_close(
        normals_of_depth(depths, Ks, viewmats), torch.einsum("cij,chwi->chwj", viewmats[:, :3, :3], expected)
    )


@pytest.mark.parametrize("size", [(2, 5), (5, 2), (1, 1)])
def test_images_without_an_inside_have_no_normals(size: tuple[int, int]) -> None:
    depths, Ks, viewmats = views(1, *size)
    depths.requires_grad_()
    normals = normals_of_depth(depths, Ks, viewmats)
    normals.sum().backward()
    assert normals.shape == (1, *size, 3)
    assert float(normals.abs().max()) == float(depths.grad.abs().max()) == 0


IN_THE_INTERPRETER = """
import torch
from splatkit_ns.rasterize import _surfaces_triton, surfaces
from tests.rasterize.test_surfaces import views

def derived(dtype, kernels, world, size):
    depths, Ks, viewmats = (tensor.to(dtype) for tensor in views(2, *size, dtype=torch.float32))
    generator = torch.Generator().manual_seed(1)
    blended = torch.randn(2, *size, 3, generator=generator).to(dtype)
    weights = torch.randn(2, 2, *size, 3, generator=generator).to(dtype)
    channels = torch.cat([depths, depths], dim=-1).requires_grad_()  # one of several, as in a render
    blended.requires_grad_()
    surfaces._kernels_fit = lambda image, *matrices: kernels
    turned = surfaces.to_world(blended, viewmats)
    normals = surfaces.normals_of_depth(channels[..., 1:], Ks, viewmats if world else None)
    ((turned * weights[0]).sum() + (normals * weights[1]).sum()).backward()
    return turned, normals, blended.grad, channels.grad

surfaces.surface_kernels = lambda: _surfaces_triton
for size in ((20, 33), (3, 3), (2, 7)):
    for world in (True, False):
        found, alike, exact = (
            derived(dtype, kernels, world, size)
            for dtype, kernels in ((torch.float32, True), (torch.float32, False), (torch.float64, False))
        )
        for name, *values in zip(("turned", "normals", "v_blended", "v_depths"), found, alike, exact, strict=True):
            assert torch.isfinite(values[0]).all()
            assert values[0].shape == values[2].shape
            scale = values[2].abs().max() + 1e-30
            error, other = (float((value - values[2]).abs().max() / scale) for value in values[:2])
            assert error <= max(3 * other, 2e-6), (size, world, name, error, other)
print("alike")
"""


def test_the_kernels_in_the_interpreter() -> None:
    assert_prints(IN_THE_INTERPRETER, "alike\n")


@pytest.mark.gpu
@pytest.mark.parametrize("world", [True, False])
def test_the_kernels_on_the_gpu(world: bool) -> None:
    assert surfaces.surface_kernels() is not None, "Triton works where there are GPU tests"
    found: list[tuple[Any, ...]] = []
    for device in ("cpu", "cuda"):
        depths, Ks, viewmats = (tensor.to(device) for tensor in views(2, 75, 100, dtype=torch.float32))
        weights = torch.linspace(-1, 1, 2 * 75 * 100 * 3).view(2, 75, 100, 3).to(device)
        depths.requires_grad_()
        blended = weights.flip(0).requires_grad_()
        turned, normals = to_world(blended, viewmats), normals_of_depth(depths, Ks, viewmats if world else None)
        ((turned + normals) * weights).sum().backward()
        found.append((turned, normals, blended.grad, depths.grad))
    for cpu, cuda in zip(*found, strict=True):
        torch.testing.assert_close(cuda.cpu(), cpu, rtol=1e-4, atol=1e-5 * float(cpu.abs().max()))


@pytest.mark.gpu
def test_cameras_that_need_gradients_get_them_on_the_gpu() -> None:
    gradients: list[Tensor] = []
    for device in ("cpu", "cuda"):
        depths, Ks, viewmats = (tensor.to(device) for tensor in views(1, 75, 100, dtype=torch.float32))
        viewmats.requires_grad_()
        normals = normals_of_depth(depths, Ks, viewmats)
        (to_world(normals, viewmats) * torch.linspace(-1, 1, 3, device=device)).sum().backward()
        assert viewmats.grad is not None
        gradients.append(viewmats.grad.cpu())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-3 * float(gradients[0].abs().max()))
