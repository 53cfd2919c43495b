"""Camera paths that nerfstudio's viewer saves."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from splatkit_ns.cameras import LensModel, View, fov_intrinsics
from splatkit_ns.errors import SplatkitError
from splatkit_ns.image_files import SPEEDS

_LENSES: dict[str, LensModel] = {
    "perspective": "pinhole",
    "fisheye": "opencv_fisheye",
    "equirectangular": "equirectangular",
}
"""Camera types of nerfstudio's viewer that can be drawn here."""
_TOLERANCE = 1e-2
"""The largest error of a rotation matrix's scalar products."""
MOST_PIXELS = 2**28
"""The most pixels of an image."""


@dataclass(frozen=True)
class Crop:
    """A box outside of which nothing is drawn."""

    centre: Tensor
    """(3,)"""
    rotation: Tensor
    """(3, 3), the columns are the box's axes."""
    size: Tensor
    """(3,), the lengths of its sides."""
    background: tuple[float, float, float]
    """The colour around it, in [0, 1]."""

    def inside(self, means: Tensor) -> Tensor:
        """The Gaussians whose centres (N, 3) lie in the box: (N,) bool."""
        offsets = (means - self.centre.to(means)) @ self.rotation.to(means)
        return (offsets.abs() < self.size.to(means) / 2).all(dim=1)


@dataclass(frozen=True)
class CameraPath:
    """The cameras of a video."""

    views: list[View]
    fps: float
    crop: Crop | None


def read_camera_path(path: Path) -> CameraPath:
    """Read a camera path, in the frame of training.

    Raises:
        SplatkitError: the file cannot be read, is no camera path, or wants cameras that cannot be drawn.
    """
    try:
        content: Any = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SplatkitError(f"--camera-path: {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise SplatkitError(f"--camera-path: {path} is no JSON file ({error}).") from error
    try:
        kind = content.get("camera_type", "perspective")
    except AttributeError:
        raise SplatkitError(f"--camera-path: {path} holds no camera path of nerfstudio's viewer.") from None
    if not isinstance(kind, str) or kind not in _LENSES:
        raise SplatkitError(
            f"--camera-path: {path} is for the camera type {kind!r}, splatkit render draws {', '.join(_LENSES)}. Save "
            "the path with one of these types."
        )
    try:
        return _parsed(content, _LENSES[kind])
    except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise SplatkitError(
            f"--camera-path: {path} is no camera path of nerfstudio's viewer, or is damaged: {reason}."
        ) from error


def _parsed(content: dict[str, Any], lens: LensModel) -> CameraPath:
    width, height = (int(content[f"render_{side}"]) for side in ("width", "height"))
    if min(width, height) < 1 or width * height > MOST_PIXELS:
        raise ValueError(f"its images are of {width}×{height} pixels")
    frames = content["camera_path"]
    if not isinstance(frames, list) or not frames:
        raise ValueError("it has no frames; add at least two keyframes in the viewer")
    views = [_view(frame, index, width, height, lens) for index, frame in enumerate(frames)]
    seconds = float(content.get("seconds") or 0)
    fps = len(views) / seconds if seconds > 0 else float(content.get("fps") or 30)
    if not SPEEDS[0] <= fps <= SPEEDS[1]:
        raise ValueError(f"its speed is {fps} frames a second")
    crop = content.get("crop")
    return CameraPath(views, fps, None if crop is None else _crop(crop))


def _view(frame: Any, index: int, width: int, height: int, lens: LensModel) -> View:
    """The camera of a frame. As in nerfstudio, a fisheye has the focal length of a perspective camera of its angle."""
    pose = np.asarray(frame["camera_to_world"], np.float64)
    if pose.size != 16 or not np.isfinite(pose).all():
        raise ValueError(f"the pose of frame {index} is no matrix of 4 × 4 finite numbers")
    axes = pose.reshape(4, 4)[:3, :3]
    if not np.allclose(axes.T @ axes, np.eye(3), atol=_TOLERANCE):
        raise ValueError(f"the pose of frame {index} is no rotation and position")
    opencv = pose.reshape(4, 4) * np.array([1.0, -1.0, -1.0, 1.0])
    opencv[3] = 0, 0, 0, 1
    fov = float(frame["fov"])
    if not 0 < fov < 180:
        raise ValueError(f"the field of view of frame {index} is {fov} degrees")
    view = View(torch.from_numpy(opencv)[None].float(), fov_intrinsics(fov, width, height)[None], width, height)
    return view.panorama() if lens == "equirectangular" else replace(view, lens=lens)


def _crop(crop: Any) -> Crop:
    centre, size, angles = (
        np.asarray(values, np.float64)
        for values in (crop["crop_center"], crop["crop_scale"], crop.get("crop_rot", (0, 0, 0)))
    )
    if any(values.shape != (3,) or not np.isfinite(values).all() for values in (centre, size, angles)):
        raise ValueError("its crop is not given by three finite numbers each")
    rotation = Rotation.from_euler("xyz", angles).as_matrix()  # roll, pitch and yaw about fixed axes
    red, green, blue = (float(crop["crop_bg_color"][name]) / 255 for name in ("r", "g", "b"))
    if not all(0 <= value <= 1 for value in (red, green, blue)):
        raise ValueError("its background is no colour of numbers from 0 to 255")
    return Crop(torch.from_numpy(centre), torch.from_numpy(rotation), torch.from_numpy(size), (red, green, blue))
