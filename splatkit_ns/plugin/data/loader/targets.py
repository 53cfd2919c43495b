"""Depth and normal images of a data set, prepared for losses that compare with them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio
from numpy.typing import NDArray
from torch import Tensor

from splatkit_ns.loss_fn.base import TargetName
from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.data.loader.dataset import SplatkitDataset
from splatkit_ns.plugin.data.photographs.pictures import RESTORE, TURNS, read_header
from splatkit_ns.plugin.data.photographs.undistortion import Pinhole, is_distorted, undistortion_maps
from splatkit_ns.plugin.data.scenes.transforms import existing_name, read_frames, transforms_file
from splatkit_ns.plugin.reporting.console import report_once

Pixels = NDArray[np.float32]

FARTHEST_APART = 30.0
"""The ratio of depths to those of the seed points, or the other way round, above which a note tells of it."""

NO_EXR = "This OpenCV reads no EXR: write it as a TIFF of 32-bit floats, or as a NumPy array (.npy)."

OPTIONS: dict[TargetName, str] = {"target_depths": "depth_lambda", "target_normals": "normal_lambda"}
SOURCES: dict[TargetName, str] = {
    "target_depths": "Each frame of transforms.json names its depth image as 'depth_file_path'; for a COLMAP data set "
    "--depths-path of the dataparser names their folder.",
    "target_normals": "Each frame of transforms.json names its normal image as 'normal_file_path'; other formats than "
    "nerfstudio-data have none.",
}


def target_files(datamanager: FullImageDatamanager[Any], wanted: Iterable[TargetName]) -> dict[TargetName, list[Path]]:
    """The depth and normal files of the training images, in the images' order.

    Raises:
        DataError: the data set lacks depth or normals that the loss needs, or a file does not exist.
    """
    files: dict[TargetName, list[Path]] = {}
    outputs = datamanager.train_dataparser_outputs
    for name in sorted(wanted):
        if name == "target_depths":
            found = [Path(path) for path in outputs.metadata.get("depth_filenames") or []]
        else:
            found = _normal_files(datamanager)
        if not found:
            raise DataError(
                f"{datamanager.config.data} has no {name.removeprefix('target_')}, which the loss wants: "
                f"--pipeline.model.loss-fn.{OPTIONS[name].replace('_', '-')} is above 0, or wanted_targets of a loss "
                f"of your own has {name!r}. {SOURCES[name]} Add these files, or set the option to 0."
            )
        missing = [path for path in found if not path.is_file()]
        if missing:
            raise DataError(f"The file {missing[0]} does not exist, which the data set names. {RESTORE}")
        files[name] = found
    return files


def depth_unit(outputs: DataparserOutputs) -> float:
    """The length of the depth files' unit in world units."""
    return float(outputs.metadata.get("depth_unit_scale_factor", 1.0)) * float(outputs.dataparser_scale)


def note_depth_unit(outputs: DataparserOutputs) -> None:
    """Print a note if the depths of the first image are far from those of the seed points before its camera.

    Args:
        outputs: of the training images, with depth files.
    """
    points: Tensor | None = outputs.metadata.get("points3D_xyz")
    if points is None:
        return
    path, pose = Path(outputs.metadata["depth_filenames"][0]), outputs.cameras.camera_to_worlds[0].float()
    z = (points.float() - pose[:, 3]) @ -pose[:, 2]
    depths = read_depths(path, depth_unit(outputs))
    if not bool((z > 0).any()) or not np.isfinite(depths).any():
        return
    ratio = float(np.nanmedian(depths)) / float(z[z > 0].median())
    if not 1 / FARTHEST_APART < ratio < FARTHEST_APART:
        report_once(
            f"The depths of {path} are {ratio:.2g} times those of the seed points before its camera. Is "
            "--depth-unit-scale-factor of the dataparser right? It is the length of the file's unit in that of the "
            "camera positions: 0.001 by default, for files in millimetres and positions in metres."
        )


def _normal_files(datamanager: FullImageDatamanager[Any]) -> list[Path]:
    """The files that transforms.json names as ``normal_file_path``, an entry that nerfstudio's dataparser ignores."""
    parser = datamanager.dataparser
    if not isinstance(parser, Nerfstudio):
        return []
    data = Path(parser.config.data)
    transforms = transforms_file(data)
    files: dict[Path, Path] = {}
    for frame in read_frames(transforms)[1]:
        if frame.get("normal_file_path"):
            name = existing_name(transforms.parent, frame["file_path"])
            image = parser._get_fname(Path(name), transforms.parent)  # type: ignore[reportPrivateUsage]
            files[Path(image)] = transforms.parent / existing_name(transforms.parent, frame["normal_file_path"])
    images = [Path(path) for path in datamanager.train_dataset.image_filenames]
    missing = [image for image in images if image not in files]
    if files and missing:
        raise DataError(f"{transforms} has no 'normal_file_path' for {missing[0]}, but for other frames.")
    return [files[image] for image in images] if files else []


def read_target(name: TargetName, path: Path, unit: float, dataset: SplatkitDataset, index: int) -> Pixels:
    """The depth or normal image that belongs to a photograph, as pixels of the camera by which it is served.

    Args:
        name: what it is.
        path: of the file.
        unit: the length of a depth file's unit in world units.
        dataset: has the photograph.
        index: of the photograph.

    Returns:
        Depths (H, W, 1) in world units, or normals (H, W, 3) in the camera's axes; NaN where unknown.

    Raises:
        DataError: the file cannot be read or has the wrong shape, or the depth and normals of a camera's type cannot be
            converted to those of a pinhole camera.
    """
    pixels = read_depths(path, unit) if name == "target_depths" else read_normals(path)
    stored = dataset.stored_cameras[index].reshape(())
    if dataset.turns_pictures and pixels.shape[0] != pixels.shape[1]:
        pixels = _upright(pixels, path, name, Path(dataset.image_filenames[index]), stored)
    return as_served(pixels, stored, dataset.cameras[index].reshape(()), path)


