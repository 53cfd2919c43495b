"""2D Gaussians: properties that hold for any scene, the edges of what a scene can be, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense_reference_2dgs import render
from hypothesis import given, settings
from hypothesis import strategies as st
from raster_scenes import random_scene

from splatkit_ns.rasterize import radii_in_pixels, rasterization, rasterization_2dgs

PARAMETERS = ("means", "quats", "scales", "opacities", "colors", "viewmats")
IMAGES = ("renders", "alphas", "normals", "normals_from_depth", "distortion", "median_depth")
scenes = st.builds(
    random_scene,
    n=st.integers(1, 200),
    width=st.integers(1, 50),
    height=st.integers(1, 50),
    seed=st.integers(0, 2**31),
    size=st.floats(0.005, 1.0),
)


def images_and_gradients(scene: dict[str, Any], **options: Any) -> dict[str, torch.Tensor]:
    options = {"render_mode": "RGB+ED", "absgrad": True, **options}
    leaves = {k: v.clone().requires_grad_() if k in PARAMETERS else v for k, v in scene.items()}
    result = rasterization_2dgs(**leaves, **options)
    images = {name: image for name in IMAGES if (image := getattr(result, name)) is not None}
    result.info["means2d"].retain_grad()
    total = torch.zeros(())
    for image in images.values():
        total = total + (image * torch.linspace(-1.0, 1.0, image.numel()).reshape(image.shape)).sum()
    total.backward()
    found = {name: leaves[name].grad for name in PARAMETERS} | {k: v.detach() for k, v in images.items()}
    return {
        **found, "means2d": result.info["means2d"].grad, "absgrad": result.info["means2d"].absgrad,
        "gradient_2dgs": result.info["gradient_2dgs"].grad, "radii": radii_in_pixels(result.info),
    }  # fmt: skip


@given(scene=scenes, seed=st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_order_of_discs_does_not_matter(scene: dict[str, Any], seed: int) -> None:
    order = torch.randperm(len(scene["means"]), generator=torch.Generator().manual_seed(seed))
    shuffled = {k: v[order] if k in PARAMETERS and k != "viewmats" else v for k, v in scene.items()}
    first, second = images_and_gradients(scene), images_and_gradients(shuffled)
    for name in IMAGES:
        assert torch.equal(first[name], second[name]), name
    for name in ("means", "quats", "scales", "opacities", "colors"):
        assert torch.equal(first[name][order], second[name]), name
    assert torch.equal(first["gradient_2dgs"][:, order], second["gradient_2dgs"])


@given(scene=scenes)
@settings(max_examples=20, deadline=None)
def test_images_fit_together(scene: dict[str, Any]) -> None:
    scene["colors"] = torch.ones_like(scene["colors"])
    result = rasterization_2dgs(**scene, render_mode="RGB+ED")
    covered = result.alphas[..., 0] > 0.01
    assert float((result.renders[..., :3] - result.alphas).abs().max()) < 2e-5  # white discs: colour is coverage
    assert float(result.alphas.max()) <= 1.0 - 1e-4
    assert float((result.normals.norm(dim=-1) - result.alphas[..., 0]).max()) < 1e-5  # means of unit vectors
    assert result.distortion is not None
    assert result.median_depth is not None
    assert float(result.distortion.min()) > -1e-4
    depths = result.info["depths"][radii_in_pixels(result.info) > 0]
    for depth in (result.renders[..., 3], result.median_depth[..., 0]):
        inside = (depth >= 0.999 * depths.min()) & (depth <= 1.001 * depths.max()) if len(depths) else ~covered
        assert bool(inside[covered].all())
    if len(scene["means"]) == 1:  # the disc's normal faces the camera
        view = scene["viewmats"][0]
        normals = result.normals[0] @ view[:3, :3].T
        camera = view[:3, :3] @ scene["means"][0] + view[:3, 3]
        assert float((normals @ camera).max()) <= 1e-5


@given(scene=scenes)
@settings(max_examples=20, deadline=None)
def test_gradients_are_finite_and_unseen_discs_have_none(scene: dict[str, Any]) -> None:
    found = images_and_gradients(scene)
    unseen = found["radii"][0] == 0
    for name in ("means", "quats", "scales", "opacities", "colors"):
        assert bool(torch.isfinite(found[name]).all()), name
        assert float(found[name][unseen].abs().sum()) == 0.0, name
    assert float(found["scales"][:, 2].abs().sum()) == 0.0, "a disc has no third scale"


def test_two_backward_passes_are_bit_equal_with_any_number_of_threads() -> None:
    scene = random_scene(n=3000, width=90, height=70, seed=5, cameras=2, sh_bands=16)
    threads = torch.get_num_threads()
    runs = []
    try:
        for count in (2, 2, 1):
            torch.set_num_threads(count)
            runs.append(images_and_gradients(scene, sh_degree=3))
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        for name, value in runs[0].items():
            assert torch.equal(value, other[name]), name


def test_no_discs_give_the_background() -> None:
    scene = random_scene(n=0)
    for name in ("means", "quats", "scales", "opacities", "colors"):
        scene[name].requires_grad_()
    backgrounds = torch.tensor([[0.25, 0.5, 0.75]])
    result = rasterization_2dgs(**scene, backgrounds=backgrounds, render_mode="RGB+D")
    assert torch.equal(result.renders[..., :3], backgrounds.expand(1, scene["height"], scene["width"], 3))
    for name in ("alphas", *IMAGES[2:]):
        assert float(getattr(result, name).abs().max()) == 0.0, name
    assert result.info["gradient_2dgs"].shape == (1, 0, 2)
    result.renders.sum().backward()
    assert scene["means"].grad.shape == (0, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"means": torch.tensor([[0.0, 0.0, -4.0]])},
        {"means": torch.tensor([[500.0, 0.0, 4.0]])},
        {"opacities": torch.tensor([0.003])},
        {"opacities": torch.tensor([0.0])},
        {"scales": torch.zeros(1, 3)},
        {"quats": torch.tensor([[1.0, 1.0, 0.0, 0.0]]), "scales": torch.tensor([[1.0, 5.0, 1.0]])},
    ],
    ids=["behind", "beside", "faint", "transparent", "no size", "across the plane of the camera"],
)
def test_what_leaves_nothing(changes: dict[str, torch.Tensor]) -> None:
    scene = random_scene(n=1)
    scene |= {"viewmats": torch.eye(4)[None], "means": torch.tensor([[0.0, 0.0, 4.0]]), **changes}
    found = images_and_gradients(scene)
    assert int(found["radii"].abs().max()) == 0
    for name in IMAGES:
        assert float(found[name].abs().max()) == 0.0, name
    assert all(float(found[name].abs().sum()) == 0.0 for name in PARAMETERS)


def test_one_disc_over_every_tile() -> None:
    scene = random_scene(n=1, width=100, height=70)
    scene |= {"means": torch.zeros(1, 3), "scales": torch.full((1, 3), 3.0), "opacities": torch.tensor([0.7])}
    scene["quats"] = torch.tensor([[1.0, 0.2, 0.1, 0.0]])
    scene["viewmats"] = torch.eye(4)[None].clone()
    scene["viewmats"][0, 2, 3] = 4.0
    result = rasterization_2dgs(**scene, render_mode="RGB+D")
    expected = render(**{k: v.double() if torch.is_tensor(v) else v for k, v in scene.items()}, render_mode="RGB+D")
    assert float(expected["alphas"].min()) > 0.2
    for name, image in expected.items():
        assert float((getattr(result, name) - image).abs().max()) < 1e-4, name


def test_a_disc_seen_from_its_edge_keeps_a_pixel() -> None:
    """The screen-space Gaussian takes over where the disc has no area on the screen."""
    scene = random_scene(n=1, width=33, height=33)
    scene |= {
        "viewmats": torch.eye(4)[None], "means": torch.tensor([[0.0, 0.0, 4.0]]), "opacities": torch.tensor([0.9]),
        "quats": torch.tensor([[1.0, 1.0001, 0.0, 0.0]]), "scales": torch.full((1, 3), 0.02),
        "Ks": torch.tensor([[[40.0, 0.0, 16.5], [0.0, 40.0, 16.5], [0.0, 0.0, 1.0]]]),
    }  # fmt: skip
    alphas = rasterization_2dgs(**scene).alphas[0, :, :, 0]
    assert float(alphas[16, 16]) == pytest.approx(0.9, abs=1e-5)
    assert float(alphas[15, 16]) == pytest.approx(0.9 * 2.718281828**-1, rel=1e-3)  # variance 1/2 pixel²
    assert int((alphas > 0).sum()) < 30


def test_weights_are_those_of_a_flat_disc() -> None:
    """A disc that faces the camera is the 3DGS image of a flat Gaussian without blur, where that is wide."""
    scene = random_scene(n=1, width=40, height=40)
    scene |= {
        "viewmats": torch.eye(4)[None], "means": torch.tensor([[0.0, 0.0, 4.0]]), "opacities": torch.tensor([0.9]),
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.4]]), "scales": torch.tensor([[0.6, 0.3, 1e-6]]),
        "Ks": torch.tensor([[[40.0, 0.0, 19.7], [0.0, 40.0, 20.2], [0.0, 0.0, 1.0]]]),
    }  # fmt: skip
    flat, _, _ = rasterization(**scene, eps2d=0.0)
    assert float((rasterization_2dgs(**scene).renders - flat).abs().max()) < 1e-5


def test_a_tilted_plane_has_its_normal_in_both_ways() -> None:
    """Discs on a plane: normals blended and normals of the depth agree with the plane's."""
    rng = torch.Generator().manual_seed(3)
    angle = torch.tensor(0.35)
    normal = torch.stack([torch.zeros(()), torch.sin(angle), -torch.cos(angle)])
    across = torch.stack([torch.zeros(()), torch.cos(angle), torch.sin(angle)])
    places = torch.rand(4000, 2, generator=rng) * 4 - 2
    means = places[:, :1] * torch.tensor([1.0, 0.0, 0.0]) + places[:, 1:] * across + torch.tensor([0.0, 0.0, 4.0])
    quat = torch.stack([torch.cos(angle / 2), torch.sin(angle / 2), torch.zeros(()), torch.zeros(())])
    result = rasterization_2dgs(
        means, quat.expand(4000, 4), torch.full((4000, 3), 0.06), torch.full((4000,), 0.5), torch.ones(4000, 3),
        torch.eye(4)[None], torch.tensor([[[60.0, 0.0, 24.0], [0.0, 60.0, 24.0], [0.0, 0.0, 1.0]]]), 48, 48,
        render_mode="RGB+ED",
    )  # fmt: skip
    inner = (slice(None), slice(8, -8), slice(8, -8))
    blended = torch.nn.functional.normalize(result.normals[inner], dim=-1)
    assert float((blended @ normal).min()) > 0.99999
    assert result.normals_from_depth is not None
    from_depth = result.normals_from_depth[inner]
    assert float((from_depth.norm(dim=-1) - 1).abs().max()) < 1e-5
    assert float(torch.nn.functional.normalize(from_depth.mean((0, 1, 2)), dim=0) @ normal) > 0.999


