"""The points of a COLMAP model, without the images that they were found in."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.data.scenes.colmap_model import exactly, is_text_model, number, text_lines
from splatkit_ns.plugin.data.scenes.seed_points import INSTEAD, PointCloud, bytes_of

POINT_ROW = struct.Struct("<QdddBBBdQ")
"""Number, position, colour, error, and the length of the track."""
TRACK_BYTES = 8
"""The bytes of an image in a track."""


def read_colmap_points(folder: Path) -> PointCloud | None:
    """The points of a model; of two files, the one that is of the same kind as the cameras.

    Returns:
        None if it has none.

    Raises:
        DataError: there is no file of points, or it is damaged.
    """
    text, binary = folder / "points3D.txt", folder / "points3D.bin"
    if text.is_file() and (is_text_model(folder) or not binary.is_file()):
        return _read_text(text)
    if not binary.is_file():
        raise DataError(f"There is neither {text.name} nor {binary.name} in {folder}. {INSTEAD}")
    return _read_binary(binary)


def _read_text(path: Path) -> PointCloud | None:
    """Points as text; some programs write colours as floats, or leave out the error and the track."""
    rows = [line.split(maxsplit=7)[1:7] for line in text_lines(path) if line.strip() and line.lstrip()[0] != "#"]
    if not rows:
        return None
    try:
        positions = np.array([[number(word) for word in row[:3]] for row in rows])
        colors = [row[3:] for row in rows]
        is_whole = all(word.isdigit() for row in colors for word in row)
        return PointCloud(positions, bytes_of(np.array(colors, np.int64 if is_whole else np.float64).reshape(-1, 3)))
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path} cannot be read: {reason}. Each line has a number, a position (x, y, z) and a colour (r, g, b). "
            f"{INSTEAD}"
        ) from error


def _read_binary(path: Path) -> PointCloud | None:
    with path.open("rb") as file:
        (count,) = struct.unpack("<Q", exactly(file, 8, path))
        if count * POINT_ROW.size > path.stat().st_size:
            raise DataError(f"{path} declares {count:,} points, and is too short for them. {INSTEAD}")
        positions, colors = np.empty((count, 3)), np.empty((count, 3), np.uint8)
        for row in range(count):
            _, *values, _, track = POINT_ROW.unpack(exactly(file, POINT_ROW.size, path))
            positions[row], colors[row] = values[:3], values[3:]
            file.seek(track * TRACK_BYTES, 1)
    return PointCloud(positions, colors) if count else None
