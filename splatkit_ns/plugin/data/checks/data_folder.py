"""Checks that find mistakes in data sets before training and report each in one message."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import UnidentifiedImageError

from splatkit_ns.errors import SplatkitError
from splatkit_ns.files import quoted
from splatkit_ns.formats.ply_header import PlyError, PlyHeader, read_header
from splatkit_ns.plugin.data.checks.honoured import note_keys
from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.data.scenes.bare_colmap import MODELS, factor_of_copies, photographs_of_model, place_of_model
from splatkit_ns.plugin.data.scenes.bare_photographs import data_set_around, poses_command
from splatkit_ns.plugin.data.scenes.beside_model import is_model
from splatkit_ns.plugin.data.scenes.parse_outputs import HELD_OUT
from splatkit_ns.plugin.data.scenes.seed_points import INSTEAD, vertices_of
from splatkit_ns.plugin.data.scenes.transforms import (
    check_transforms,
    existing_name,
    read_frames,
    same_file_in,
    smaller_copies_of,
    transforms_file,
)

NOT_DAMAGED = {
    "frame should contain train/eval in its name": (
        "--eval-mode filename of the dataparser goes by the names of the images or of their folders: rename them, or "
        "choose another mode, such as --eval-mode interval."
    ),
    "number of image and mask": "Add the missing ones, or take out the others. White masks leave images whole.",
    "Different number of image and": "Add the missing ones, or take out the others.",
    "No images found in the colmap model": "It has none with a pose: align the photographs again.",
    "Some filenames for split": "Correct the data set's list of the images of that split.",
    "list of filenames for split": "Add the list to the data set, or take out those of the other splits.",
}
"""Part of a nerfstudio dataparser's message -> the advice, for mistakes that restoring a file would not fix."""
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


def check_folder(parser: Any) -> None:
    """Check that the data folder exists and has the format that this dataparser reads.

    Args:
        parser: a dataparser's config.

    Raises:
        DataError: it does not exist, is empty, or has another format.
    """
    data = Path(parser.data)
    if not data.exists():
        raise DataError(f"The data folder {data} does not exist (--data, or --data of the dataparser). {_moved(data)}")
    if data.is_file() and data.suffix != ".json":
        raise DataError(f"--data names the file {data}, expected the folder of a data set. {_how_to_make_one(data)}")
    if data.is_dir() and not any(data.iterdir()):
        raise DataError(f"The data folder {data} is empty. {_how_to_make_one(data)}")
    for kind, check in FORMATS.items():
        if isinstance(parser, kind):
            check(parser, data)


def _check_nerfstudio(parser: NerfstudioDataParserConfig, data: Path) -> None:
    transforms = _transforms(data, "nerfstudio-data")
    meta = check_transforms(transforms)
    note_keys(parser, transforms, meta, meta["frames"])
    centres = np.array([[row[3] for row in frame["transform_matrix"][:3]] for frame in meta["frames"]], np.float64)
    if parser.auto_scale_poses and not np.ptp(centres, axis=0).any():  # their mean may differ from them by rounding
        raise _at_one_place(_what_fails(parser))
    if parser.load_3D_points and "ply_file_path" in meta:
        name = meta["ply_file_path"]
        if not isinstance(name, str):
            raise DataError(
                f"{transforms}: 'ply_file_path' is {name!r}, expected the path of a PLY or LAS file relative to "
                f"{transforms.name}. Correct it, or start from random points: --load-3D-points False of the "
                "dataparser."
            )
        check_point_cloud(transforms.parent / existing_name(transforms.parent, name))


def _check_colmap(parser: ColmapDataParserConfig, data: Path) -> None:
    model = data / parser.colmap_path
    if not is_model(model):
        raise DataError(
            f"There is no COLMAP model in {model} (cameras.bin or cameras.txt). "
            f"--colmap-path says where it lies, relative to {data}. {_colmap_format(data) or _other_format(data)}"
        )


def _check_blender(parser: BlenderDataParserConfig, data: Path) -> None:
    train = data / "transforms_train.json"
    if not train.is_file():
        raise DataError(f"{train} does not exist, which blender-data reads. {_other_format(data)}")
    held_out = [path for split in HELD_OUT if (path := data / f"transforms_{split}.json").is_file()]
    for path in (train, *(held_out or [data / f"transforms_{HELD_OUT[0]}.json"])):
        note_keys(parser, path, *read_frames(path))