def test_median_and_distortion_of_three_discs() -> None:
    scene = random_scene(n=3, width=3, height=3)
    opacities, z = torch.tensor([0.4, 0.3, 0.6]), torch.tensor([2.0, 3.0, 5.0])
    scene |= {
        "viewmats": torch.eye(4)[None], "means": torch.stack([0 * z, 0 * z, z], -1), "opacities": opacities,
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(3, 4), "scales": torch.full((3, 3), 1e3),
        "Ks": torch.tensor([[[3.0, 0.0, 1.5], [0.0, 3.0, 1.5], [0.0, 0.0, 1.0]]]),
    }  # fmt: skip
    result = rasterization_2dgs(**scene, render_mode="RGB+D", distloss=True)
    weights = torch.tensor([0.4, 0.6 * 0.3, 0.6 * 0.7 * 0.6])
    assert result.median_depth is not None
    assert result.distortion is not None
    # light before the discs: 1, 0.6, 0.42
    assert float(result.median_depth[0, 1, 1]) == 3.0
    assert float(result.renders[0, 1, 1, 3]) == pytest.approx(float(weights @ z), rel=1e-5)
    pairs = 2 * (weights[0] * weights[1] * 1 + weights[0] * weights[2] * 3 + weights[1] * weights[2] * 2)
    assert float(result.distortion[0, 1, 1]) == pytest.approx(float(pairs), rel=1e-5)


