"""Photographs without lens distortion: each pixel comes from where the lens put it, and none is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.data.undistorting import pinhole_cameras, undistorted

PATHS = [Path("a.png"), Path("b.png")]


def camera(*distortion: float) -> Cameras:
    """Two cameras with k1, k2, k3, k4, p1, p2."""
    poses = torch.eye(4)[None, :3].repeat(2, 1, 1)
    parameters = torch.tensor([distortion, [0.0] * 6])
    return Cameras(poses, fx=55.0, fy=50.0, cx=48.0, cy=36.0, width=96, height=72, distortion_params=parameters)


def coordinates() -> torch.Tensor:
    """An image whose colours are x and y in pixels."""
    y, x = torch.meshgrid(torch.arange(72) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)], dim=-1)


def test_pixels_come_from_where_the_lens_put_them() -> None:
    k1, k2, k3, p1, p2 = -0.35, 0.12, -0.02, 0.003, -0.002
    stored = camera(k1, k2, k3, 0.0, p1, p2)
    mask = torch.ones(72, 96, 1, dtype=torch.bool)
    mask[:, 50:] = False
    data = undistorted(stored[0].reshape(()), {"image": coordinates(), "mask": mask}, PATHS[0])
    pinholes = pinhole_cameras(stored, PATHS)
    K = pinholes.get_intrinsics_matrices()[0].double().numpy()
    height, width = data["image"].shape[:2]
    assert (width, height) == (int(pinholes.width[0]), int(pinholes.height[0]))
    y, x = np.mgrid[:height, :width] + 0.5
    u, v = (x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1]
    r2 = u * u + v * v
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    expected_x = 55 * (u * radial + 2 * p1 * u * v + p2 * (r2 + 2 * u * u)) + 48
    expected_y = 50 * (v * radial + p1 * (r2 + 2 * v * v) + 2 * p2 * u * v) + 36
    found = data["image"].numpy()
    inside = (expected_x > 0.5) & (expected_x < 95.5) & (expected_y > 0.5) & (expected_y < 71.5)
    assert inside.mean() > 0.97
    assert np.abs(found[..., 0] - expected_x)[inside].max() < 0.1  # OpenCV interpolates in steps of 1 / 32
    assert np.abs(found[..., 1] - expected_y)[inside].max() < 0.1
    assert (data["mask"][..., 0].numpy() == (expected_x < 50))[np.abs(expected_x - 50) > 1].all()


def test_a_lens_that_bends_to_the_middle_loses_no_pixel() -> None:
    stored = camera(-0.35, 0.12, -0.02, 0.0, 0.0, 0.0)
    pinholes = pinhole_cameras(stored, PATHS)
    assert pinholes.width.flatten().tolist() == [96, 96]
    assert pinholes.height.flatten().tolist() == [72, 72]
    assert pinholes.cx.flatten().tolist() == pytest.approx([48, 48], abs=0.02)
    assert pinholes.distortion_params is None
    assert stored.distortion_params is not None
    assert float(stored.distortion_params[0, 0]) == pytest.approx(-0.35), "those of the files stay"


def test_the_cameras_of_fisheyes_are_pinholes_afterwards() -> None:
    """Renders outside training would be fisheye pictures otherwise."""
    stored = camera(-0.02, 0.003, 0.0, 0.0, 0.0, 0.0)
    stored.camera_type = torch.full_like(stored.camera_type, CameraType.FISHEYE.value)
    pinholes = pinhole_cameras(stored, PATHS)
    assert set(pinholes.camera_type.flatten().tolist()) == {CameraType.PERSPECTIVE.value}
    assert float(pinholes.fx[0]) != 55.0
    assert float(pinholes.fx[1]) == 55.0


def test_a_lens_that_cannot_be_undistorted_is_told() -> None:
    with pytest.raises(SplatkitError, match=r"lens of the image a.png, perspective with .*4th Brown.*undistort its im"):
        pinhole_cameras(camera(0.1, 0.0, 0.0, 0.01, 0.0, 0.0), PATHS)
