"""Places and Jacobians of lenses, against OpenCV and automatic differentiation."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from splatkit_ns.cameras import LensModel
from splatkit_ns.rasterize.lens_models import (
    LARGEST_ANGLE,
    LensPoints,
    lens_limits,
    padded_coefficients,
    project_points,
)

WIDTH, HEIGHT = 640, 480
K = torch.tensor([[400.0, 0, 330], [0, 410, 235], [0, 0, 1]], dtype=torch.float64)[None]
LENSES: dict[str, tuple[LensModel, list[float]]] = {
    "one radial term": ("opencv", [-0.1]),
    "opencv": ("opencv", [-0.12, 0.05, 0.003, -0.002]),
    "full opencv": ("opencv", [0.3, 0.1, 0.001, 0.002, 0.02, 0.4, 0.15, 0.03]),
    "fourth radial term": ("opencv", [-0.1, 0.05, 0.0, 0.0, -0.01, 0.0, 0.0, 0.0, 0.002]),
    "fisheye": ("opencv_fisheye", [0.03, -0.01, 0.002, -0.0005]),
    "equidistant": ("opencv_fisheye", []),
}


def seen(name: str, points: Tensor, K: Tensor = K, width: int = WIDTH, height: int = HEIGHT) -> LensPoints:
    lens, values = LENSES[name]
    distortion = torch.tensor([values], dtype=torch.float64)
    coefficients = padded_coefficients(lens, distortion, K, 1)
    return project_points(lens, coefficients, lens_limits(lens, coefficients, K, width, height), K, points[None])


def directions(widest: float, count: int = 400) -> Tensor:
    """Points (N, 3) at all distances, up to an angle from the axis."""
    rng = torch.Generator().manual_seed(3)
    angle, turn, distance = torch.rand(3, count, generator=rng, dtype=torch.float64)
    angle, turn, distance = angle * widest, turn * 2 * math.pi, torch.exp(3 * distance - 1)
    unit = torch.stack([angle.sin() * turn.cos(), angle.sin() * turn.sin(), angle.cos()], -1)
    return torch.cat([unit * distance[:, None], torch.tensor([[0.0, 0.0, 2.0]], dtype=torch.float64)])


@pytest.mark.parametrize("name", LENSES)
def test_places_are_those_of_opencv(name: str) -> None:
    lens, values = LENSES[name]
    points = directions(math.radians(40 if lens == "opencv" else 88))
    given = points.numpy()[:, None]
    matrix, nothing = K[0].numpy(), np.zeros(3)
    if lens == "opencv":
        expected = cv2.projectPoints(given, nothing, nothing, matrix, np.array([*values, *[0.0] * 8][:8]))[0][:, 0]
        slope2 = (points[:, :2] / points[:, 2:]).square().sum(-1).numpy()
        fourth = values[8] if len(values) > 8 else 0.0
        extra = fourth * slope2**4 * (points[:, :2] / points[:, 2:]).numpy().T
        expected = expected + (extra * matrix.diagonal()[:2, None]).T
    else:
        expected = cv2.fisheye.projectPoints(given, nothing, nothing, matrix, np.array([*values, *[0.0] * 4][:4]))[0]
        expected = expected[:, 0]
    found = seen(name, points)
    inside = found.inside[0].numpy()
    shown = (np.abs(expected - [WIDTH / 2, HEIGHT / 2]) < [WIDTH / 2, HEIGHT / 2]).all(1)
    assert inside[shown].all()
    assert shown.sum() > 100
    np.testing.assert_allclose(found.places[0].numpy()[shown], expected[shown], atol=1e-8)


@pytest.mark.parametrize("name", LENSES)
def test_jacobians_are_the_derivatives_of_places(name: str) -> None:
    points = directions(math.radians(40) if LENSES[name][0] == "opencv" else LARGEST_ANGLE).requires_grad_()
    found = seen(name, points)
    in_image = found.inside[0] & (
        found.places[0].detach().sub(K[0, :2, 2]).norm(dim=-1) < 0.5 * math.hypot(WIDTH, HEIGHT)
    )
    if LENSES[name][0] == "opencv_fisheye":
        in_image = found.inside[0]
        assert int((points[:, 2] < 0).sum()) > 100
    assert int(in_image.sum()) > 100
    for row in range(2):
        (gradient,) = torch.autograd.grad(found.places[0, :, row].sum(), points, retain_graph=True)
        expected = found.jacobians[0, :, row]
        torch.testing.assert_close(gradient[in_image], expected.detach()[in_image], rtol=1e-9, atol=1e-9)


def test_a_lens_without_coefficients_is_a_pinhole() -> None:
    lens, _ = LENSES["opencv"]
    points = directions(math.radians(30))
    coefficients = padded_coefficients(lens, None, K, 1)
    found = project_points(lens, coefficients, lens_limits(lens, coefficients, K, WIDTH, HEIGHT), K, points[None])
    expected = points @ K[0].T
    torch.testing.assert_close(found.places[0], expected[:, :2] / points[:, 2:])


def test_a_lens_that_turns_back_has_an_end() -> None:
    # r (1 - r² / 3) grows up to r = 1, whose place is 2/3 focal lengths from the middle; the image's corner is at 1
    wide = torch.tensor([[300.0, 0, 320], [0, 300, 240], [0, 0, 1]], dtype=torch.float64)[None]
    LENSES["turning"] = ("opencv", [-1 / 3])
    points = torch.tensor([[0.9, 0, 1.0], [1.1, 0, 1.0], [2.5, 0, 1], [0.1, 0.1, -1]], dtype=torch.float64)
    try:
        found = seen("turning", points, wide)
        narrow = wide.clone()
        narrow[:, :2, :2] *= 3
        far = seen("turning", points, narrow)
    finally:
        del LENSES["turning"]
    assert found.inside[0].tolist() == [True, False, False, False]
    # a narrow image never sees the turn: the lens goes on in a straight line, so that places do not come back
    assert far.inside[0].tolist() == [True, True, True, False]
    x = far.places[0, :3, 0]
    assert bool((x.diff() > 0).all())
    assert float(x[0]) > WIDTH


def test_a_fisheye_sees_points_beside_and_behind_the_camera() -> None:
    points = torch.tensor([[2.0, 0, 0], [0, -1, -1e-3], [0, 0, -1], [0, 1, -1]], dtype=torch.float64)
    found = seen("equidistant", points, K * K.new_tensor([0.25, 0.25, 1])[None, :, None])
    assert found.inside[0].tolist() == [True, True, False, True]
    torch.testing.assert_close(found.places[0, 0], K.new_tensor([0.25 * 330 + 100 * math.pi / 2, 0.25 * 235]))
    assert found.depths[0].tolist() == pytest.approx([2, 1.0000005, 1, math.sqrt(2)])
