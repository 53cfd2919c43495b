"""Photographs of any lens turned into those of pinhole cameras, for which Gaussians are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.datamanagers.full_images_datamanager import _undistort_image  # type: ignore[reportPrivateUsage]
from numpy.typing import NDArray

from splatkit_ns.plugin.data.cameras import have_distortion
from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.data.photographs.lenses import UNDISTORT
from splatkit_ns.plugin.reporting.console import report_once

Doubles = NDArray[np.float64]
Maps = tuple[NDArray[np.float32], NDArray[np.float32]]
LensKey = tuple[float, ...]

EDGE_POINTS = 9
"""The number of points along an edge of the photograph that tell where its undistorted content ends; as in OpenCV."""
NEWTON_STEPS = 50
WIDEST = 22.9
"""The tangent of half the widest field of view, 175°."""


@dataclass(frozen=True)
class Pinhole:
    """The camera that an undistorted photograph has."""

    K: Doubles
    """(3, 3), the centre of the first pixel at 0.5."""
    width: int
    height: int


def is_distorted(camera: Cameras) -> bool:
    """Whether the photographs of a single camera, (), are not those of a pinhole camera."""
    return bool(have_distortion(camera)) or int(camera.camera_type) != CameraType.PERSPECTIVE.value


def pinhole_cameras(stored: Cameras, paths: Sequence[Path]) -> Cameras:
    """The cameras (C,) that the photographs have once they are undistorted.

    Raises:
        DataError: a lens cannot be undistorted.
    """
    cameras = deepcopy(stored)
    for name in ("fx", "fy", "cx", "cy", "width", "height", "camera_type", "distortion_params"):
        value = getattr(cameras, name)
        setattr(cameras, name, None if value is None else value.clone())  # those given once for all share memory
    known: dict[LensKey, Pinhole] = {}
    lenses: dict[Path, Cameras] = {}
    for index, key in enumerate(lens_keys(stored)):
        if key is None:
            continue
        if key not in known:
            camera = stored[index].reshape(())
            known[key] = pinhole_of(camera, paths[index])
            if int(camera.camera_type) == CameraType.PERSPECTIVE.value:
                lenses[paths[index]] = camera
        pinhole = known[key]
        cameras.fx[index], cameras.fy[index] = float(pinhole.K[0, 0]), float(pinhole.K[1, 1])
        cameras.cx[index], cameras.cy[index] = float(pinhole.K[0, 2]), float(pinhole.K[1, 2])
        cameras.width[index], cameras.height[index] = pinhole.width, pinhole.height
        cameras.camera_type[index] = CameraType.PERSPECTIVE.value
        if cameras.distortion_params is not None:
            cameras.distortion_params[index] = 0
    _note_unreached(lenses)
    return cameras


def check_lenses(stored: Cameras, paths: Sequence[Path]) -> None:
    """Check that photographs can be trained on as they are.

    Raises:
        DataError: a lens has no model with which Gaussians can be drawn.
    """
    for kind, path in zip(stored.camera_type.flatten().tolist(), paths, strict=True):
        if kind not in (CameraType.PERSPECTIVE.value, CameraType.FISHEYE.value):
            raise DataError(
                f"The lens of {path} is of the type {CameraType(kind).name.lower()}, through which Gaussians cannot be "
                "drawn: --pipeline.datamanager.undistort True undistorts its photographs."
            )


def lens_keys(stored: Cameras) -> list[LensKey | None]:
    """The numbers of each camera's lens (C,), equal for equal lenses; None for a pinhole camera."""
    columns = [stored.fx, stored.fy, stored.cx, stored.cy, stored.width, stored.height, stored.camera_type]
    bent = (stored.camera_type != CameraType.PERSPECTIVE.value).flatten() | have_distortion(stored)
    if stored.distortion_params is not None:
        columns.append(stored.distortion_params)
    rows = torch.cat([column.double().flatten(1) for column in columns], 1).tolist()
    return [tuple(row) if is_bent else None for row, is_bent in zip(rows, bent.tolist(), strict=True)]


def pinhole_of(camera: Cameras, path: Path) -> Pinhole:
    """The pinhole camera for the photographs of a single camera, (), that has a lens.

    Raises:
        DataError: the lens cannot be undistorted.
    """
    kind = CameraType(int(camera.camera_type))
    try:
        if kind is CameraType.FISHEYE:
            found = _pinhole_of_fisheye(camera)
        elif kind is CameraType.PERSPECTIVE:
            distortion = _coefficients(camera)
            found = _pinhole_of_polynomial(camera, distortion) if distortion[3] else _pinhole_of_opencv(camera)
        else:
            image = np.zeros((int(camera.height), int(camera.width)), np.uint8)
            K, image, _ = undistorted_fisheye624(camera, image)
            found = Pinhole(K, image.shape[1], image.shape[0])
    except (AssertionError, cv2.error) as error:
        raise unusable_lens(camera, path, str(error)) from error
    if not np.isfinite(found.K).all() or min(found.K[0, 0], found.K[1, 1], found.width, found.height) <= 0:
        raise unusable_lens(camera, path, "no part of the picture has a place in a pinhole camera")
    if max(found.width / found.K[0, 0], found.height / found.K[1, 1]) > 2 * WIDEST:
        raise unusable_lens(camera, path, "it sees half of all directions or more, which no pinhole camera does")
    return found


