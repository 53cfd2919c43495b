"""Gaussians seen through lenses: the CPU kernels against PyTorch's own gradients, and both against many samples."""

from __future__ import annotations

import math
from typing import Any

import dense_reference
import pytest
import torch
from raster_scenes import as_values, random_scene
from scipy.spatial.transform import Rotation
from test_lens_models import LENSES
from torch import Tensor

from splatkit_ns.rasterize import rasterization
from splatkit_ns.rasterize.cpu.autograd import Project, lens_of_kernels
from splatkit_ns.rasterize.lens_models import lens_limits, padded_coefficients, project_points
from splatkit_ns.rasterize.lens_projection import project_with_lens

NAMES = ("means", "quats", "scales", "opacities", "viewmats")
WIDE = [name for name, (lens, _) in LENSES.items() if lens == "opencv_fisheye"]


def lens_scene(name: str, **options: Any) -> dict[str, Any]:
    """A float64 scene of two cameras; a fisheye stands in its middle."""
    lens, values = LENSES[name]
    scene = random_scene(**{"cameras": 2, "dtype": torch.float64, **options})
    if lens == "opencv_fisheye":
        scene["viewmats"][:, :3, 3] *= 0.1
        scene["Ks"][:, :2, :2] *= 0.25
    distortion = torch.tensor([values, values], dtype=torch.float64)
    distortion[1] *= 0.5
    return {**scene, "lens": lens, "distortion": distortion}


@pytest.mark.parametrize("name", LENSES)
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_kernels_have_the_values_and_gradients_of_pytorch(name: str, mode: str) -> None:
    scene = lens_scene(name, n=300)
    rng = torch.Generator().manual_seed(1)
    found: list[list[Tensor]] = []
    for through_kernels in (True, False):
        leaves = {key: scene[key].clone().requires_grad_() for key in NAMES}
        gaussians, cameras, settings = as_values({**scene, **leaves}, rasterize_mode=mode)
        if through_kernels:
            outputs: Any = Project.apply(
                *(leaves[key] for key in NAMES), cameras.Ks, cameras.size, lens_of_kernels(cameras), settings
            )
        else:
            outputs = project_with_lens(gaussians, cameras, settings)
        rng.manual_seed(1)
        loss = sum(
            (output * torch.randn(output.shape, generator=rng, dtype=torch.float64)).sum() for output in outputs[:4]
        )
        loss.backward()
        grads = [leaves[key].grad for key in NAMES if key != "opacities"]
        found.append([*(output.detach() for output in outputs), *grads])
    kernels, expected = found
    assert int((expected[4][..., 0] > 0).sum()) > 100
    assert torch.equal(kernels[4], expected[4])
    for value, reference in zip(kernels, expected, strict=True):
        torch.testing.assert_close(
            value.double(), reference.double(), rtol=1e-8, atol=1e-8 * float(reference.abs().max())
        )


@pytest.mark.parametrize("name", ["opencv", "fisheye"])
def test_images_and_gradients_are_those_of_the_dense_reference(name: str) -> None:
    """No tile misses a Gaussian: the reference draws every one at every pixel."""
    scene = lens_scene(name, n=120, width=50, height=37)
    scene = {key: value[:1] if key in ("viewmats", "Ks", "distortion") else value for key, value in scene.items()}
    coefficients = padded_coefficients(scene["lens"], scene["distortion"], scene["Ks"], 1)
    limits = lens_limits(scene["lens"], coefficients, scene["Ks"], scene["width"], scene["height"])

    def seen(points: Tensor) -> Any:
        return project_points(scene["lens"], coefficients, limits, scene["Ks"], points[None])

    weights = torch.rand(1, 37, 50, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    images: list[Tensor] = []
    gradients: list[list[Tensor]] = []
    options = {"render_mode": "RGB+D", "rasterize_mode": "antialiased"}
    for draw in (rasterization, dense_reference.render):
        leaves = {key: scene[key].clone().requires_grad_() for key in (*NAMES, "colors")}
        given = {**scene, **leaves, **options}
        if draw is dense_reference.render:
            given = {key: value for key, value in given.items() if key not in ("lens", "distortion")} | {"seen": seen}
        image = draw(**given)[0]
        (image * weights).sum().backward()
        images.append(image.detach())
        gradients.append([leaf.grad for leaf in leaves.values() if leaf.grad is not None])
    assert float((images[0] - images[1]).abs().max()) < 1e-6
    assert float(images[1][..., :3].mean()) > 0.1
    for value, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["opencv", "full opencv", "fisheye"])
def test_an_ellipse_covers_the_samples_of_its_gaussian(name: str) -> None:
    """For Gaussians of some pixels, mean and covariance of the places of samples are those of the projection."""
    scene = lens_scene(name, n=80, width=400, height=300, size=0.005)
    if name in WIDE:
        scene["viewmats"][:, :3, 3] = 0
    gaussians, cameras, settings = as_values(scene, eps2d=0.0)
    ellipses = project_with_lens(gaussians, cameras, settings)
    rng = torch.Generator().manual_seed(2)
    unit = torch.randn(500, 3, generator=rng, dtype=torch.float64)
    unit = torch.cat([unit, -unit])
    unit = unit @ torch.linalg.inv(torch.linalg.cholesky(unit.T @ unit / len(unit))).T  # of covariance 1 exactly
    coefficients = padded_coefficients(cameras.lens, cameras.distortion, cameras.Ks, 2)
    limits = lens_limits(cameras.lens, coefficients, cameras.Ks, *cameras.size)
    turns = Rotation.from_quat(gaussians.quats.numpy(), scalar_first=True).as_matrix()
    compared = behind = 0
    for camera, index in (ellipses.radii[..., 0] > 2).nonzero().tolist():
        world = gaussians.means[index] + (unit * gaussians.scales[index]) @ torch.from_numpy(turns[index].T)
        view = cameras.viewmats[camera]
        points = world @ view[:3, :3].T + view[:3, 3]
        one = slice(camera, camera + 1)
        places = project_points(cameras.lens, coefficients[one], limits[one], cameras.Ks[one], points[None]).places[0]
        deviation = places - places.mean(0)
        covariance = deviation.T @ deviation / len(places)
        a, b, c = ellipses.conics[camera, index].tolist()
        expected = torch.linalg.inv(torch.tensor([[a, b], [b, c]], dtype=torch.float64))
        error = float((covariance - expected).abs().max() / expected.abs().max())
        assert error < 0.04
        offset = float((places.mean(0) - ellipses.means2d[camera, index]).norm())
        assert offset < 0.05 * math.sqrt(float(expected.diagonal().sum())) + 0.01
        compared += 1
        behind += int(points[:, 2].mean() < 0)
    assert compared > 10
    assert behind > 3 or name not in WIDE
