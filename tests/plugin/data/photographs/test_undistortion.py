"""Photographs of lenses turned into those of pinhole cameras, against projections by OpenCV and by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from PIL import Image

from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.data.photographs import remapping
from splatkit_ns.plugin.data.photographs.remapping import Undistorter
from splatkit_ns.plugin.data.photographs.undistortion import pinhole_cameras, pinhole_of, undistortion_maps
from splatkit_ns.plugin.reporting.console import collected_notes
from tests.plugin.data.broken_data import changed_copy, in_json
from tests.plugin.helpers import make_pipeline

WIDTH, HEIGHT, FOCAL = 64, 48, 40.0
PATH = Path("picture.png")
FULL = (0.1, 0.02, 0.005, 0, 0.001, -0.002, 0.3, 0.02, 0.001)
QUARTIC = (-0.1, 0.02, 0.003, 0.004, 0.001, 0.002)


def camera(distortion: Any, kind: CameraType = CameraType.PERSPECTIVE, focal: float = FOCAL) -> Any:
    params = None if distortion is None else torch.tensor([distortion], dtype=torch.float32)
    size = torch.tensor([[WIDTH]]), torch.tensor([[HEIGHT]])
    values = (torch.tensor([[value]]) for value in (focal, focal + 1, WIDTH / 2 + 1.5, HEIGHT / 2 - 2))
    return Cameras(torch.eye(4)[None, :3], *values, *size, distortion_params=params, camera_type=kind)


def rays_of_pinhole(pinhole: Any) -> tuple[Any, Any]:
    """Through the pixels' centres, at depth 1."""
    u, v = np.meshgrid(np.arange(pinhole.width) + 0.5, np.arange(pinhole.height) + 0.5)
    return (u - pinhole.K[0, 2]) / pinhole.K[0, 0], (v - pinhole.K[1, 2]) / pinhole.K[1, 1]


def projected(cameras: Any, x: Any, y: Any) -> Any:
    """Where the lens puts points (x, y, 1), in pixels, the centre of the first at 0.5."""
    K = cameras.get_intrinsics_matrices()[0].double().numpy()
    points = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 1, 3).astype(np.float64)
    params = cameras.distortion_params[0].double().numpy()
    if int(cameras.camera_type) == CameraType.FISHEYE.value:
        found = cv2.fisheye.projectPoints(points, np.zeros(3), np.zeros(3), K, params[:4])[0]
    elif params[3] == 0:
        k1, k2, k3, _, p1, p2, *rest = params
        opencv = np.array([k1, k2, p1, p2, k3, *rest])
        found = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, opencv)[0]
    else:
        k1, k2, k3, k4, p1, p2 = params
        r2 = x**2 + y**2
        factor = np.polynomial.Polynomial([1, k1, k2, k3, k4])(r2)
        u = x * factor + 2 * p1 * x * y + p2 * (r2 + 2 * x**2)
        v = y * factor + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
        found = np.stack([u * K[0, 0] + K[0, 2], v * K[1, 1] + K[1, 2]], -1)
    return found.reshape(*x.shape, 2)


@pytest.mark.parametrize(
    ("distortion", "kind"),
    [
        (QUARTIC, CameraType.PERSPECTIVE),
        ((0.2, -0.05, 0.01, 0.02, 0, 0), CameraType.PERSPECTIVE),
        ((-0.2, 0.03, 0, 0, 0.002, 0.001), CameraType.PERSPECTIVE),
        (FULL, CameraType.PERSPECTIVE),
        ((-0.02, 0.004, -0.001, 0.0005, 0, 0), CameraType.FISHEYE),
        ((0.0,) * 6, CameraType.FISHEYE),
    ],
    ids=["k4", "pincushion k4", "opencv", "full opencv", "fisheye", "ideal fisheye"],
)
def test_each_pixel_comes_from_where_the_lens_puts_its_ray(distortion: Any, kind: CameraType) -> None:
    stored = camera(distortion, kind)
    pinhole = pinhole_of(stored[0], PATH)
    maps = np.stack(undistortion_maps(stored[0], pinhole), -1)
    expected = projected(stored, *rays_of_pinhole(pinhole))
    np.testing.assert_allclose(maps + 0.5, expected, atol=2e-3)
    found = pinhole_cameras(stored, [PATH])
    assert int(found.camera_type) == CameraType.PERSPECTIVE.value
    assert not found.distortion_params.any()
    K = found.get_intrinsics_matrices()[0].numpy()
    np.testing.assert_allclose(K, pinhole.K, rtol=1e-6)
    assert (int(found.width), int(found.height)) == (pinhole.width, pinhole.height)
    if kind is CameraType.PERSPECTIVE:
        assert (pinhole.width, pinhole.height) == (WIDTH, HEIGHT), "nor is a row or column lost"
        assert (maps > -0.6).all(), "the picture is full"
        assert (maps < np.array([WIDTH, HEIGHT]) - 0.4).all()


