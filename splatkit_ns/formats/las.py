"""Positions and colours of LAS files, the point clouds of laser scanners (ASPRS LAS 1.0 to 1.4)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.formats.gaussians import FormatError

COLOR_STARTS = {2: 20, 3: 28, 5: 28, 7: 30, 8: 30, 10: 30}
"""The format of the points -> the byte of a point at which its colours begin; the other formats have none."""
COMPRESSED = 0x80
"""Set in the format of the points of LAZ files."""


class LasError(FormatError):
    """A LAS file cannot be used; the message says what to do."""


@dataclass(frozen=True)
class LasPoints:
    """Positions (N, 3) in double precision, and colours (N, 3) uint16, or None if the file has none."""

    positions: NDArray[np.float64]
    colors: NDArray[np.uint16] | None


def read_las(path: Path) -> LasPoints:
    """All points of a LAS file.

    Raises:
        LasError: it is compressed (LAZ), damaged, or empty.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(375)
    if len(header) < 227 or header[:4] != b"LASF":
        raise LasError(f"{path} is not a LAS file, or its header is cut.")
    major, minor = header[24], header[25]
    (start,) = struct.unpack_from("<I", header, 96)
    kind, row_bytes, count = struct.unpack_from("<BHI", header, 104)
    if (major, minor) >= (1, 4) and len(header) >= 255:
        (large,) = struct.unpack_from("<Q", header, 247)
        count = large or count
    if kind & COMPRESSED or kind & 0x40:
        raise LasError(
            f"{path} is compressed (LAZ): write it as LAS or PLY, with CloudCompare, or with: pdal translate IN OUT."
        )
    color = COLOR_STARTS.get(kind)
    smallest = 12 if color is None else color + 6
    if kind > 10 or row_bytes < smallest:
        raise LasError(f"{path} has points of format {kind} with {row_bytes} bytes, expected one of 0 to 10.")
    if count == 0:
        raise LasError(f"{path} holds no point.")
    if start + count * row_bytes > size:
        present = max(0, size - start) // row_bytes
        raise LasError(f"{path} is cut: its header declares {count} points, and there is room for {present}.")
    fields = {"names": ["xyz"], "formats": ["(3,)<i4"], "offsets": [0], "itemsize": row_bytes}
    if color is not None:
        fields = {**fields, "names": ["xyz", "rgb"], "formats": ["(3,)<i4", "(3,)<u2"], "offsets": [0, color]}
    rows = np.memmap(path, np.dtype(fields), mode="r", offset=start, shape=(count,))  # type: ignore[reportArgumentType]
    scale, offset = np.array(struct.unpack_from("<3d", header, 131)), np.array(struct.unpack_from("<3d", header, 155))
    colors = None if color is None else np.array(rows["rgb"])
    if colors is not None and not colors.any():
        colors = None  # fields that were never filled
    return LasPoints(rows["xyz"] * scale + offset, colors)