def _check_instant_ngp(parser: InstantNGPDataParserConfig, data: Path) -> None:
    transforms = _transforms(data, "instant-ngp-data")
    note_keys(parser, transforms, *read_frames(transforms))


FORMATS: dict[type, Callable[[Any, Path], None]] = {
    NerfstudioDataParserConfig: _check_nerfstudio,
    ColmapDataParserConfig: _check_colmap,
    BlenderDataParserConfig: _check_blender,
    InstantNGPDataParserConfig: _check_instant_ngp,
}
"""The config of a dataparser -> the check of a folder that it is to read."""


def _transforms(data: Path, command: str) -> Path:
    path = transforms_file(data)
    if not path.is_file():
        raise DataError(f"{path} does not exist, which {command} reads. {_other_format(data)}")
    return path


def _moved(data: Path) -> str:
    """How to open a run whose data are not where its config says, which has the path as ``ns-train`` got it."""
    relative = (
        f"It was looked for in {Path.cwd()}: to open a run whose data were given by a relative path, start the "
        "command in the folder where ns-train was started. "
    )
    return ("" if data.is_absolute() else relative) + (
        "If a run's data set has been moved: --data FOLDER for splatkit's commands; for nerfstudio's, correct data in "
        "the run's config.yml, or put a link to the folder in the old place."
    )


def _other_format(data: Path) -> str:
    """A sentence that names the dataparser for this folder, or says how to make a data set."""
    if (data / "transforms.json").is_file():
        kind, command = "nerfstudio's own", "nerfstudio-data"
    elif (data / "transforms_train.json").is_file():
        kind, command = "Blender's", "blender-data"
    else:
        return (
            data_set_around(data)
            or _colmap_format(data)
            or _data_set_inside(data)
            or _capture_of(data)
            or f"The folder has no format that is known here. {_how_to_make_one(data)}"
        )
    return f"The folder looks like {kind} format: end the command with: {command} --data {quoted(data)}"


def _colmap_format(data: Path) -> str | None:
    """A sentence that says where the COLMAP model of a folder is; None if it has no model."""
    if (model := place_of_model(data)) is None:
        return None
    photographs = photographs_of_model(data)
    where = f" --images-path {quoted(photographs)}" if photographs else ""
    if photographs and (factor := factor_of_copies(photographs)):
        where = f" --downscale-factor {factor}"
    return (
        "The folder looks like COLMAP's format: end the command with: "
        f"colmap --data {quoted(data)} --colmap-path {model}{where}"
    )


def _data_set_inside(data: Path) -> str | None:
    """A sentence that names the folders in this one that hold a data set; None if there are none."""
    formats = ("transforms.json", "transforms_train.json", *(f"{model}/cameras.*" for model in MODELS))
    folders = sorted(path for path in data.iterdir() if path.is_dir()) if data.is_dir() else []
    found = [str(path) for path in folders if any(any(path.glob(name)) for name in formats)]
    if not found:
        return None
    more = f" (or {', '.join(found[1:4])}{' …' if len(found) > 4 else ''})" if found[1:] else ""
    return f"The data set is in a folder inside: --data {quoted(found[0])}{more}"


def _capture_of(data: Path) -> str | None:
    """A sentence that says how to turn a phone's capture with poses into a data set; None if it is none."""
    if any((data / "keyframes" / name).is_dir() for name in ("images", "corrected_images")):
        app, command = "Polycam", "polycam"
    elif (data / "rgb").is_dir() and (data / "metadata.json").is_file():
        app, command = "Record3D", "record3d"
    else:
        return None
    made = data.resolve().with_name(f"{data.resolve().name}_{command}")
    return (
        f"It is a raw export of {app}: ns-process-data {command} --data {quoted(data)} --output-dir {quoted(made)}, "
        f"and train with --data {quoted(made)}"
    )


def _how_to_make_one(data: Path) -> str:
    if (command := poses_command(data)) is not None:
        return command
    files = [data] if data.is_file() else sorted(data.iterdir())
    if archive := next((path for path in files if path.name.lower().endswith(ARCHIVES)), None):
        return f"{archive} is an archive: unpack it, and give the folder that it holds."
    how = "Photographs or a video are turned into a data set by: splatkit poses PHOTOS_OR_VIDEO --output FOLDER"
    if data != Path():
        return how
    return (
        f"It is the current folder, {Path.cwd()}, as --data names no other: give a data set with --data FOLDER. {how}"
    )