def test_a_smooth_picture_through_a_lens_with_k4_looks_as_through_a_pinhole() -> None:
    stored = camera(QUARTIC)
    x, y = np.meshgrid(np.linspace(-1.2, 1.2, 150), np.linspace(-1, 1, 120))
    target = projected(stored, x, y).reshape(-1, 2) - 0.5
    colors = np.stack([np.sin(2 * x), np.cos(3 * y), np.sin(x - y)], -1).reshape(-1, 3)
    from scipy.interpolate import griddata

    u, v = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    image = griddata(target, colors, (u, v)).astype(np.float32)
    pinhole = pinhole_of(stored[0], PATH)
    found, mask = Undistorter(stored, [PATH])(0, torch.from_numpy(image), None)
    x, y = rays_of_pinhole(pinhole)
    np.testing.assert_allclose(found, np.stack([np.sin(2 * x), np.cos(3 * y), np.sin(x - y)], -1), atol=5e-3)
    assert mask is None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_hidden_colours_do_not_bleed_into_what_is_seen(dtype: Any) -> None:
    stored = camera(QUARTIC)
    image = torch.zeros(HEIGHT, WIDTH, 4)
    image[:, : WIDTH // 2] = torch.tensor([200.0, 100.0, 50.0, 255.0])
    hidden = image.clone()
    hidden[:, WIDTH // 2 :, :3] = torch.tensor([0.0, 255.0, 0.0])
    images = [pixels.to(dtype) if dtype == torch.uint8 else pixels / 255 for pixels in (image, hidden)]
    found, other = (Undistorter(stored, [PATH])(0, pixels, None)[0] for pixels in images)
    assert found.dtype == dtype
    assert torch.equal(found, other)
    seen = found[found[..., 3] > 0][:, :3].float() / (255 if dtype == torch.uint8 else 1) * 255
    torch.testing.assert_close(seen, torch.tensor([[200.0, 100.0, 50.0]]).expand_as(seen), atol=0.6, rtol=0)
    assert ((found[..., 3] > 0) & (found[..., 3] < (255 if dtype == torch.uint8 else 1))).any(), "an edge is blended"


def test_a_blended_pixel_counts_only_if_all_that_it_blends_do() -> None:
    stored = camera(QUARTIC)
    mask = torch.ones(HEIGHT, WIDTH, 1, dtype=torch.bool)
    mask[10:20, 30:33] = False
    image = torch.zeros(HEIGHT, WIDTH, 3)
    image[~mask[..., 0]] = 1.0
    pixels, valid = Undistorter(stored, [PATH])(0, image, mask)
    assert valid is not None
    assert valid.shape == (*pixels.shape[:2], 1)
    assert not pixels[valid[..., 0]].any(), "no paint is left"
    assert 0.95 < float(valid.float().mean()) < 1


@pytest.mark.parametrize("kept", [0, 30_000, 10**9])
def test_lenses_that_photographs_share_are_computed_once(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as memory for them goes, and without another result."""
    cameras = [camera(QUARTIC), camera(FULL[:6]), camera(QUARTIC), camera(FULL[:6]), camera((0.1, 0, 0, 0, 0, 0))]
    stored = Cameras(
        torch.eye(4)[None, :3].repeat(5, 1, 1),
        *(torch.cat([getattr(each, name) for each in cameras]) for name in ("fx", "fy", "cx", "cy", "width", "height")),
        distortion_params=torch.cat([each.distortion_params for each in cameras]),
        camera_type=CameraType.PERSPECTIVE,
    )
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    expected = [Undistorter(each, [PATH])(0, image, None)[0] for each in cameras]
    made: list[int] = []
    real = remapping.undistortion_maps
    monkeypatch.setattr(remapping, "undistortion_maps", lambda *given: made.append(1) or real(*given))
    undistort = Undistorter(stored, [PATH] * 5, kept)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda number: undistort(number % 5, image, None)[0], range(15)))
    assert all(torch.equal(pixels, expected[number % 5]) for number, pixels in enumerate(found))

    assert len(made) == {0: 15, 30_000: 1 + 6 + 3, 10**9: 1 + 1 + 3}[kept]


@pytest.mark.parametrize(
    ("distortion", "kind", "focal", "reason"),
    [
        ((-2.0, 0, 0, 0.001, 0, 0), CameraType.PERSPECTIVE, FOCAL, "no part of the picture has a place"),
        ((0.0,) * 6, CameraType.FISHEYE, 20.0, "half of all directions"),
        ((0.0,) * 12, CameraType.FISHEYE624, FOCAL, "needs 'fisheye_crop_radius'"),
    ],
)
def test_a_lens_that_cannot_be_undone_is_told(distortion: Any, kind: CameraType, focal: float, reason: str) -> None:
    with pytest.raises(DataError, match=f"The lens of {PATH} .*{reason}.*colmap image_undistorter"):
        pinhole_cameras(camera(distortion, kind, focal), [PATH])


@pytest.mark.parametrize(
    ("distortion", "noted"),
    [((-0.1, 0, 0, 0, 0, 0), False), ((-2.0, 0, 0, 0, 0, 0), True), ((0, 0, 0, 0, 0.2, 0.2), True)],
)
def test_a_lens_that_turns_back_within_the_picture_is_noted(distortion: Any, noted: bool) -> None:
    """As programs calibrate it from too few photographs; OpenCV then undistorts to something."""
    stored = camera(distortion)
    with collected_notes() as notes:
        pinhole_cameras(stored, [PATH])
    assert [f"the first is that of {PATH}: by it, no ray reaches" in note for note in notes] == [True] * noted


def test_cameras_of_a_run_are_pinholes_before_any_image_is_read(scenes: dict[str, Path], tmp_path: Path) -> None:
    data = changed_copy(scenes["nerfstudio"], tmp_path, in_json(lambda meta: meta.update(k1=-0.1, k4=0.01)))
    manager = make_pipeline(data).datamanager
    before = manager.train_dataset.cameras
    assert not before.distortion_params.any()
    batch = manager.cached_train[0]
    assert manager.train_dataset.cameras is before
    assert batch["image"].shape[:2] == (int(before.height[0]), int(before.width[0]))
    again = manager.train_dataset.get_data(0, "uint8")
    assert torch.equal(again["image"], batch["image"]), "looking twice undistorts once"
    raw = np.asarray(Image.open(manager.train_dataset.image_filenames[0]))
    assert np.array_equal(manager.train_dataset.get_numpy_image(0), raw)