def unusable_lens(camera: Cameras, path: Path, reason: str) -> DataError:
    """The error for a lens that cannot be undistorted."""
    kind = CameraType(int(camera.camera_type)).name.lower()
    if kind == "fisheye624":
        reason = "it needs 'fisheye_crop_radius', a number of pixels, at the top of transforms.json, and no masks"
    distortion = [] if camera.distortion_params is None else camera.distortion_params.tolist()
    return DataError(
        f"The lens of {path} ({kind}, distortion {distortion}) cannot be undistorted: "
        f"{' '.join(reason.split()).rstrip('.')}. Correct the intrinsics of the data set, or: {UNDISTORT}"
    )


def _coefficients(camera: Cameras) -> Doubles:
    """The nine coefficients of a perspective lens, in the order of `lenses.COEFFICIENTS` and `lenses.DENOMINATORS`."""
    found = np.zeros(9)
    distortion = camera.distortion_params
    values = np.zeros(0) if distortion is None else distortion.double().cpu().numpy().reshape(-1)[:9]
    found[: len(values)] = values
    return found


def _for_opencv(distortion: Doubles) -> Doubles:
    k1, k2, k3, _, p1, p2, k4, k5, k6 = distortion
    return np.array([k1, k2, p1, p2, k3, k4, k5, k6])


def opencv_matrix(camera: Cameras) -> Doubles:
    """K, (3, 3), as OpenCV has it: the centre of the first pixel is at 0, not 0.5."""
    K = camera.get_intrinsics_matrices().double().cpu().numpy().reshape(3, 3).copy()
    K[:2, 2] -= 0.5
    return K


def _pinhole_of_opencv(camera: Cameras) -> Pinhole:
    size = int(camera.width), int(camera.height)
    K, (x, y, across, down) = cv2.getOptimalNewCameraMatrix(
        opencv_matrix(camera), _for_opencv(_coefficients(camera)), size, 0
    )
    kept = min(across + 1, size[0] - x), min(down + 1, size[1] - y)  # OpenCV counts the steps from pixel to pixel
    return _shifted(np.asarray(K, np.float64), (x, y), kept)


def _shifted(matrix: Doubles, corner: tuple[int, int], size: tuple[int, int]) -> Pinhole:
    """The camera of a part of a picture, from OpenCV's matrix of the whole."""
    moved = matrix.copy()
    moved[:2, 2] += 0.5 - np.array(corner)
    return Pinhole(moved, *size)


def _pinhole_of_fisheye(camera: Cameras) -> Pinhole:
    size = int(camera.width), int(camera.height)
    distortion = _fisheye_coefficients(camera)
    K = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(
        opencv_matrix(camera), distortion, size, np.eye(3), balance=0
    )
    return _shifted(np.asarray(K, np.float64), (0, 0), size)


def _fisheye_coefficients(camera: Cameras) -> Doubles:
    found = np.zeros(4)
    if camera.distortion_params is not None:
        found[:] = camera.distortion_params.double().cpu().numpy().reshape(-1)[:4]
    return found


def distort(x: Doubles, y: Doubles, distortion: Doubles) -> tuple[Doubles, Doubles]:
    """The place on the sensor of rays through (x, y) at depth 1, behind a perspective lens of nine coefficients."""
    k1, k2, k3, k4, p1, p2, d1, d2, d3 = distortion
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
    radial = radial / (1 + r2 * (d1 + r2 * (d2 + r2 * d3)))
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y),
    )


def _pinhole_of_polynomial(camera: Cameras, distortion: Doubles) -> Pinhole:
    """A lens with a fourth radial term, which OpenCV does not have; the largest rectangle without empty pixels."""
    width, height = int(camera.width), int(camera.height)
    x, y = _undistort_points(*_grid(camera), distortion)
    left, right, top, bottom = x[:, 0].max(), x[:, -1].min(), y[0].max(), y[-1].min()
    new = np.eye(3)
    new[0, 0], new[1, 1] = (width - 1) / (right - left), (height - 1) / (bottom - top)
    new[0, 2], new[1, 2] = -new[0, 0] * left, -new[1, 1] * top
    return _shifted(new, (0, 0), (width, height))


