"""Mistakes in data sets, found before training and told in one message each."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from torch import Tensor

from splatkit_ns.errors import SplatkitError

INTRINSICS = ("fl_x", "fl_y", "cx", "cy", "w", "h")


class DataError(SplatkitError):
    """A data set that cannot be trained on, and what to do about it."""


def check_folder(parser: Any) -> None:
    """Check that the data folder exists and is of the kind that this dataparser reads.

    Args:
        parser: a dataparser's config.

    Raises:
        DataError: it does not exist, is empty, or has another format.
    """
    data = Path(parser.data)
    if not data.exists():
        raise DataError(f"The data folder {data} does not exist (--data, or --data of the dataparser).")
    if data.is_dir() and not any(data.iterdir()):
        raise DataError(f"The data folder {data} is empty. {_how_to_make_one()}")
    if isinstance(parser, NerfstudioDataParserConfig):
        transforms = data if data.suffix == ".json" else data / "transforms.json"
        if not transforms.is_file():
            raise DataError(f"{transforms} does not exist, which nerfstudio-data reads. {_other_format(data)}")
        check_transforms(transforms)
    elif isinstance(parser, ColmapDataParserConfig):
        model = data / parser.colmap_path
        if not any((model / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt")):
            raise DataError(
                f"There is no COLMAP model in {model} (cameras.bin or cameras.txt). "
                f"--colmap-path says where it lies, relative to {data}. {_other_format(data)}"
            )
    elif isinstance(parser, BlenderDataParserConfig) and not (data / "transforms_train.json").is_file():
        raise DataError(
            f"{data / 'transforms_train.json'} does not exist, which blender-data reads. {_other_format(data)}"
        )


def _other_format(data: Path) -> str:
    """Say which dataparser would read this folder."""
    if (data / "transforms.json").is_file():
        return f"The folder looks like nerfstudio's own format: end the command with: nerfstudio-data --data {data}"
    if (data / "transforms_train.json").is_file():
        return f"The folder looks like Blender's format: end the command with: blender-data --data {data}"
    for model in ("colmap/sparse/0", "sparse/0", "sparse"):
        if any((data / model / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt")):
            return (
                "The folder looks like COLMAP's format: end the command with: "
                f"colmap --data {data} --colmap-path {model}"
            )
    return f"The folder has no format that is known here. {_how_to_make_one()}"


def _how_to_make_one() -> str:
    return "Photographs are turned into a data set by: ns-process-data images --data PHOTOS --output-dir FOLDER"


def check_transforms(path: Path) -> None:
    """Check the parts of a ``transforms.json`` that nerfstudio's dataparser takes for granted.

    Raises:
        DataError: it is not JSON, has no frames, or a frame lacks its image, its pose or its intrinsics.
    """
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON: {error}.") from error
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(frames, list) or not frames:
        raise DataError(f"{path} has no list of 'frames', or an empty one: there is no image to train on.")
    for number, frame in enumerate(frames):
        where = f"{path}, frame {number}"
        if not isinstance(frame, dict) or "file_path" not in frame:
            raise DataError(f"{where} has no 'file_path'.")
        missing = [key for key in INTRINSICS if key not in meta and key not in frame]
        if missing:
            raise DataError(
                f"{where} ({frame['file_path']}) lacks intrinsics: {', '.join(missing)} stand neither in the frame nor "
                "at the top of the file. Focal lengths, centre and size are in pixels."
            )
        _check_pose(frame, f"{where} ({frame['file_path']})")


def _check_pose(frame: dict[str, Any], where: str) -> None:
    pose = frame.get("transform_matrix")
    try:
        matrix = torch.tensor(pose, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        matrix = torch.zeros(0)
    if matrix.shape not in ((4, 4), (3, 4)):
        raise DataError(f"{where}: 'transform_matrix' must be a 4×4 matrix of numbers, found {str(pose)[:80]}.")
    if not bool(torch.isfinite(matrix).all()):
        raise DataError(
            f"{where}: 'transform_matrix' holds NaN or infinity. Remove the frame, or compute its pose again."
        )


@contextmanager
def explained(parser: Any) -> Generator[None]:
    """Turn what a dataparser raises into a `DataError` that names the parser and the folder."""
    try:
        yield
    except SplatkitError:
        raise
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        kind = type(parser).__name__.removesuffix("Config")
        raise DataError(f"{kind} cannot read {parser.data}: {type(error).__name__}: {reason}") from error


def check_outputs(outputs: DataparserOutputs, split: str, check_images: bool) -> None:
    """Check what a dataparser made of a data set.

    Args:
        outputs: of one split.
        split: "train" or "eval", for messages.
        check_images: also look at every image's file and size.

    Raises:
        DataError: no image, a pose or seed point that is not finite, an image that is missing, unreadable or of another
            size than its camera.
    """
    if len(outputs.image_filenames) == 0:
        raise DataError(
            f"No image is left for {'training' if split == 'train' else 'evaluation'}. "
            "--eval-mode of the dataparser says how images are split (interval, fraction, filename); "
            "--eval-mode all uses all images for both."
        )
    poses = outputs.cameras.camera_to_worlds
    bad = (~torch.isfinite(poses).flatten(1).all(1)).nonzero()[:, 0].tolist()
    if bad:
        raise DataError(
            f"{len(bad)} pose(s) of {len(poses)} hold NaN or infinity, the first is that of "
            f"{outputs.image_filenames[bad[0]]}. Remove these frames, or compute their poses again."
        )
    points = outputs.metadata.get("points3D_xyz")
    if points is not None:
        check_points(points)
    if check_images:
        for index, path in enumerate(outputs.image_filenames):
            camera = outputs.cameras[index]
            check_image(Path(path), int(camera.width), int(camera.height))


def check_points(points: Tensor) -> None:
    """Check that all seed points (M, 3) are finite.

    Raises:
        DataError: says how many are not, and which is the first.
    """
    bad = (~torch.isfinite(points).all(-1)).nonzero()[:, 0].tolist()
    if bad:
        raise DataError(
            f"{len(bad)} of {len(points)} seed points hold NaN or infinity, the first is row {bad[0]}: "
            f"{points[bad[0]].tolist()}. Remove them from the point cloud, or start without it: "
            "--pipeline.model.random-init True"
        )


def check_image(path: Path, width: int, height: int) -> None:
    """Check that an image is there, can be identified and has the size of its camera; does not decode it.

    Raises:
        DataError: it is not.
    """
    if not path.is_file():
        raise DataError(f"The image {path} does not exist, which the data set names.")
    try:
        with Image.open(path) as image:
            size = image.size
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise DataError(f"The image {path} cannot be read: {error}") from error
    if size != (width, height):
        raise DataError(
            f"The image {path} is {size[0]}×{size[1]} pixels, its camera says {width}×{height}. "
            "Correct w and h (and the intrinsics) in the data set, or restore the image."
        )
