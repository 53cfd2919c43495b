"""Photographs and cameras without lens distortion."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.datamanagers.full_images_datamanager import _undistort_image  # type: ignore[reportPrivateUsage]
from numpy.typing import NDArray

from splatkit_ns.plugin.data.checks import DataError

LENS = ("fx", "fy", "cx", "cy", "width", "height", "camera_type", "distortion_params")


def pinhole_cameras(stored: Cameras, paths: Sequence[Path]) -> Cameras:
    """The cameras (C,) of the photographs after `undistorted`; no photograph is read.

    Args:
        stored: the cameras of the files.
        paths: of the files, for messages.

    Raises:
        DataError: a lens cannot be undistorted.
    """
    cameras = deepcopy(stored)
    for name in LENS:
        value = getattr(cameras, name)
        setattr(cameras, name, None if value is None else value.clone())  # values given once for all share memory
    known: dict[tuple[float, ...], tuple[NDArray[Any], tuple[int, ...]]] = {}
    for index in range(len(stored)):
        camera = stored[index].reshape(())
        if not is_distorted(camera):
            continue
        key = tuple(float(value) for name in LENS for value in getattr(camera, name).flatten())
        if key not in known:
            blank = torch.zeros(int(camera.height), int(camera.width), 3, dtype=torch.uint8)
            matrix, image, _ = _undistorted(camera, {"image": blank}, paths[index])
            known[key] = matrix, image.shape
        pinhole, (height, width, _) = known[key]
        cameras.fx[index], cameras.fy[index] = float(pinhole[0, 0]), float(pinhole[1, 1])
        cameras.cx[index], cameras.cy[index] = float(pinhole[0, 2]), float(pinhole[1, 2])
        cameras.height[index], cameras.width[index] = height, width
    cameras.camera_type[:] = CameraType.PERSPECTIVE.value
    cameras.distortion_params = None
    return cameras


def undistorted(camera: Cameras, data: dict[str, Any], path: Path) -> dict[str, Any]:
    """A photograph, ``image`` (H, W, X), and its ``mask`` if it has one, as a pinhole camera sees them.

    Args:
        camera: that of the file, ().
        data: the photograph, and whatever belongs to it.
        path: of the file, for messages.

    Raises:
        DataError: the lens cannot be undistorted.
    """
    if not is_distorted(camera):
        return data
    _, image, mask = _undistorted(camera, data, path)
    masks = {} if mask is None else {"mask": mask}
    return {**data, "image": torch.from_numpy(image), **masks}


def is_distorted(camera: Cameras) -> bool:
    """Whether the lens of a camera has distortion."""
    return camera.distortion_params is not None and bool((camera.distortion_params != 0).any())


def _undistorted(camera: Cameras, data: dict[str, Any], path: Path) -> tuple[Any, Any, Any]:
    """The matrix K of the pinhole camera (3, 3), its image, and its mask or None."""
    assert camera.distortion_params is not None
    K, distortion = camera.get_intrinsics_matrices().numpy(), camera.distortion_params.numpy()
    try:
        if int(camera.camera_type) == CameraType.PERSPECTIVE.value and distortion[3] == 0:
            return _undistorted_perspective(K, distortion, data)
        return _undistort_image(camera, distortion, dict(data), data["image"].numpy(), K)
    except Exception as error:  # nerfstudio's assertions, and OpenCV's errors
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(
            f"The lens of the image {path}, {CameraType(int(camera.camera_type)).name.lower()} with the distortion "
            f"{np.round(distortion, 6).tolist()}, cannot be undistorted: {reason}. Correct the intrinsics of the data "
            "set, or undistort its images first, such as with colmap image_undistorter."
        ) from error


def _undistorted_perspective(K: NDArray[Any], distortion: NDArray[Any], data: dict[str, Any]) -> tuple[Any, Any, Any]:
    """What nerfstudio does, with all pixels that the photograph shows.

    OpenCV counts the distances between the pixels of a row, which are one less than the pixels.
    """
    image = data["image"].numpy()
    height, width = image.shape[:2]
    k1, k2, k3, _, p1, p2 = distortion
    coefficients = np.array([k1, k2, p1, p2, k3])
    stored = np.subtract(K, [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # the centre of OpenCV's first pixel is at 0
    new, (x, y, across, down) = cv2.getOptimalNewCameraMatrix(stored, coefficients, (width, height), 0)
    maps = cv2.initUndistortRectifyMap(stored, coefficients, np.eye(3), new, (width, height), cv2.CV_32FC1)
    kept = slice(y, min(y + down + 1, height)), slice(x, min(x + across + 1, width))

    def remapped(pixels: NDArray[Any]) -> NDArray[Any]:
        return cv2.remap(pixels, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[kept]

    mask = None
    if "mask" in data:
        values = data["mask"][..., 0].numpy().astype(np.uint8) * 255
        mask = torch.from_numpy(np.ascontiguousarray(remapped(values))).bool()[..., None]
    new = np.add(new, [[0, 0, 0.5 - x], [0, 0, 0.5 - y], [0, 0, 0]])
    return new, np.ascontiguousarray(remapped(image)), mask
