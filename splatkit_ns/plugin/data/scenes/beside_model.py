"""Other models in a COLMAP folder than the one that is read, and photographs without a pose."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from splatkit_ns.errors import listed
from splatkit_ns.plugin.data.scenes.colmap_model import image_lines
from splatkit_ns.plugin.data.scenes.transforms import IMAGE_SUFFIXES
from splatkit_ns.plugin.reporting.console import report_once

SHOWN_NAMES = 3


def is_model(folder: Path) -> bool:
    """Whether a folder holds a COLMAP model."""
    return any((folder / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt"))


def number_of_images(model: Path) -> int:
    """The number of images of a COLMAP model; 0 if it is not known."""
    try:
        if (text := model / "images.txt").is_file():
            with text.open(encoding="utf-8") as file:
                return sum(1 for _ in image_lines(file))
        with (model / "images.bin").open("rb") as file:
            return int.from_bytes(file.read(8), "little")
    except (OSError, UnicodeDecodeError):
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


def note_without_pose(images: Path, names: Iterable[str], model: Path) -> None:
    """Say which photographs have no pose.

    Args:
        images: the folder of the photographs.
        names: those that have one.
        model: their model, for the message.
    """
    known = {name.replace("\\", "/").lower() for name in names}
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
