"""Training compiles no kernel that its first launch has not compiled, whatever the sizes; and what Triton compiles."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TypeGuard

import pytest

import splatkit_ns
from tests.triton_compilations import assert_prints

SSIM = """
from splatkit_ns.image_metrics._ssim_triton import first_launches, mean_ssim, weighted_ssim_sum
from splatkit_ns.image_metrics.ssim_window import C1, C2, gaussian_window

window = gaussian_window(torch.float32, torch.device("cpu"))
for launch in first_launches(window, C1, C2):
    launch()
compiled = set(variants)
assert len(compiled) == 4, compiled
for batch, height, width in ((1, 11, 11), (1, 480, 640), (1, 546, 979), (2, 26, 26), (1, 900, 1600)):
    image = torch.rand(batch, height, width, 3, requires_grad=True)
    target = torch.rand(batch, height, width, 3).permute(0, 3, 1, 2)
    (0.2 * (1 - mean_ssim(image.permute(0, 3, 1, 2), target, window, C1, C2))).backward()
assert variants == compiled, variants - compiled
for height, width in ((11, 11), (480, 640), (26, 26), (900, 1600)):
    for batch in (1, 2):
        image, target = torch.rand(batch, height, width, 3, requires_grad=True), torch.rand(batch, 3, height, width)
        weights = torch.rand(batch, height - 10, width - 10)
        weighted_ssim_sum(image.permute(0, 3, 1, 2), target, window, C1, C2, weights).backward()
assert len(variants - compiled) == 1, variants - compiled
print("once")
"""

TILE_LISTS = """
from splatkit_ns.rasterize import _tile_lists_triton as lists

for launch in lists.first_launches("cpu", 16):
    launch()
compiled = set(variants)
assert len(compiled) == 3, compiled
cumsum = torch.Tensor.cumsum
torch.Tensor.cumsum = lambda counts, dim: torch.arange(1, len(counts) + 1)  # counts that no kernel has written
for number, tiles_x, tiles_y in ((1, 1, 1), (16, 4, 16), (99, 61, 35), (1000, 16, 1), (4096, 100, 57)):
    means, conics, one = torch.zeros(1, number, 2), torch.ones(1, number, 3), torch.ones(1, number)
    lists.tile_lists(means, conics, one, one > 0, one, tiles_x, tiles_y, 16)
assert variants == compiled, variants - compiled
print("once")
"""

COMPOSITING = """
from splatkit_ns.rasterize import _compositing_triton as compositing, _sh_triton as sh
from splatkit_ns.rasterize._tile_lists_triton import TileLists

for launch in [*compositing.first_launches("cpu", 16), *sh.first_launches("cpu", 16)]:
    launch()
