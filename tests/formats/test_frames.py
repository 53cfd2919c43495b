"""A scene in another frame looks the same to a camera that is moved along."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from splatkit_ns.formats import FormatError, Gaussians
from splatkit_ns.formats.frames import Similarity, UpAxis, flip_yz, quat_of, transform, up_axis
from splatkit_ns.formats.sh_rotation import sh_basis, sh_rotation
from splatkit_ns.rasterize import rasterization
from splatkit_ns.splat import SplatModel
from tests.formats.helpers import make_gaussians, rotations

SIZE = 64


def random_rotation(seed: int) -> Any:
    quat = np.random.default_rng(seed).normal(0, 1, (1, 4))
    return rotations(quat)[0]


def render(gaussians: Gaussians, world_to_cam: Any) -> torch.Tensor:
    """The image (H, W, 3) of a camera, on the CPU."""
    model = SplatModel.from_gaussians(gaussians)
    K = torch.tensor([[60.0, 0, SIZE / 2], [0, 60.0, SIZE / 2], [0, 0, 1]])
    images, alphas, _ = rasterization(
        model.means, model.quats, model.scales.exp(), model.opacities.sigmoid(),
        torch.cat([model.sh0, model.shN], dim=1), torch.from_numpy(world_to_cam).float()[None], K[None], SIZE, SIZE,
        sh_degree=model.sh_degree, eps2d=0.0,
    )  # fmt: skip
    assert 0.2 < float(alphas.mean()) < 0.99, "the camera sees the scene"
    return images[0]


def scene() -> Gaussians:
    """Large, coloured Gaussians before the camera of `CAMERA`, strongly dependent on the direction."""
    gaussians = make_gaussians(200, 3)
    gaussians.means[:] = gaussians.means * 0.5 + [0, 0, 6]
    gaussians.scales[:] += 2.0
    gaussians.shN[:] *= 3
    return gaussians


CAMERA = np.eye(4)


def moved_camera(move: Similarity) -> Any:
    """The camera's matrix in the moved world: lengths in its own frame grow by the scale."""
    lengths = np.diag([move.scale, move.scale, move.scale, 1.0])
    return lengths @ CAMERA @ np.linalg.inv(move.matrix())


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_a_turned_scene_renders_the_same(seed: int, degree: int) -> None:
    original = scene()
    original = Gaussians(**{**original.arrays(), "shN": original.shN[:, : (degree + 1) ** 2 - 1].copy()})
    chance = np.random.default_rng(seed)
    move = Similarity(random_rotation(seed), chance.normal(0, 2, 3), float(chance.uniform(0.5, 2)))
    before, after = render(original, CAMERA), render(transform(original, move), moved_camera(move))
    assert float((before - after).abs().max()) < 1e-5
    if degree:  # the same without turning the coefficients shows that they matter
        unturned = transform(original, move)
        unturned.shN[:] = original.shN
        assert float((before - render(unturned, moved_camera(move))).abs().max()) > 0.01


@pytest.mark.parametrize("up", ["z", "y", "-y"])
def test_up_axes(up: UpAxis) -> None:
    move = up_axis(up)
    tip = move.apply(np.array([[0.0, 0, 1], [1, 0, 0]]))
    assert tip[0].tolist() == {"z": [0, 0, 1], "y": [0, 1, 0], "-y": [0, -1, 0]}[up]
    assert tip[1].tolist() == [1, 0, 0]
    assert np.linalg.det(move.rotation) == 1
    assert np.allclose(render(transform(scene(), move), moved_camera(move)), render(scene(), CAMERA), atol=1e-5)


def test_flipping_is_half_a_turn_about_x_and_exact() -> None:
    original = scene()
    flipped = flip_yz(original)
    turned = transform(original, Similarity(np.diag([1.0, -1.0, -1.0]), np.zeros(3)))
    assert np.array_equal(flipped.means, turned.means)
    assert np.allclose(flipped.shN, turned.shN, atol=1e-6)
    for key, value in flip_yz(flipped).arrays().items():
        assert np.array_equal(value, original.arrays()[key]), key
    shapes = [
        np.einsum("nij,nj,nkj->nik", rotations(g.quats), np.exp(2 * g.scales.astype(np.float64)), rotations(g.quats))
        for g in (flipped, turned)
    ]
    assert np.allclose(*shapes, atol=2e-6)