def test_radius_clip_leaves_small_discs_out() -> None:
    scene = random_scene(n=200, size=0.05)
    radii = radii_in_pixels(rasterization_2dgs(**scene).info)
    clip = int(radii.float().median())
    clipped = radii_in_pixels(rasterization_2dgs(**scene, radius_clip=float(clip)).info)
    assert torch.equal(clipped, torch.where(radii > clip, radii, 0))


@pytest.mark.parametrize("mode", ["RGB", "D", "ED", "RGB+D", "RGB+ED"])
def test_shapes(mode: str) -> None:
    scene = random_scene(n=20, cameras=2, channels=5, width=21, height=18)
    result = rasterization_2dgs(**scene, render_mode=mode)
    channels = {"RGB": 5, "D": 1, "ED": 1}.get(mode, 6)
    assert result.renders.shape == (2, 18, 21, channels)
    assert result.normals.shape == (2, 18, 21, 3)
    shapes = [None if t is None else tuple(t.shape) for t in result[3:6]]
    assert shapes == ([None] * 3 if mode == "RGB" else [(2, 18, 21, 3), (2, 18, 21, 1), (2, 18, 21, 1)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth_mode": "mean"}, r"depth_mode: expected one of expected, median, found 'mean'"),
        ({"distloss": True}, r"distloss: expected a render_mode with depth \(D, ED, RGB\+D, RGB\+ED\), found 'RGB'"),
        ({"packed": True}, r"packed: expected False for 2D Gaussians, found True"),
        ({"sparse_grad": True}, r"sparse_grad: expected False for 2D Gaussians, found True"),
        ({"render_mode": "BGR"}, r"render_mode: expected one of RGB, D, ED, RGB\+D, RGB\+ED, found 'BGR'"),
        ({"scales": torch.ones(5, 2)}, r"scales: expected shape \(5, 3\), found \(5, 2\)"),
        ({"means": torch.full((5, 3), float("nan"))}, r"means: expected finite values, found nan in row 0"),
    ],
)
def test_misfits_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rasterization_2dgs(**{**random_scene(n=5), **options})


def test_gradcheck() -> None:
    scene = random_scene(n=5, width=6, height=5, seed=3, size=0.5, sh_bands=4, dtype=torch.float64)
    scene["opacities"] = 0.3 + 0.4 * scene["opacities"]
    fixed = {name: value for name, value in scene.items() if name not in PARAMETERS}

    def images(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        named = dict(zip(PARAMETERS, values, strict=True))
        result = rasterization_2dgs(**named, **fixed, sh_degree=1, render_mode="RGB+ED")
        return tuple(getattr(result, name) for name in IMAGES)

    inputs = [scene[name].clone().requires_grad_() for name in PARAMETERS]
    assert torch.autograd.gradcheck(images, inputs, eps=1e-6, atol=1e-6, rtol=1e-4, nondet_tol=0.0)