compiled = set(variants)
assert len(compiled) == 10, compiled
for number, entries, width, height in ((1, 1, 16, 16), (16, 99, 979, 546), (99, 4096, 900, 1600)):
    centres, coefficients = torch.ones(1, 3), [torch.ones(number, k, 3, requires_grad=True) for k in (1, 15)]
    means, seen = torch.ones(number, 3, requires_grad=True), torch.ones(1, number) > 0
    means2d, conics, opacities = torch.ones(1, number, 2), torch.ones(1, number, 3), torch.ones(1, number)
    means2d.requires_grad_()
    tiles_x, tiles_y = -(-width // 16), -(-height // 16)
    bounds, ids = torch.zeros(tiles_x * tiles_y + 1, dtype=torch.int32), torch.zeros(entries, dtype=torch.int32)
    order, offsets = torch.arange(number), bounds[:-1].view(1, tiles_y, tiles_x)
    lists = TileLists(offsets, bounds, ids, ids.clone(), order, order.clone(), order.int())
    for degree, absgrad in ((1, False), (2, True), (3, True)):
        colors = sh.spherical_harmonics(means, *coefficients, centres, seen, degree)
        background = torch.zeros(1, 3)
        images, alphas = compositing.composite(
            means2d, conics, colors, opacities, background, width, height, 16, lists, absgrad
        )
        (images.sum() + alphas.sum()).backward()
assert variants == compiled, variants - compiled
print("once")
"""

PROJECTION = """
from splatkit_ns.rasterize import _projection_triton as projection
from splatkit_ns.rasterize.arguments import RasterSettings

for lens in projection.LENS_KINDS:
    for launch in projection.first_launches("cpu", False, lens):
        launch()
compiled = set(variants)
assert len(compiled) == 9, compiled
for number, cameras, width, height in ((1, 1, 1, 1), (16, 2, 640, 480), (99, 16, 979, 546), (4096, 1, 900, 1600)):
    gaussians = [torch.ones(number, *shape, requires_grad=True) for shape in ((3,), (4,), (3,), ())]
    for mode, posed in (("classic", False), ("antialiased", True)):
        settings = RasterSettings(rasterize_mode=mode, far_plane=1e10, eps2d=float(number > 1))
        matrices = (torch.ones(cameras, 4, 4, requires_grad=posed), torch.ones(cameras, 3, 3))
        for kind in projection.LENS_KINDS.values():
            lens = (torch.ones(cameras, 11) if kind else None, kind)
            options = ((width, height), settings, False)
            projected = projection.ProjectGaussians.apply(*gaussians, *matrices, *lens, *options)
            values = torch.cat([projected[3][..., None].expand(-1, -1, 3), projected[3][..., None]], dim=-1)
            (values.sum() + projected[2].sum()).backward()
assert variants == compiled, variants - compiled
print("once")
"""

ABSOLUTE_GRADIENTS = """
from splatkit_ns.rasterize._compositing_triton import composite
from splatkit_ns.rasterize._tile_lists_triton import TileLists

seen = []
for number, entries, width, height, channels in ((1, 1, 16, 16, 5), (16, 99, 979, 546, 9), (99, 4096, 900, 1600, 16)):
    means2d, conics, opacities = torch.ones(1, number, 2), torch.ones(1, number, 3), torch.ones(1, number)
    means2d.requires_grad_()
    tiles_x, tiles_y = -(-width // 16), -(-height // 16)
    bounds, ids = torch.zeros(tiles_x * tiles_y + 1, dtype=torch.int32), torch.zeros(entries, dtype=torch.int32)
    order, offsets = torch.arange(number), bounds[:-1].view(1, tiles_y, tiles_x)
    lists = TileLists(offsets, bounds, ids, ids.clone(), order, order.clone(), order.int())
    colors, background = torch.ones(1, number, channels), torch.zeros(1, channels)
    variants.clear()
    images, alphas = composite(means2d, conics, colors, opacities, background, width, height, 16, lists, True)
    (images.sum() + alphas.sum()).backward()
    seen.append({variant for variant in variants if variant[0] == "_absolute"})
    assert means2d.absgrad.shape == means2d.shape
assert len(seen[0]) == 1 and seen[0] == seen[1] == seen[2], seen
print("once")
"""

DISCS = """
from splatkit_ns.rasterize import _compositing_2dgs_triton as compositing, _discs_triton as discs
from splatkit_ns.rasterize._tile_lists_triton import TileLists
from splatkit_ns.rasterize.arguments import RasterSettings

for launch in [discs.first_launch("cpu", False), *compositing.first_launches("cpu")]:
    launch()
compiled = set(variants)
assert len(compiled) == 5, compiled
for number, entries, width, height in ((1, 1, 16, 16), (16, 99, 979, 546), (99, 4096, 900, 1600)):
    rays, means2d, opacities = torch.ones(1, number, 3, 3), torch.ones(1, number, 2), torch.ones(number)
    described = discs.describe(rays, opacities, (width, height), RasterSettings(), False)
    tiles_x, tiles_y = -(-width // compositing.TILE), -(-height // compositing.TILE)
    bounds, ids = torch.zeros(tiles_x * tiles_y + 1, dtype=torch.int32), torch.zeros(entries, dtype=torch.int32)
    order, offsets = torch.arange(number), bounds[:-1].view(1, tiles_y, tiles_x)
    lists = TileLists(offsets, bounds, ids, ids.clone(), order, order.clone(), order.int())
    values, normals = torch.ones(1, number, 4, requires_grad=True), torch.ones(1, number, 3)
    for background in (None, torch.zeros(1, 4)):
        images = compositing.composite_discs(
            means2d, rays, values, normals, opacities[None], background, described, lists, (width, height), True, False
        )
        sum(image.sum() for image in images).backward()
assert variants == compiled, variants - compiled
print("once")
"""

ADAM = """
from splatkit_ns.splat._adam_triton import AdamTensors, adam_step, first_launch

first_launch("cpu")
compiled = set(variants)
assert len(compiled) == 1, compiled
for number in (1, 16, 99, 1024):
    for parameters in (1, 6, 7, 9):
        tensors = [[torch.zeros(number, 3) for _ in range(4)] for _ in range(parameters)]
        rates = torch.zeros(parameters).unbind()
        entries = [AdamTensors(*four, torch.zeros(()), rate) for four, rate in zip(tensors, rates, strict=True)]
        adam_step(entries, 0.9, 0.999, 1e-15)
assert variants == compiled, variants - compiled
print("once")
"""

NOISE = """
from splatkit_ns.densification._noise_triton import add_noise, first_launch

first_launch("cpu")
compiled = set(variants)
assert len(compiled) == 1, compiled
for number in (1, 16, 99, 1024):
    means, quats, scales, logits = (torch.zeros(number, k) for k in (3, 4, 3, 1))
    numbers = torch.tensor([0.5 * number, 2**31 - number, 0.1], dtype=torch.float64)
    add_noise(means, quats, scales, logits[:, 0], numbers[:2])
assert variants == compiled, variants - compiled
print("once")
"""

EXCHANGE = """
from splatkit_ns.rasterize._sh_exchange_triton import coefficient_gradients, first_launches

first_launches("cpu")
compiled = set(variants)
assert len(compiled) == 2, compiled
for number in (1, 16, 99, 1024):
    for ranks, bands in ((1, 1), (2, 4), (16, 9), (3, 16)):
        means, kept = torch.zeros(number, 3), torch.zeros(ranks, number + 1, 3)
        rest = torch.zeros(number, 15, 3) if bands > 1 else None
        coefficient_gradients(means, kept, torch.zeros(number, 1, 3), rest, bands)
assert variants == compiled, variants - compiled
print("once")
"""

IMAGE_MODELS = """
from splatkit_ns.image_model import _affine_triton as affine, _bilateral_grid_triton as grids, _ppisp_triton as ppisp

for kernels in (affine, grids, ppisp):
    kernels.first_launches("cpu")
compiled = set(variants)
assert len(compiled) == 13, compiled
for number, height, width in ((1, 1, 16), (16, 480, 640), (43, 900, 1600), (99, 546, 979)):
    def trained(*shape):
        return torch.zeros(shape, requires_grad=True)

    image, K, index = trained(1, height, width, 3), torch.zeros(3, 3, 3)[1], torch.arange(number)[-1:]
    affine.AffineChange.apply(image, trained(number, 4, 3)[-1:]).sum().backward()
    for rows, columns, levels in ((2, 2, 2), (16, 16, 8), (5, 9, 17)):
        grids.GridImage.apply(image, trained(rows, columns, levels, 12), K, (0.5, 0.7)).sum().backward()
        grids.TotalVariation.apply(trained(1, 12, levels, rows, columns)).backward()
    parameters = [trained(number, *shape) for shape in ((), (4, 2), (3, 2), (3, 3), (3, 4))]
    cameras = torch.zeros(number, dtype=torch.int64)
    ppisp.PPISPImage.apply(image, *parameters, torch.zeros(number), cameras, index, K).sum().backward()
    ppisp.PPISPPenalties.apply(*parameters, cameras, index, (0.01, 0.02, 0.01, 0.1)).sum().backward()
assert variants == compiled, variants - compiled
print("once")
"""

PROBE = """
from splatkit_ns.doctor import _triton_probe

triton.knobs.runtime.jit_cache_hook = None
kernel = _triton_probe._double.warmup(torch.ones(8), torch.ones(8), size=_triton_probe.SIZE, grid=(1,))
assert ".visible .entry _double" in kernel.asm["ptx"]
print("compiled")
"""


LAUNCHES = {
    "ssim": SSIM,
    "tile lists": TILE_LISTS,
    "compositing and spherical harmonics": COMPOSITING,
    "absolute gradients of many channels": ABSOLUTE_GRADIENTS,
    "projection": PROJECTION,
    "discs": DISCS,
    "adam": ADAM,
    "noise": NOISE,
    "exchange": EXCHANGE,
    "image models": IMAGE_MODELS,
}


@pytest.mark.parametrize("kernels", LAUNCHES)
def test_only_the_first_launch_compiles(kernels: str) -> None:
    assert_prints(LAUNCHES[kernels], "once\n")


def test_the_doctor_s_kernel_compiles() -> None:
    assert_prints(PROBE, "compiled\n")


def test_kernels_have_no_annotations_but_constexpr() -> None:
    """Triton looks annotations up on the GPU, where there are no other names."""
    paths = list(Path(splatkit_ns.__file__).parent.rglob("*.py"))
    functions = [node for path in paths for node in ast.walk(ast.parse(path.read_text())) if _is_kernel(node)]
    arguments = [argument for function in functions for argument in function.args.args]
    found = {ast.unparse(argument.annotation) for argument in arguments if argument.annotation is not None}
    assert len(functions) > 50
    assert found == {"tl.constexpr"}


def _is_kernel(node: ast.AST) -> TypeGuard[ast.FunctionDef]:
    return isinstance(node, ast.FunctionDef) and "triton.jit" in {ast.unparse(each) for each in node.decorator_list}
