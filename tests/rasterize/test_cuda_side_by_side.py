"""CPU kernels and gsplat's CUDA kernels on the same scene. Needs a GPU; holds for gsplat 1.4.0 and 1.5.3."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from raster_scenes import random_scene
from test_lens_models import LENSES
from test_lens_projection import lens_scene

from splatkit_ns.rasterize import cuda_rasterization, radii_in_pixels, rasterization
from splatkit_ns.triton_kernels import lazy_kernel

PARAMETERS = ("means", "quats", "scales", "opacities", "colors", "viewmats")
pytestmark = pytest.mark.gpu


def run(scene: dict[str, Any], device: str, **options: Any) -> dict[str, torch.Tensor]:
    moved = {k: v.to(device) if torch.is_tensor(v) else v for k, v in {**scene, **options}.items()}
    for name in PARAMETERS:
        moved[name] = moved[name].clone().requires_grad_()
    renders, alphas, info = rasterization(**moved)
    info["means2d"].retain_grad()
    weights = torch.linspace(0.0, 1.0, renders.numel()).reshape(renders.shape).to(device)
    ((renders * weights).sum() + alphas.sum()).backward()
    # a depth image does not depend on colours: a gradient of zero, or none at all
    grads = {name: moved[name].grad for name in PARAMETERS}
    found = {name: torch.zeros_like(moved[name]) if grad is None else grad for name, grad in grads.items()}
    found |= {"renders": renders.detach(), "alphas": alphas.detach(), "radii": radii_in_pixels(info)}
    if not options.get("packed"):
        found["means2d"] = info["means2d"].grad
    if options.get("absgrad"):
        found["absgrad"] = info["means2d"].absgrad
    return {name: value.cpu() for name, value in found.items()}


def assert_alike(cpu: dict[str, torch.Tensor], cuda: dict[str, torch.Tensor]) -> None:
    for name in ("renders", "alphas"):
        assert cpu[name].shape == cuda[name].shape
        assert float((cpu[name] - cuda[name]).abs().mean()) < 2e-3, name
    for name in (*PARAMETERS, "means2d", "absgrad"):
        if name in cpu and name in cuda:
            error = float((cpu[name] - cuda[name]).norm() / cuda[name].norm().clamp(min=1e-12))
            assert error < 1e-2, (name, error)


@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
@pytest.mark.parametrize("render_mode", ["RGB", "D", "ED", "RGB+D", "RGB+ED"])
def test_every_mode(render_mode: str, rasterize_mode: str) -> None:
    scene = random_scene(n=400, width=100, height=75, cameras=2, sh_bands=16, seed=40)
    options = {"render_mode": render_mode, "rasterize_mode": rasterize_mode, "sh_degree": 3, "absgrad": True}
    assert_alike(run(scene, "cpu", **options), run(scene, "cuda", **options))


@pytest.mark.parametrize("render_mode", ["RGB", "RGB+ED"])
def test_backgrounds(render_mode: str) -> None:
    scene = random_scene(n=400, width=100, height=75, seed=41)
    options = {"backgrounds": torch.tensor([[0.2, 0.5, 0.9]]), "render_mode": render_mode}
    assert_alike(run(scene, "cpu", **options), run(scene, "cuda", **options))


@pytest.mark.usefixtures("compiled_gsplat")
def test_packed_with_background_matches_unpacked() -> None:
    """gsplat 1.5 asserts on this combination; the background is composited outside."""
    scene = random_scene(n=400, width=100, height=75, seed=42)
    backgrounds = torch.tensor([[0.2, 0.5, 0.9]])
    unpacked = run(scene, "cuda", backgrounds=backgrounds)
    packed = run(scene, "cuda", backgrounds=backgrounds, packed=True)
    # gsplat 1.4, which packs, cuts Gaussians off at 3 standard deviations, our lists where alpha falls below 1/255
    torch.testing.assert_close(packed["renders"], unpacked["renders"], rtol=0, atol=0.012)
    assert float((packed["renders"] - unpacked["renders"]).abs().mean()) < 1e-4


def test_many_channels() -> None:
    scene = random_scene(n=300, width=64, height=64, channels=8, seed=43)
    assert_alike(run(scene, "cpu"), run(scene, "cuda"))


@pytest.mark.parametrize("packed", [False, True])
def test_no_gaussians(packed: bool) -> None:
    """gsplat 1.5 would divide by their number."""
    scene = random_scene(n=0, width=20, height=10, cameras=2)
    options = {"backgrounds": torch.rand(2, 3), "render_mode": "RGB+ED"}
    cuda = run(scene, "cuda", packed=packed, **options)
    assert torch.equal(cuda["renders"], run(scene, "cpu", **options)["renders"])


def test_what_is_seen_agrees() -> None:
    scene = random_scene(n=2000, width=100, height=75, seed=44)
    cpu, cuda = run(scene, "cpu")["radii"], run(scene, "cuda")["radii"]
    assert float(((cpu > 0) == (cuda > 0)).float().mean()) > 0.98


@pytest.mark.usefixtures("compiled_gsplat")
@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
def test_own_tile_lists_change_nothing(rasterize_mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = random_scene(n=400, width=100, height=75, sh_bands=16, seed=45)
    options = {"rasterize_mode": rasterize_mode, "render_mode": "RGB+ED", "absgrad": True, "sh_degree": 3}
    ours = run(scene, "cuda", **options)
    monkeypatch.setattr(cuda_rasterization, "own_kernels", lazy_kernel("not said")(lambda: 1 / 0))
    theirs = run(scene, "cuda", **options)
    # gsplat 1.4 cuts Gaussians off at 3 standard deviations, where an opaque one still has an alpha of 0.011
    assert float((ours["renders"] - theirs["renders"]).abs().mean()) < 2e-4
    assert_alike(ours, theirs)


def test_every_place_in_the_tile_lists_is_filled() -> None:
    from splatkit_ns.rasterize import _tile_lists_triton as lists

    torch.manual_seed(0)
    num, width, height = 300_000, 900, 1600
    means = torch.rand(1, num, 2, device="cuda") * torch.tensor([width, height], device="cuda")
    long, short = torch.rand(2, 1, num, device="cuda").pow(4) * 60 + 0.5
    angle = torch.rand(1, num, device="cuda") * 6.3
    cos, sin = angle.cos(), angle.sin()
    xx, yy = (cos * long) ** 2 + (sin * short) ** 2, (sin * long) ** 2 + (cos * short) ** 2
    xy = cos * sin * (long**2 - short**2)
    conics = torch.stack([yy, -xy, xx], -1) / (xx * yy - xy**2)[..., None]
    opacities = torch.rand(1, num, device="cuda")
    order = torch.randperm(num, device="cuda")
    seen = torch.ones(1, num, dtype=torch.uint8, device="cuda")
    gaussians = (order, means, conics, opacities, seen)
    grid, tiles = (-(-num // lists.BLOCK),), (57, 100)
    counts = torch.empty(num, dtype=torch.int32, device="cuda")
    lists._count[grid](*gaussians, counts, num, *tiles, 16, lists.BLOCK, **lists.COMPILE)
    ends = counts.cumsum(0)
    filled = torch.full((int(ends[-1]),), -1, dtype=torch.int16, device="cuda")
    ids = torch.full((int(ends[-1]),), -1, dtype=torch.int32, device="cuda")
    arguments = (
        *gaussians,
        ends,
        counts,
        filled,
        ids,
        num,
        len(ids),
        num,
        *tiles,
        16,
        lists.FILL_BLOCK,
        lists.FILL_WIDTH,
    )
    lists._fill[(-(-num // lists.FILL_BLOCK),)](*arguments, **lists.COMPILE)
    assert int((filled < 0).sum()) == 0
    assert torch.equal(torch.bincount(ids, minlength=num)[order], counts.long())


@pytest.mark.parametrize("name", LENSES)
@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
def test_lenses(name: str, rasterize_mode: str) -> None:
    scene = lens_scene(name, n=400, width=100, height=75, sh_bands=16, seed=43)
    scene = {key: value.float() if torch.is_tensor(value) else value for key, value in scene.items()}
    options = {"render_mode": "RGB+ED", "rasterize_mode": rasterize_mode, "sh_degree": 3, "absgrad": True}
    assert_alike(run(scene, "cpu", **options), run(scene, "cuda", **options))
