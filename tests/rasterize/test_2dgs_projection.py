"""The projection of discs in Triton, run by Triton's interpreter, against the one in PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from splatkit_ns.rasterize import projection_2dgs
from splatkit_ns.rasterize.projection_2dgs import project_in_kernels, project_in_torch
from tests.rasterize.raster_scenes import as_values, random_scene
from tests.triton_interpreter import assert_prints

IN_THE_INTERPRETER = """
import torch
from tests.rasterize.raster_scenes import as_values, random_scene
from splatkit_ns.rasterize.projection_2dgs import project_in_kernels, project_in_torch
from splatkit_ns.rasterize.surfaces import densification_gradient

NAMES = ("means", "quats", "scales")

def towards(view, x, y, z):
    "The point in the world that this camera has at (x, y, z)."
    return (torch.tensor([x, y, z]) - view[:3, 3]) @ view[:3, :3]

def leaves(scene, dtype):
    return {name: scene[name].detach().to(dtype).requires_grad_() for name in NAMES}

def weighted(projected, weights):
    means2d, depths, *rest = projected
    values = torch.cat([torch.zeros(*depths.shape, 3), depths[..., None]], dim=-1)  # colours and depth
    images = means2d, values, *rest
    return sum((image * weight.to(image.dtype)).sum() for image, weight in zip(images, weights, strict=True))

for cameras, n in ((1, 300), (2, 129), (3, 17)):
    scene = random_scene(n=n, cameras=cameras, seed=cameras)
    scene["quats"] *= torch.exp(torch.randn(n, 1))  # of any length
    view = scene["viewmats"][0]
    scene["means"][0] = towards(view, 0.1, 0.2, -1.0)  # behind the camera
    scene["means"][1] = towards(view, 0.0, 0.1, 0.004)  # nearer than the near plane
    scene["means"][2] = towards(view, 0.0, 0.1, 150.0)  # beyond the far plane
    scene["means"][3] = towards(view, 40.0, 0.1, 4.0)  # off the screen to the right
    scene["means"][4] = towards(view, 0.1, -40.0, 4.0)  # above it
    scene["scales"][5:9] = torch.tensor([0.4, 0.3, 0.1])
    for i in (5, 6):  # edge-on: the normal is the camera's x or y axis
        scene["means"][i] = towards(view, 0.001, 0.001, 3.0)  # just off, so that it has a side
        axis = view[i - 5, :3]
        half = torch.nn.functional.normalize(axis + torch.tensor([0.0, 0.0, 1.0]), dim=0)
        scene["quats"][i] = torch.stack([torch.zeros(()), *half])  # half a turn, from z to the axis
    scene["means"][7] = towards(view, 0.1, 0.1, 0.3)  # through the camera's plane
    scene["scales"][7] = 5.0
    scene["quats"][8] = 0.0  # no rotation at all
    scene["means"][9] = towards(view, -0.1, 0.1, 2.0)
    scene["scales"][9] = 1e-4  # smaller than a pixel
    ours, theirs, exact = leaves(scene, torch.float32), leaves(scene, torch.float32), leaves(scene, torch.float64)
    *found, probe = project_in_kernels(*as_values({**scene, **ours})[:2])
    double = {name: scene[name].double() for name in ("viewmats", "Ks")}
    expected = [project_in_torch(*as_values({**scene, **theirs})[:2])]
    expected += [project_in_torch(*as_values({**scene, **double, **exact})[:2])]
    probes = []
    for i in (0, 1):
        means2d, depths, rays, normals = expected[i]
        rays, leaf = densification_gradient(rays)
        expected[i] = means2d, depths, rays, normals
        probes.append(leaf)

    # A depth is a sum of terms of some units, so rounding is large beside one that is near 0 (the second: 0.004).
    rounding = 2e-6 * (1 / expected[1][1].detach().abs()).clamp(min=1).flatten()

    def assert_near(mine, torchs, truth, what, rounding):
        "As near to the truth as PyTorch in the same precision is, or to rounding."
        for k in range(len(mine)):
            size = truth[k].abs().max().item() + 1e-30
            error, others = ((x[k] - truth[k]).abs().max().item() / size for x in (mine, torchs))
            assert error <= max(4 * others, rounding[k]), (what, k, error, others)

    for name, *values in zip(("means2d", "depths", "ray_transforms", "normals"), found, *expected, strict=True):
        assert all(torch.isfinite(value).all() for value in values)
        assert values[0].shape == values[1].shape
        assert_near(*(value.detach().flatten(0, 1) for value in values), name, rounding)
    torch.manual_seed(5)
    weights = [torch.randn(cameras, n, *shape) for shape in ((2,), (4,), (3, 3), (3,))]
    for projected in (found, *expected):
        weighted(projected, weights).backward()
    for name in NAMES:
        assert torch.isfinite(ours[name].grad).all(), name
        assert_near(ours[name].grad, theirs[name].grad, exact[name].grad, name, [2e-6] * n)
    gradients = [each.grad.flatten(0, 1) for each in (probe, *probes)]
    assert_near(*gradients, "probe", rounding)