def _grid(camera: Cameras) -> tuple[Doubles, Doubles]:
    """`EDGE_POINTS` × `EDGE_POINTS` places on the sensor, from edge to edge of a photograph."""
    K = opencv_matrix(camera)
    across, down = (np.linspace(0, int(side) - 1, EDGE_POINTS) for side in (camera.width, camera.height))
    u, v = np.meshgrid(across, down)
    return (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]


def _unreached_shares(cameras: Sequence[Cameras]) -> list[float]:
    """The share of each perspective camera's photograph that no ray reaches, since the lens turns back before.

    All are computed together: data sets may have a lens for each photograph.
    """
    if not cameras:
        return []
    x, y = np.stack([_grid(camera) for camera in cameras], axis=1)
    distortions = np.stack([_coefficients(camera) for camera in cameras], axis=1)[..., None, None]
    return np.isnan(_undistort_points(x, y, distortions)[0]).mean(axis=(1, 2)).tolist()


def _note_unreached(lenses: Mapping[Path, Cameras]) -> None:
    """Print a note of the perspective lenses that turn back within the picture, by a photograph of each."""
    shares = dict(zip(lenses, _unreached_shares(list(lenses.values())), strict=True))
    wrong = [path for path, share in shares.items() if share > 0]
    if wrong:
        report_once(
            f"The distortion of {len(wrong)} lens(es) is hardly right, the first is that of {wrong[0]}: by it, no ray "
            f"reaches {shares[wrong[0]]:.0%} of the picture, and the undistorted photograph is bent wrongly. "
            "Calibrations end there with few photographs, or with a camera for each: let all share one, or set the "
            "distortion to 0 if straight lines are straight in the photographs."
        )


def _undistort_points(x: Doubles, y: Doubles, distortion: Doubles) -> tuple[Doubles, Doubles]:
    """The rays through places on the sensor, by Newton's method; NaN where the lens has no such ray."""
    u, v, step = x.copy(), y.copy(), 1e-6
    determinant = np.ones_like(x)
    with np.errstate(all="ignore"):
        for _ in range(NEWTON_STEPS):
            at, right, below = (distort(u + du, v + dv, distortion) for du, dv in ((0, 0), (step, 0), (0, step)))
            a, c = (right[0] - at[0]) / step, (right[1] - at[1]) / step
            b, d = (below[0] - at[0]) / step, (below[1] - at[1]) / step
            error_x, error_y = x - at[0], y - at[1]
            determinant = a * d - b * c
            u = u + (d * error_x - b * error_y) / determinant
            v = v + (a * error_y - c * error_x) / determinant
        found = distort(u, v, distortion)
        right_ones = (np.hypot(found[0] - x, found[1] - y) < 1e-7) & (determinant > 0)
    return np.where(right_ones, u, np.nan), np.where(right_ones, v, np.nan)


def undistortion_maps(stored: Cameras, pinhole: Pinhole) -> Maps:
    """The place in the stored photograph of each pixel of the pinhole camera: x and y, (H, W), for `cv2.remap`.

    Args:
        stored: a single camera, (), perspective or fisheye.
        pinhole: see `pinhole_of`.
    """
    K, new, size = opencv_matrix(stored), pinhole.K.copy(), (pinhole.width, pinhole.height)
    new[:2, 2] -= 0.5
    if int(stored.camera_type) == CameraType.FISHEYE.value:
        x, y = cv2.fisheye.initUndistortRectifyMap(K, _fisheye_coefficients(stored), np.eye(3), new, size, cv2.CV_32FC1)
        return np.asarray(x, np.float32), np.asarray(y, np.float32)
    distortion = _coefficients(stored)
    if not distortion[3]:
        x, y = cv2.initUndistortRectifyMap(K, _for_opencv(distortion), np.eye(3), new, size, cv2.CV_32FC1)
        return np.asarray(x, np.float32), np.asarray(y, np.float32)
    u, v = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    x, y = distort((u - new[0, 2]) / new[0, 0], (v - new[1, 2]) / new[1, 1], distortion)
    return (x * K[0, 0] + K[0, 2]).astype(np.float32), (y * K[1, 1] + K[1, 2]).astype(np.float32)


def undistorted_fisheye624(camera: Cameras, image: NDArray[Any]) -> tuple[Doubles, NDArray[Any], Any]:
    """K of the pinhole camera, a photograph (H, W, …) as it has taken it, and its mask.

    Raises:
        AssertionError: the lens cannot be undistorted.
    """
    distortion = camera.distortion_params
    assert distortion is not None, "it has no distortion parameters"
    intrinsics = camera.get_intrinsics_matrices().numpy()
    found, pixels, mask = _undistort_image(camera, distortion.numpy(), {}, image, intrinsics)
    return np.asarray(found, np.float64), pixels, mask