def no_image_left() -> DataError:
    """The error of a split without images for training."""
    return DataError(
        "No image is left for training. --eval-mode of the dataparser says how images are split (interval, fraction, "
        "filename); all uses all images for both, as when the command ends with: nerfstudio-data --eval-mode all (or "
        "colmap --eval-mode all)"
    )


@contextmanager
def explained(parser: Any) -> Generator[None]:
    """Turn the exceptions of a dataparser into a `DataError` that names the parser and the folder."""
    try:
        yield
    except SplatkitError:
        raise
    except Exception as error:
        raise _explain(error, parser) from error


def _explain(error: Exception, parser: Any) -> DataError:
    where = _what_fails(parser)
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        missing = Path(error.filename)
        what_to_do = same_file_in(Path(parser.data), missing) or smaller_copies_of(missing)
        what_to_do = what_to_do or "Restore it, or make the data set anew."
        return DataError(f"{where}: the file {missing} does not exist. {what_to_do}")
    if isinstance(error, PermissionError):
        return DataError(f"{where}: {error.filename} may not be read. Change its permissions, or those of its folder.")
    if isinstance(error, UnidentifiedImageError):
        return DataError(
            f"{where}: {error}. Restore the image, or convert it to PNG or JPEG, or take it out of the data set."
        )
    if isinstance(error, EOFError):  # from the only question that the colmap dataparser asks in the terminal
        return DataError(
            f"{where}: its images are above 1600 pixels, or --downscale-factor asks for smaller ones, but there is no "
            "folder of those (such as images_2), and the question whether to make it was not answered. Use the images "
            "in full size: --downscale-factor 1 of the dataparser; or answer in a terminal, with ffmpeg installed."
        )
    if isinstance(error, ZeroDivisionError):
        return _at_one_place(where)
    if "No data found in dataset" in str(error):
        return no_image_left()
    if "2**h should be" in str(error):  # fpsample's assertion
        return DataError(
            f"{parser.data} has too few training images for "
            "--pipeline.datamanager.train-cameras-sampling-strategy fps, which needs 8: use random."
        )
    reason = " ".join(str(error).split()).rstrip(".") or "no reason given"
    for fragment, advice in NOT_DAMAGED.items():
        if fragment in reason:
            return DataError(f"{where}: {reason}. {advice}")
    return DataError(
        f"{where}: {type(error).__name__}: {reason}. Its files may be incomplete or damaged: make the data set anew."
    )


def _what_fails(parser: Any) -> str:
    return f"{type(parser).__name__.removesuffix('Config')} cannot read {parser.data}"


def _at_one_place(where: str) -> DataError:
    return DataError(
        f"{where}: all cameras are at one place, so that poses have no scale. Add photographs from other places, "
        "or pass --auto-scale-poses False to the dataparser; for a single photograph, --eval-mode all, too."
    )


def check_point_cloud(path: Path) -> None:
    """Check that a PLY file of seed points is whole, without reading its rows; LAS files are checked as they are read.

    Raises:
        DataError: it is missing, has no points with x, y and z, or fewer than its header says.
    """
    if not path.is_file():
        raise DataError(f"The point cloud {path} does not exist, which transforms.json names. {INSTEAD}")
    try:
        with path.open("rb") as file:
            if file.read(4) == b"LASF":
                return
            file.seek(0)
            header = read_header(file, path)
            found = _rows_in(file, path, header)
    except PlyError as error:
        kind = "" if path.suffix.lower() == ".ply" else "Points are read from PLY and LAS files: convert it. "
        raise DataError(f"{error} {kind}{INSTEAD}") from error
    try:
        count = vertices_of(header, path).count
    except PlyError as error:
        raise DataError(f"{error} {INSTEAD}") from error
    if found is not None and found < count:
        raise DataError(f"The point cloud {path} declares {count} vertices and holds {found}. {INSTEAD}")


def _rows_in(file: BinaryIO, path: Path, header: PlyHeader) -> int | None:
    """The number of vertices that fit into the rest of the file, after its header has been read.

    None if the vertices are not the first element or their size is not fixed.
    """
    first = next(iter(header.elements.values()), None)
    if first is None or first.name != "vertex" or first.lists:
        return None
    if header.format == "ascii":
        data = file.read()
        return data.count(b"\n") + (not data.endswith(b"\n"))
    return (path.stat().st_size - header.num_bytes) // max(1, first.row_bytes)
