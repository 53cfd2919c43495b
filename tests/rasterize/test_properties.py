"""Properties that hold for any scene, and the edges of what a scene can be."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from dense_reference import render
from hypothesis import given, settings
from hypothesis import strategies as st
from raster_scenes import random_scene

from splatkit_ns.rasterize import radii_in_pixels, rasterization

PARAMETERS = ("means", "quats", "scales", "opacities", "colors", "viewmats")
scenes = st.builds(
    random_scene,
    n=st.integers(1, 200),
    width=st.integers(1, 50),
    height=st.integers(1, 50),
    seed=st.integers(0, 2**31),
    size=st.floats(0.005, 1.0),
)


def gradients(scene: dict[str, Any], **options: Any) -> dict[str, torch.Tensor]:
    """Image, radii, and gradients of everything for a fixed loss."""
    leaves = {k: v.clone().requires_grad_() if k in PARAMETERS else v for k, v in scene.items()}
    renders, alphas, info = rasterization(**leaves, **options)
    renders.retain_grad()
    info["means2d"].retain_grad()
    weights = torch.linspace(-1.0, 1.0, renders.numel()).reshape(renders.shape)
    ((renders * weights).sum() + alphas.square().sum()).backward()
    found = {name: leaves[name].grad for name in PARAMETERS}
    return {**found, "image": renders.detach(), "means2d": info["means2d"].grad, "radii": radii_in_pixels(info)}


@given(scene=scenes, seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_order_of_gaussians_does_not_matter(scene: dict[str, Any], seed: int) -> None:
    order = torch.randperm(len(scene["means"]), generator=torch.Generator().manual_seed(seed))
    shuffled = {k: v[order] if k in PARAMETERS and k != "viewmats" else v for k, v in scene.items()}
    first, second = gradients(scene), gradients(shuffled)
    assert torch.equal(first["image"], second["image"])
    for name in ("means", "quats", "scales", "opacities", "colors"):
        assert torch.equal(first[name][order], second[name]), name


@given(scene=scenes)
@settings(max_examples=25, deadline=None)
def test_alpha_and_light_make_one(scene: dict[str, Any]) -> None:
    scene["colors"] = torch.ones_like(scene["colors"])
    renders, alphas, _ = rasterization(**scene)
    assert float((renders - alphas).abs().max()) < 2e-5  # white Gaussians: colour is coverage
    assert float(alphas.min()) >= 0.0
    assert float(alphas.max()) <= 1.0 - 1e-4
    over_white, _, _ = rasterization(**scene, backgrounds=torch.ones(1, 3))
    assert float((over_white - 1.0).abs().max()) < 2e-5


@given(scene=scenes)
@settings(max_examples=25, deadline=None)
def test_gradients_are_finite_and_unseen_gaussians_have_none(scene: dict[str, Any]) -> None:
    found = gradients(scene, absgrad=True)
    unseen = found["radii"][0] == 0
    for name in ("means", "quats", "scales", "opacities", "colors"):
        assert bool(torch.isfinite(found[name]).all()), name
        assert float(found[name][unseen].abs().sum()) == 0.0, name


def test_two_backward_passes_are_bit_equal_with_any_number_of_threads() -> None:
    scene = random_scene(n=3000, width=90, height=70, seed=5, cameras=2, sh_bands=16)
    threads = torch.get_num_threads()
    runs = []
    try:
        for count in (2, 2, 1):
            torch.set_num_threads(count)
            runs.append(gradients(scene, sh_degree=3, rasterize_mode="antialiased", absgrad=True))
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        for name, value in runs[0].items():
            assert torch.equal(value, other[name]), name


def test_rendering_from_two_threads_at_once() -> None:
    """A viewer renders while training does; both share one pool of threads."""
    scenes_of = [random_scene(n=500, width=60, height=40, seed=seed) for seed in (1, 2)]
    expected = [gradients(scene) for scene in scenes_of]
    failures: list[str] = []

    def work(index: int) -> None:
        for _ in range(10):
            found = gradients(scenes_of[index])
            failures.extend(name for name in found if not torch.equal(found[name], expected[index][name]))

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_no_gaussians_give_the_background() -> None:
    scene = random_scene(n=0)
    for name in ("means", "quats", "scales", "opacities", "colors"):
        scene[name].requires_grad_()
    backgrounds = torch.tensor([[0.25, 0.5, 0.75]])
    renders, alphas, info = rasterization(**scene, backgrounds=backgrounds)
    assert torch.equal(renders, backgrounds.expand(1, scene["height"], scene["width"], 3))
    assert float(alphas.max()) == 0.0
    assert info["means2d"].shape == (1, 0, 2)
    renders.sum().backward()
    assert scene["means"].grad.shape == (0, 3)


@pytest.mark.parametrize("offset", [(0.0, 0.0, 100.0), (500.0, 0.0, 0.0)], ids=["behind", "beside"])
def test_gaussians_out_of_view_leave_nothing(offset: tuple[float, float, float]) -> None:
    scene = random_scene(n=50)
    scene["viewmats"] = torch.eye(4)[None]
    scene["means"] = scene["means"] - torch.tensor(offset)
    found = gradients(scene)
    assert float(found["image"].abs().max()) == 0.0
    assert int(found["radii"].abs().max()) == 0
    assert all(float(found[name].abs().sum()) == 0.0 for name in PARAMETERS)


def test_one_gaussian_over_every_tile() -> None:
    scene = random_scene(n=1, width=100, height=70)
    scene |= {"means": torch.zeros(1, 3), "scales": torch.full((1, 3), 30.0), "opacities": torch.tensor([0.7])}
    renders, alphas, info = rasterization(**scene)
    expected, expected_alphas = render(**{k: v.double() if torch.is_tensor(v) else v for k, v in scene.items()})
    assert float(expected_alphas.min()) > 0.5
    assert float((renders - expected).abs().max()) < 1e-5
    assert float((alphas - expected_alphas).abs().max()) < 1e-5
    assert int(radii_in_pixels(info)[0, 0]) > 100


def test_thousands_of_gaussians_in_one_tile() -> None:
    scene = random_scene(n=5000, width=16, height=16, seed=8, size=0.02)
    scene["opacities"] = 0.02 + 0.03 * scene["opacities"]
    found = gradients(scene)
    expected, _ = render(**{k: v.double() if torch.is_tensor(v) else v for k, v in scene.items()})
    assert float((found["image"] - expected).abs().max()) < 1e-5


def test_equal_depths_are_drawn_in_order_of_index() -> None:
    scene = random_scene(n=2, width=16, height=16)
    scene |= {
        "viewmats": torch.eye(4)[None], "means": torch.tensor([[0.0, 0.0, 4.0]] * 2), "scales": torch.ones(2, 3),
        "opacities": torch.tensor([0.9, 0.9]), "colors": torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    }  # fmt: skip
    red, green, _ = rasterization(**scene)[0][0, 8, 8].tolist()
    assert red > 5 * green


@given(st.lists(st.floats(-4.0, 2.0**100, width=32), max_size=300), st.sampled_from([np.float32, np.float64]))
@settings(max_examples=100, deadline=None)
def test_nearest_first_is_a_stable_sort(depths: list[float], dtype: type) -> None:
    from splatkit_ns.rasterize.cpu.tiles import nearest_first

    values = np.array(depths + depths[:20], dtype)
    for sample in (values, np.abs(values)):
        assert nearest_first(sample).tolist() == sorted(range(len(sample)), key=lambda i: sample[i])


def test_radius_clip_leaves_small_gaussians_out() -> None:
    scene = random_scene(n=200, size=0.05)
    radii = radii_in_pixels(rasterization(**scene)[2])
    clip = int(radii.float().median())
    clipped = radii_in_pixels(rasterization(**scene, radius_clip=float(clip))[2])
    assert torch.equal(clipped, torch.where(radii > clip, radii, 0))


def test_alpha_outside_the_radii_is_below_one_level() -> None:
    """The radii bound where a Gaussian can be seen: outside, its alpha is below 1/255."""
    scene = random_scene(n=40, width=64, height=64, size=0.1, seed=4)
    for g in range(40):
        one = {k: v[g : g + 1] if k in PARAMETERS and k != "viewmats" else v for k, v in scene.items()}
        _, alphas, info = rasterization(**one)
        seen = alphas[0, :, :, 0] > 0
        if not bool(seen.any()):
            continue
        radius = int(radii_in_pixels(info)[0, 0])
        y, x = torch.nonzero(seen, as_tuple=True)
        mean = info["means2d"][0, 0]
        assert float((x + 0.5 - mean[0]).abs().max()) <= radius
        assert float((y + 0.5 - mean[1]).abs().max()) <= radius


def test_coefficients_may_come_in_two_tensors() -> None:
    scene = random_scene(n=30, sh_bands=16)
    joined = gradients(scene, sh_degree=3)
    rest = scene["colors"][:, 1:].clone().requires_grad_()
    apart = gradients({**scene, "colors": scene["colors"][:, :1]}, sh_degree=3, sh_rest=rest)
    assert torch.equal(apart["image"], joined["image"])
    assert torch.equal(apart["colors"], joined["colors"][:, :1])
    assert rest.grad is not None
    assert torch.equal(rest.grad, joined["colors"][:, 1:])
    assert float(rest.grad.abs().max()) > 0
