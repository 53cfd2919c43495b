"""A folder of COLMAP's, with photographs and a model, is read as such without options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

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
    found = ColmapDataParserConfig(data=data, colmap_path=Path(model), downscale_factor=_smaller_copies(data))
    for name, value in set_here.items():
        setattr(found, name, value)
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


def _smaller_copies(data: Path) -> int:
    """The factor of the first copies of at most `MAX_AUTO_RESOLUTION` pixels a side, or of the smallest ones."""
    factor = 1
    for path in sorted(path for path in (data / IMAGES).rglob("*") if path.is_file()):
        try:
            with Image.open(path) as image:
                longer = max(image.size)
        except Exception:  # no image: another file shows the size
            continue
        while longer / factor > MAX_AUTO_RESOLUTION and (data / f"{IMAGES}_{2 * factor}").is_dir():
            factor *= 2
        break
    return factor