print("alike")
"""


def test_the_projection_in_the_interpreter() -> None:
    assert_prints(IN_THE_INTERPRETER, "alike\n")


NAMES = ("means", "quats", "scales")


def on_gpu(n: int, cameras: int) -> dict[str, Any]:
    scene = random_scene(n=n, cameras=cameras, width=640, height=480, seed=8)
    on_device = {name: scene[name].cuda() for name in (*NAMES, "viewmats", "Ks")}
    return {**on_device, "width": 640, "height": 480}


@pytest.mark.gpu
@pytest.mark.parametrize(("n", "cameras"), [(100_000, 1), (3001, 3), (1, 1)])
def test_on_the_gpu_as_in_pytorch(n: int, cameras: int) -> None:
    assert projection_2dgs.projection_kernel() is not None, "Triton works where there are GPU tests"
    scene = on_gpu(n, cameras)
    gradients: list[list[torch.Tensor]] = []
    leaves = [scene[name].clone().requires_grad_() for name in NAMES]
    found = project_in_kernels(*as_values({**scene, **dict(zip(NAMES, leaves, strict=True))})[:2])
    twins = [scene[name].double().requires_grad_() for name in NAMES]
    matrices = {name: scene[name].double() for name in ("viewmats", "Ks")}
    doubles = {**scene, **matrices, **dict(zip(NAMES, twins, strict=True))}
    expected = project_in_torch(*as_values(doubles)[:2])
    # discs through the camera's plane have boxes and gradients of any size
    reach = expected[2][..., 2, :2].norm(dim=-1)
    calm = (expected[1] > 1.0) & (reach < 0.7 * expected[1])
    for images, inputs in ((found[:4], leaves), (expected, twins)):
        generator = torch.Generator("cuda").manual_seed(1)
        total = torch.zeros((), device="cuda", dtype=torch.float64)
        for image in images:
            weight = torch.randn(image.shape, generator=generator, device="cuda")
            total = total + (image[calm] * weight[calm]).sum()
        total.backward()
        gradients.append([leaf.grad for leaf in inputs if leaf.grad is not None])
    for name, image, reference in zip(found._fields[:4], found[:4], expected, strict=True):
        error = (image[calm] - reference[calm]).norm() / reference[calm].norm().clamp(min=1e-9)
        assert float(error) < 1e-5, name
    assert len(gradients[0]) == len(gradients[1]) == 3
    for name, ours, theirs in zip(NAMES, *gradients, strict=True):
        assert float((ours - theirs).norm() / theirs.norm().clamp(min=1e-9)) < 1e-4, name


@pytest.mark.gpu
def test_nothing_is_read_back_and_nothing_compiled_anew() -> None:
    from splatkit_ns.rasterize import _projection_2dgs_triton as kernels

    def variants() -> int:
        caches = [getattr(f, "device_caches", None) or f.cache for f in (kernels._forward, kernels._backward)]
        return sum(len(c[0] if isinstance(c, tuple) else c) for cache in caches for c in cache.values())

    compiled = None
    for n, cameras in ((77, 1), (1, 1), (16, 2), (1024, 16), (4096, 1)):
        scene = on_gpu(n, cameras)
        for name in NAMES:
            scene[name].requires_grad_()
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = project_in_kernels(*as_values(scene)[:2])
            (found.means2d.sum() + found.depths.sum()).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        compiled = compiled or variants()
    assert variants() == compiled
