"""Compositing of discs in Triton, run by Triton's interpreter, against the CPU's kernels in float64."""

from __future__ import annotations

from tests.triton_interpreter import assert_prints

IN_THE_INTERPRETER = """
import functools
import torch
from splatkit_ns.rasterize import _compositing_2dgs_triton as compositing, _discs_triton as discs
from splatkit_ns.rasterize import _tile_lists_triton as lists
from splatkit_ns.rasterize.cpu.rasterization_2dgs import rasterize_2dgs_on_cpu
from splatkit_ns.rasterize.cuda_rasterization_2dgs import OwnKernels2DGS, _rasterize_with_own_kernels
from splatkit_ns.rasterize.tile_list_space import LONGEST, ListSpace
from tests.rasterize.raster_scenes import as_values, random_scene

NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats", "backgrounds")
kernels = OwnKernels2DGS(discs.describe, lists.tile_lists, compositing.composite_discs, compositing.TILE, 4)
ours = functools.partial(_rasterize_with_own_kernels, kernels)

def render_both(mode, cameras, channels, absgrad):
    "Images, radii and gradients of a random function of the images: our kernels' and the CPU's."
    scene = random_scene(n=20, cameras=cameras, channels=channels, width=14, height=7, seed=4, size=0.2)
    scene["opacities"][:5] = torch.tensor([0.0, 1.0, 1 / 300, 0.99, 1.0])
    scene["scales"][5] = torch.tensor([2.0, 0.01, 0.1])
    scene["quats"][6] = 0.0
    scene["means"][7] = -scene["viewmats"][0, :3, :3].T @ scene["viewmats"][0, :3, 3]  # at the camera
    scene["backgrounds"] = torch.rand(cameras, channels)
    for render, dtype in ((ours, torch.float32), (rasterize_2dgs_on_cpu, torch.float64)):
        leaves = {name: scene[name].detach().to(dtype, copy=True).requires_grad_() for name in NAMES}
        options = {"near_plane": 0.01, "far_plane": 100.0, "render_mode": mode, "absgrad": absgrad}
        options["backgrounds"] = leaves["backgrounds"] if mode.startswith("RGB") else None
        space = ListSpace(work=torch.zeros(1, dtype=torch.int64))
        values = as_values({**scene, "Ks": scene["Ks"].to(dtype), **leaves}, **options, list_space=space)
        *images, info = render(*values)
        groups = 2 if channels > 4 else 1
        assert render is not ours or LONGEST < int(space.work) <= groups * (1 + LONGEST) * space.longest
        info["means2d"].retain_grad()
        if render is ours:
            images[0].mul_(1)  # in place, as a part may
        torch.manual_seed(2)
        weights = [torch.randn(image.shape, dtype=torch.float64).to(dtype) for image in images]
        if mode == "RGB":
            images, weights = images[:3], weights[:3]
        sum((image * weight).sum() for image, weight in zip(images, weights, strict=True)).backward()
        gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
        gradients["means2d"], gradients["gradient_2dgs"] = info["means2d"].grad, info["gradient_2dgs"].grad
        if absgrad:
            gradients["absgrad"] = info["means2d"].absgrad
        yield images, info["radii"], gradients

cases = [("RGB+D", 2, 3, True), ("RGB", 1, 3, False), ("D", 1, 3, False), ("RGB+D", 1, 5, False)]
for case in cases:
    (images, radii, gradients), (expected, true_radii, truth) = render_both(*case)
    assert torch.equal(radii > 0, true_radii > 0) and (radii - true_radii).abs().max() <= 1 and (radii > 0).sum() > 9
    for name, image, reference in zip(("image", "alpha", "normal", "distortion", "median"), images, expected):
        assert image.shape == reference.shape, name
        error = (image - reference).abs()
        assert error.max() < 2e-5 * reference.abs().max(), (case, name, error.max(), reference.abs().max())
    for name, gradient in gradients.items():
        assert torch.isfinite(gradient).all(), name
        error = float((gradient - truth[name]).norm() / truth[name].norm())
        assert error < 1e-4, (case, name, error)
print("alike")
"""


def test_in_the_interpreter() -> None:
    """With depth, absolute gradients and two cameras; colours alone; depth alone; and more channels than at once."""
    assert_prints(IN_THE_INTERPRETER, "alike\n")