def test_there_and_back() -> None:
    move = Similarity(random_rotation(1), np.array([1.0, -2.0, 3.0]), 3.0)
    back = transform(transform(scene(), move), move.inverse())
    for key, value in back.arrays().items():
        if key != "quats":
            assert np.allclose(value, scene().arrays()[key], atol=2e-5), key
    assert np.allclose(move.then(move.inverse()).matrix(), np.eye(4), atol=1e-12)
    assert np.allclose(Similarity.from_matrix(move.matrix()).matrix(), move.matrix())


def test_the_identity_keeps_the_bits() -> None:
    same = transform(scene(), Similarity.identity())
    assert all(np.array_equal(value, scene().arrays()[key]) for key, value in same.arrays().items())


def test_a_dataparsers_frame() -> None:
    """x_nerfstudio = scale (rotation x_dataset + shift)."""
    rotation, shift, scale = random_rotation(2), np.array([1.0, 2.0, 3.0]), 0.25
    move = Similarity.from_dataparser(np.column_stack([rotation, shift]), scale)
    points = np.random.default_rng(0).normal(0, 1, (5, 3))
    assert np.allclose(move.apply(points), scale * (points @ rotation.T + shift))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Similarity(np.diag([1.0, 1, -1]), np.zeros(3)), "mirrored"),
        (lambda: Similarity(np.diag([1.0, 2, 1]), np.zeros(3)), "scaled differently"),
        (lambda: Similarity(np.eye(3), np.zeros(3), 0.0), "positive scale"),
        (lambda: Similarity(np.eye(3), np.array([np.nan, 0, 0])), "finite translation"),
        (lambda: Similarity(np.eye(4), np.zeros(3)), r"rotation \(3, 3\)"),
        (lambda: Similarity.from_matrix(np.diag([2.0, 1, 1, 1])), "scaled differently"),
        (lambda: Similarity.from_matrix(np.diag([-1.0, 1, 1, 1])), "mirrored"),
        (lambda: Similarity.from_matrix(np.full((4, 4), np.inf)), "finite matrix"),
        (lambda: up_axis("x"), "one of z, y, -y, found 'x'"),  # type: ignore[arg-type]
    ],
)
def test_moves_that_gaussians_cannot_follow(make: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        make()


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_the_basis_is_orthonormal(degree: int) -> None:
    """On a lattice of directions the mean of Y_i Y_j over the sphere is 1 / (4 pi) or 0."""
    k = np.arange(20_000) + 0.5
    z, turn = 1 - 2 * k / len(k), math.pi * (1 + math.sqrt(5)) * k
    directions = np.stack([np.sqrt(1 - z * z) * np.cos(turn), np.sqrt(1 - z * z) * np.sin(turn), z], axis=1)
    basis = sh_basis(directions, degree)
    assert np.allclose(basis.T @ basis / len(k) * 4 * math.pi, np.eye(2 * degree + 1), atol=1e-3)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_turns_of_sh_are_a_group(degree: int) -> None:
    a, b = random_rotation(3), random_rotation(4)
    matrix = sh_rotation(a, degree)
    assert np.allclose(matrix @ matrix.T, np.eye(2 * degree + 1), atol=1e-12)
    assert np.allclose(sh_rotation(a @ b, degree), matrix @ sh_rotation(b, degree), atol=1e-12)


@pytest.mark.parametrize("turn", [0.0, 1.0, math.pi - 1e-9, math.pi])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_quaternions_of_matrices(axis: int, turn: float) -> None:
    quat = np.zeros((1, 4))
    quat[0, 0], quat[0, 1 + axis] = math.cos(turn / 2), math.sin(turn / 2)
    rotation = rotations(quat)[0]
    assert np.allclose(rotations(quat_of(rotation)[None])[0], rotation, atol=1e-9)
