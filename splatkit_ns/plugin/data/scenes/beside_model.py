"""The files beside a COLMAP model that is read: other models, its photographs, and those without a pose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from splatkit_ns.errors import listed
from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.data.scenes.colmap_model import (
    ColmapImage,
    image_lines,
    is_text_model,
    read_images_binary,
    text_lines,
)
from splatkit_ns.plugin.data.scenes.transforms import IMAGE_SUFFIXES
from splatkit_ns.plugin.reporting.console import report_once

SHOWN_NAMES = 3
SAME_POSE = 1e-4
"""The largest rounding of a pose that is written as text, in its units."""


def is_model(folder: Path) -> bool:
    """Whether a folder holds a COLMAP model."""
    return any((folder / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt"))


def number_of_images(model: Path) -> int:
    """The number of images of a COLMAP model; 0 if it is not known."""
    try:
        if (text := model / "images.txt").is_file():
            return sum(1 for _ in image_lines(text_lines(text)))
        with (model / "images.bin").open("rb") as file:
            return int.from_bytes(file.read(8), "little")
    except (OSError, DataError):
        return 0


def largest_model(model: Path) -> Path:
    """The model with the most images among a numbered one and those beside it; others are the parts of a scene.

    Args:
        model: a folder such as ``sparse/0``; of equal ones, it is chosen.
    """
    if not model.name.isdigit():
        return model
    beside = sorted(path for path in model.parent.iterdir() if path.name.isdigit() and is_model(path) and path != model)
    return max([model, *beside], key=number_of_images) if beside else model  # counting reads a whole text file


def note_larger_model(model: Path) -> None:
    """Say if a model beside this one has more images."""
    larger = largest_model(model)
    if larger != model:
        report_once(
            f"{larger} has a model of {number_of_images(larger)} images, and {model}, which is read, one of "
            f"{number_of_images(model)}. To read the larger one, change --colmap-path of the dataparser."
        )


def note_other_kind(model: Path, images: Sequence[ColmapImage]) -> None:
    """Say if a model that is read from text has other images or poses in binary files beside them.

    Args:
        model: the folder.
        images: those that were read, in the order of their numbers.
    """
    if not is_text_model(model) or not (model / "images.bin").is_file():
        return
    try:
        binary = sorted(read_images_binary(model / "images.bin"), key=lambda image: image.id)
    except (OSError, ValueError):
        return  # damaged, and not used
    first, second = ([(image.id, image.name) for image in kind] for kind in (images, binary))
    poses = (np.array([image.quaternion + image.translation for image in kind]) for kind in (images, binary))
    if first != second or not np.allclose(*poses, atol=SAME_POSE):
        report_once(
            f"The COLMAP model in {model} is there as text, of {len(images)} images, and in binary files, of "
            f"{len(binary)}, and they differ: the text is read. Take away the files of the one that is not wanted."
        )


def names_in(folder: Path, names: Sequence[str]) -> list[str]:
    """The names of images in a folder, for paths that begin elsewhere: on another machine, or above the folder.

    Args:
        folder: of the images.
        names: their paths as a model has them.

    Returns:
        The names as they are unless each has an image of its own in the folder, with a note.
    """
    if not names or not any(Path(name).is_absolute() or not (folder / name).is_file() for name in names):
        return list(names)
    found = [_end_in(folder, name) for name in names]
    if "" in found or len(set(found)) < len(found):
        return list(names)
    report_once(
        f"The model names its images by other paths, such as {names[0]}: {found[0]} in {folder} is taken for it."
    )
    return found


def _end_in(folder: Path, name: str) -> str:
    """The longest end of a path that is a file in a folder; empty if none is."""
    parts = name.replace("\\", "/").split("/")
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    return next((end for end in ends if end and not end.startswith("/") and (folder / end).is_file()), "")


def note_without_pose(images: Path, names: Iterable[str], model: Path) -> None:
    """Say which photographs have no pose.

    Args:
        images: the folder of the photographs.
        names: those that have one.
        model: their model, for the message.
    """
    known = {Path(name.replace("\\", "/")).as_posix().lower() for name in names}  # ./name.jpg is name.jpg
    known |= {name.rpartition(".")[0] for name in known}
    files = (path for path in images.rglob("*") if path.suffix in IMAGE_SUFFIXES and path.is_file())
    found = sorted(path for path in files if not path.name.startswith("._"))  # macOS's, beside each file
    relative = [path.relative_to(images).as_posix() for path in found]
    without = [name for name in relative if not {name.lower(), name.lower().rpartition(".")[0]} & known]
    if without:
        report_once(
            f"{len(without)} of {len(found)} photographs in {images} have no pose in {model}, and are not used: "
            f"{listed(without, SHOWN_NAMES)}."
        )