def read_depths(path: Path, unit: float) -> Pixels:
    """A depth image, (H, W, 1) in world units, NaN where it holds 0, a negative value, NaN or infinity.

    Args:
        path: a PNG, TIFF or PFM with one channel, or three that are equal, or a NumPy array (H, W).
        unit: the length of the file's unit in world units.

    Raises:
        DataError: the file cannot be read, is in colours, or has another shape.
    """
    depths = _read(path, "depth")
    if depths.ndim == 3 and depths.shape[2] in (1, 3):
        if not np.array_equal(depths, np.repeat(depths[..., :1], depths.shape[2], axis=2), equal_nan=True):
            raise DataError(
                f"The depth image {path} is in colours, expected grey values. Colours show depth to people; let the "
                "program that made it write numbers, such as a grey image of 16 bits."
            )
        depths = depths[..., 0]
    if depths.ndim != 2:
        raise DataError(f"The depth image {path} has shape {depths.shape}, expected (height, width).")
    depths = depths.astype(np.float32) * np.float32(unit)
    depths[~(np.isfinite(depths) & (depths > 0))] = np.nan
    return depths[..., None]


def read_normals(path: Path) -> Pixels:
    """Unit normals in the camera's axes, (H, W, 3), NaN where the file holds no direction.

    Args:
        path: an image in colours, whose 0 … 255 or 0 … 65535 stand for -1 … 1, or a NumPy array (H, W, 3) in -1 … 1.

    Raises:
        DataError: the file cannot be read, or has another shape.
    """
    stored = _read(path, "normal")
    if stored.ndim != 3 or stored.shape[2] < 3:
        raise DataError(f"The normal image {path} has shape {stored.shape}, expected (height, width, 3).")
    normals = stored[..., :3].astype(np.float32)
    if stored.dtype.kind == "u":
        normals = normals / np.float32(np.iinfo(stored.dtype).max) * 2 - 1
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    none = ~(np.isfinite(length) & (length > 0.1))[..., 0]
    if stored.dtype.kind == "u":
        none |= (stored[..., :3] == 0).all(-1)  # programs write black for unknown normals
    normals = normals / np.maximum(length, 1e-6)
    normals[none] = np.nan
    return normals


def _read(path: Path, kind: str) -> NDArray[Any]:
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        pixels = cv2.imread(str(path.absolute()), cv2.IMREAD_UNCHANGED)
    except Exception as error:  # NumPy raises many kinds for damaged files
        raise DataError(f"The {kind} image {path} cannot be read: {error}. {RESTORE}") from error
    if pixels is None:
        raise DataError(
            f"The {kind} image {path} cannot be decoded. {NO_EXR if path.suffix.lower() == '.exr' else RESTORE}"
        )
    return np.asarray(pixels[..., [2, 1, 0]] if pixels.ndim == 3 and pixels.shape[2] >= 3 else pixels)


def _upright(pixels: Pixels, path: Path, name: TargetName, image: Path, stored: Cameras) -> Pixels:
    """Turn depths as the EXIF tag of their image says, if they lie as that is stored."""
    lies = (pixels.shape[1] > pixels.shape[0]) != (int(stored.width) > int(stored.height))
    if not lies:
        return pixels
    if name == "target_normals":
        raise DataError(
            f"{path} lies on its side, other than {image} as it is shown: make the normals of upright images."
        )
    return np.ascontiguousarray(TURNS[read_header(image).orientation](pixels))


def as_served(pixels: Pixels, stored: Cameras, served: Cameras, path: Path) -> Pixels:
    """Bring the pixels of a camera to the size of its photograph, and undistort them if the photograph is, by
    nearest-neighbour sampling.

    Args:
        pixels: (h, w, X), of any resolution; NaN where unknown.
        stored: the camera as the data set has it.
        served: the camera by which it is served, the same or a pinhole camera.
        path: the path of the file, for messages.

    Returns:
        (H, W, X) of the served camera's size.

    Raises:
        DataError: the camera is a fisheye with more than four parameters.
    """
    size = int(stored.width), int(stored.height)
    found: Any = pixels
    if pixels.shape[1::-1] != size:
        found = cv2.resize(found, size, interpolation=cv2.INTER_NEAREST)
    if is_distorted(stored) and not is_distorted(served):
        kind = CameraType(int(stored.camera_type))
        if kind not in (CameraType.PERSPECTIVE, CameraType.FISHEYE):
            raise DataError(
                f"{path}: depth and normals of cameras of type {kind.name.lower()} cannot be used. Set depth_lambda "
                "and normal_lambda of the loss to 0."
            )
        K = served.get_intrinsics_matrices().double().cpu().numpy().reshape(3, 3)
        maps = undistortion_maps(stored, Pinhole(K, int(served.width), int(served.height)))
        unknown: Any = (np.nan,) * 4
        found = cv2.remap(
            found, *maps, interpolation=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=unknown
        )
    return np.ascontiguousarray(found.reshape(*found.shape[:2], -1), dtype=np.float32)
