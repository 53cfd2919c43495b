"""Reading one photograph as training needs it: decoded, without lens distortion, with its mask, depth and normals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import (
    _undistort_image,  # type: ignore[reportPrivateUsage]
)
from nerfstudio.data.datasets.base_dataset import InputDataset
from numpy.typing import NDArray

from splatkit_ns.loss_fn.base import TargetName
from splatkit_ns.plugin.data.checks import DataError
from splatkit_ns.plugin.data.targets import read_target

Batch = dict[str, Any]
"""A photograph and what belongs to it: ``image`` (H, W, 3 or 4), and ``mask`` (H, W, 1), targets and names if there are
any."""


@dataclass
class TargetFiles:
    """Depth and normal images of a split."""

    paths: Mapping[TargetName, Sequence[Path]] = field(default_factory=dict)
    """See `targets.target_files`."""
    unit: float = 1.0
    """The length of the depth files' unit in world units."""


class ImageReader:
    """Reads the photographs of a split, one by one; may be called from several threads.

    On construction, the cameras of the data set become those of the photographs without distortion.

    Args:
        dataset: decodes the files; its cameras are still those of the files.
        image_type: of the pixels that are returned.
        targets: depth and normal images to read as well.
    """

    def __init__(
        self, dataset: InputDataset, image_type: Literal["uint8", "float32"], targets: TargetFiles | None = None
    ) -> None:
        self._dataset = dataset
        self._image_type: Literal["uint8", "float32"] = image_type
        self._targets = targets or TargetFiles()
        self._stored = deepcopy(dataset.cameras)
        use_pinhole_cameras(dataset)

    def __call__(self, index: int) -> Batch:
        """The photograph of an index, in main memory.

        Raises:
            DataError: a file of it cannot be used.
        """
        dataset, path = self._dataset, Path(self._dataset.image_filenames[index])
        batch: Batch = dataset.get_data(index, image_type=self._image_type)
        stored = self._stored[index].reshape(())
        found, expected = tuple(batch["image"].shape[1::-1]), (int(stored.width), int(stored.height))
        if found != expected:
            raise DataError(
                f"The image {path} is {found[0]}×{found[1]} pixels after scaling, its camera says "
                f"{expected[0]}×{expected[1]}. Correct w and h in the data set, or restore the image."
            )
        if is_distorted(stored):
            _, image, mask = undistorted(stored, batch["image"].numpy(), batch, path)
            batch["image"] = torch.from_numpy(np.ascontiguousarray(image))
            if mask is not None:
                batch["mask"] = mask.contiguous()
        for name, paths in self._targets.paths.items():
            pinhole = dataset.cameras[index].reshape(())
            batch[name] = torch.from_numpy(read_target(name, paths[index], self._targets.unit, stored, pinhole))
        return batch


def is_distorted(camera: Cameras) -> bool:
    """Whether the lens of a camera, or of one of several, has distortion."""
    return camera.distortion_params is not None and bool((camera.distortion_params != 0).any())


def undistorted(camera: Cameras, image: NDArray[Any], data: Batch, path: Path) -> tuple[NDArray[Any], Any, Any]:
    """Remove the distortion of a photograph.

    Args:
        camera: that of the file.
        image: its pixels, (H, W, X).
        data: may hold its ``mask``.
        path: of the file, for messages.

    Returns:
        The matrix K of the pinhole camera, its pixels, and its mask or None.

    Raises:
        DataError: the distortion cannot be removed.
    """
    assert camera.distortion_params is not None
    K = camera.get_intrinsics_matrices().numpy()
    try:
        return _undistort_image(camera, camera.distortion_params.numpy(), data, image, K)
    except Exception as error:  # nerfstudio's assertions, and OpenCV's errors
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(
            f"The lens distortion of the image {path} cannot be removed: {reason}. Correct the intrinsics of the data "
            "set, or undistort its images first."
        ) from error


def use_pinhole_cameras(dataset: InputDataset) -> None:
    """Replace the cameras of a data set by those of its photographs without distortion; no photograph is read.

    Raises:
        DataError: the distortion of a camera cannot be removed.
    """
    cameras = dataset.cameras
    if not is_distorted(cameras):
        return
    changed = ("fx", "fy", "cx", "cy", "width", "height")
    for name in changed:  # values that were given once for all cameras share memory
        setattr(cameras, name, getattr(cameras, name).clone())
    names = ("camera_type", *changed, "distortion_params")
    columns = [getattr(cameras, name).reshape(len(cameras), -1).double() for name in names]
    _, first, group = np.unique(torch.cat(columns, 1).numpy(), axis=0, return_index=True, return_inverse=True)
    group = group.reshape(-1)  # some versions of NumPy keep the dimension
    for number, index in enumerate(first.tolist()):
        camera = cameras[index].reshape(())
        if not is_distorted(camera):
            continue
        blank = np.zeros((int(camera.height), int(camera.width), 1), np.uint8)
        K, image, _ = undistorted(camera, blank, {}, Path(dataset.image_filenames[index]))
        same = torch.from_numpy(group == number)
        cameras.fx[same], cameras.fy[same] = float(K[0, 0]), float(K[1, 1])
        cameras.cx[same], cameras.cy[same] = float(K[0, 2]), float(K[1, 2])
        cameras.height[same], cameras.width[same] = image.shape[0], image.shape[1]
