"""Cameras as the renderers want them, against nerfstudio's own rays."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.data.cameras import camera_extent, lens_view, opencv_cam_to_worlds, pinhole_view
from splatkit_ns.renderer import Splat3DGSRenderer
from splatkit_ns.renderer.wide_lenses import pixel_directions
from splatkit_ns.splat import SplatTrainingState
from tests.tiny_scene import orbit_poses


def cameras(count: int = 3) -> Cameras:
    poses = torch.from_numpy(orbit_poses(count)).float()
    return Cameras(poses[:, :3], fx=60.0, fy=50.0, cx=17.0, cy=11.0, width=32, height=24)


@pytest.mark.parametrize("pixel", [(0, 0), (20, 5), (23, 31)])
def test_a_point_on_nerfstudios_ray_is_drawn_at_that_rays_pixel(pixel: tuple[int, int]) -> None:
    """Row and column of the pixel; nerfstudio's ray goes through its centre."""
    row, column = pixel
    camera = cameras()[1:2]
    coordinates = torch.tensor([row + 0.5, column + 0.5])
    ray = camera.generate_rays(camera_indices=0, coords=coordinates)
    point = ray.origins + 2.5 * ray.directions
    state = SplatTrainingState.from_points(point.reshape(1, 3), sh_degree=0)
    view = pinhole_view(camera)
    out = Splat3DGSRenderer().render(state, view)
    assert out.means2d[0, 0].tolist() == pytest.approx([column + 0.5, row + 0.5], abs=1e-3)


@pytest.mark.parametrize("kind", ["FISHEYE", "EQUIRECTANGULAR", "VR180_L", "VR180_R"])
def test_wide_views_have_nerfstudios_rays(kind: str) -> None:
    """The cameras of a path, whose intrinsics nerfstudio sets so."""
    poses = torch.from_numpy(orbit_poses(3)).float()[1:2, :3]
    focal = {"fx": 20.0, "fy": 20.0} if kind == "FISHEYE" else {"fx": 16.0, "fy": 24.0}
    camera = Cameras(poses, **focal, cx=16.0, cy=12.0, width=32, height=24, camera_type=getattr(CameraType, kind))
    rays = camera.generate_rays(camera_indices=0, keep_shape=True)
    view = lens_view(camera)
    directions = pixel_directions(view) @ view.cam_to_worlds[0, :3, :3].T
    torch.testing.assert_close(directions, rays.directions, atol=1e-4, rtol=0)
    torch.testing.assert_close(view.cam_to_worlds[0, :3, 3].expand(24, 32, 3), rays.origins, atol=1e-5, rtol=0)
    assert (view.cam_to_worlds[0, :3, 3] - poses[0, :, 3]).norm() == pytest.approx(
        0.032 * kind.startswith("VR"), abs=1e-5
    )


@pytest.mark.parametrize("kind", ["ORTHOPHOTO", "OMNIDIRECTIONALSTEREO_R"])
def test_cameras_whose_rays_start_at_many_points_are_refused(kind: str) -> None:
    camera = Cameras(
        cameras(1).camera_to_worlds, fx=1.0, fy=1.0, cx=1.0, cy=1.0, width=2, height=2,
        camera_type=getattr(CameraType, kind),
    )  # fmt: skip
    with pytest.raises(SplatkitError, match=f"type {kind.lower()} cannot be drawn"):
        lens_view(camera)


def test_axes_are_turned_from_opengl_to_opencv() -> None:
    poses = torch.eye(4)[None, :3]
    turned = opencv_cam_to_worlds(poses)[0]
    assert turned.shape == (4, 4)
    assert (turned @ torch.tensor([0.0, 1.0, 0.0, 0.0])).tolist() == [0, -1, 0, 0], "OpenCV's y points down"
    assert (turned @ torch.tensor([0.0, 0.0, 1.0, 0.0])).tolist() == [0, 0, -1, 0], "and z forward"


def test_turning_axes_uploads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With corrected poses this is done at every step, and a GPU would have to be waited for."""
    poses = cameras().camera_to_worlds
    expected = torch.cat([poses * torch.tensor([1.0, -1, -1, 1]), torch.tensor([[[0.0, 0, 0, 1]]] * 3)], dim=1)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("made of Python numbers")

    monkeypatch.setattr(torch.Tensor, "new_tensor", refuse)
    monkeypatch.setattr(torch, "tensor", refuse)
    assert torch.equal(opencv_cam_to_worlds(poses), expected)


def test_the_pose_stays_differentiable() -> None:
    poses = cameras().camera_to_worlds.clone().requires_grad_()
    opencv_cam_to_worlds(poses).sum().backward()
    assert poses.grad is not None


def test_downscaling_divides_size_and_intrinsics() -> None:
    view = pinhole_view(cameras()[0:1]).smaller(4)
    assert (view.width, view.height) == (8, 6)
    assert view.Ks[0].tolist() == [[15.0, 0.0, 4.25], [0.0, 12.5, 2.75], [0.0, 0.0, 1.0]]


def test_downscaling_keeps_a_point_at_its_place_in_the_picture() -> None:
    state = SplatTrainingState.from_points(torch.tensor([[0.3, -0.2, 0.1]]), sh_degree=0)
    places = []
    for downscale in (1, 4):
        view = pinhole_view(cameras()[0:1]).smaller(downscale)
        out = Splat3DGSRenderer().render(state, view)
        places.append((out.means2d[0, 0] * downscale).tolist())
    assert places[0] == pytest.approx(places[1], abs=1e-3)


def test_the_extent_is_the_radius_of_the_cameras() -> None:
    poses = torch.eye(4)[None, :3].repeat(4, 1, 1)
    poses[:, :, 3] = torch.tensor([[2.0, 0, 0], [-2.0, 0, 0], [0, 1.0, 0], [0, -1.0, 0]])
    made = Cameras(poses, fx=1.0, fy=1.0, cx=1.0, cy=1.0, width=2, height=2)
    assert camera_extent(made) == pytest.approx(2.2)
    assert camera_extent(made[0:1]) == 0.0
