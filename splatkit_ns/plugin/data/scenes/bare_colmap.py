"""A folder of COLMAP's, with photographs and a model, is read as such without options."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import MAX_AUTO_RESOLUTION, NerfstudioDataParserConfig
from PIL import Image

from splatkit_ns.files import quoted
from splatkit_ns.media import PICTURES
from splatkit_ns.plugin.data.scenes.beside_model import is_model, largest_model
from splatkit_ns.plugin.reporting.console import report_once

IMAGES = "images"
MODELS = ("sparse/0", "sparse", "colmap/sparse/0")
"""The places of a model in a folder; programs other than COLMAP also write it into the folder itself."""
Size = tuple[int, int]
Rounding = Literal["floor", "round", "ceil"]
ROUNDINGS: dict[Rounding, Callable[[float], int]] = {
    "floor": math.floor,
    "round": lambda side: math.floor(side + 0.5),
    "ceil": math.ceil,
}
"""The ways of `ColmapDataParserConfig.downscale_rounding_mode`."""


def dataparser_of(parser: Any) -> Any:
    """The config of the dataparser that a folder needs: COLMAP's, if it is a bare folder of COLMAP's.

    That is a folder without transforms.json, with the photographs in ``images`` and a model in one of `MODELS` or in
    itself, and a parser of ``nerfstudio-data``, which is the default. Of several numbered models the largest is taken.
    The new config has the settings of the old one that are not at their defaults, and uses smaller copies of the
    photographs (``images_2`` ...) if they are there, as nerfstudio-data does.

    Args:
        parser: the config as it was given.

    Returns:
        The same config, or a new one.
    """
    if type(parser) is not NerfstudioDataParserConfig:
        return parser
    data = Path(parser.data)
    model = place_of_model(data)
    if model is None or (data / "transforms.json").exists() or not (data / IMAGES).is_dir():
        return parser
    default = NerfstudioDataParserConfig()
    names = [field.name for field in dataclasses.fields(parser) if field.name != "_target"]
    set_here = {name: getattr(parser, name) for name in names if getattr(parser, name) != getattr(default, name)}
    known = {field.name for field in dataclasses.fields(ColmapDataParserConfig)}
    if not set_here.keys() <= known:
        return parser
    largest = largest_model(data / model)
    which = "" if largest == data / model else ", the largest"
    model = largest.relative_to(data).as_posix()
    report_once(
        f"{data} is read as COLMAP's format, with the model in {model}{which}. For its options, end the command with: "
        f"colmap --data {quoted(data)} --colmap-path {model}"
    )
    picture = _first_picture(data / IMAGES)
    found = ColmapDataParserConfig(data=data, colmap_path=Path(model), downscale_factor=_smaller_copies(data, picture))
    for name, value in set_here.items():
        setattr(found, name, value)
    if picture is not None:
        found.downscale_rounding_mode = _rounding_of_copy(data, *picture, found.downscale_factor or 1)
    return found


def place_of_model(data: Path) -> str | None:
    """The place of a COLMAP model relative to a folder; None if there is none."""
    return next((model for model in (*MODELS, ".") if is_model(data / model)), None)


def photographs_of_model(data: Path) -> str | None:
    """The first folder in a folder that holds pictures, by name, if the photographs are not in `IMAGES`."""
    if (data / IMAGES).is_dir():
        return None
    pictures = sorted(path for path in data.glob("*/*") if path.suffix.lower() in PICTURES)
    return pictures[0].parent.name if pictures else None


def _first_picture(images: Path) -> tuple[Path, Size] | None:
    """The first file in a folder that is a picture, relative to it, and its size; None if there is none."""
    for path in sorted(path for path in images.rglob("*") if path.is_file()):
        with suppress(Exception), Image.open(path) as image:  # no image: another file shows the size
            return path.relative_to(images), image.size
    return None


def _smaller_copies(data: Path, picture: tuple[Path, Size] | None) -> int:
    """The factor of the first copies of at most `MAX_AUTO_RESOLUTION` pixels a side, or of the smallest ones."""
    factor = 1
    while picture and max(picture[1]) / factor > MAX_AUTO_RESOLUTION and _copies(data, 2 * factor).is_dir():
        factor *= 2
    return factor


def _rounding_of_copy(data: Path, name: Path, size: Size, factor: int) -> Rounding:
    """The way in which the sides of a picture's smaller copy were rounded; Mip-NeRF 360's have other than nerfstudio's.

    Args:
        data: the folder of the data set.
        name: of the picture in its folder.
        size: of the picture.
        factor: of the copies.
    """
    with suppress(Exception), Image.open(_copies(data, factor) / name) as copy:  # checks tell of it if it is missing
        for mode, rounded in ROUNDINGS.items():
            if copy.size == tuple(rounded(side / factor) for side in size):
                return mode
    return "floor"


def _copies(data: Path, factor: int) -> Path:
    return data / f"{IMAGES}_{factor}"


def factor_of_copies(folder: str) -> int:
    """The factor of the smaller copies in a folder of this name, such as images_2; 0 if the name is another."""
    found = re.fullmatch(rf"{IMAGES}_(\d+)", folder)
    return int(found[1]) if found else 0
