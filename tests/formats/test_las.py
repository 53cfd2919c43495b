"""Positions and colours of LAS files, which are written here byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splatkit_ns.formats.las import COLOR_STARTS, LasError, read_las

ROW_BYTES = {0: 20, 1: 28, 2: 26, 3: 34, 4: 57, 5: 63, 6: 30, 7: 36, 8: 38, 9: 59, 10: 67}
POSITIONS = np.array([[500000.125, 5400000.5, 12.25], [500001.0, 5399999.75, -3.0], [500000.0, 5400001.0, 0.0]])
COLORS = np.array([[0, 1, 65535], [256, 257, 40000], [3, 2, 1]])


def write_las(path: Path, positions: Any, colors: Any = None, kind: int | None = None, extra: int = 0) -> None:
    """Write a LAS file of version 1.2, or 1.4 for the formats that need it; ``extra`` bytes follow each point."""
    kind = kind if kind is not None else (0 if colors is None else 2)
    row_bytes = ROW_BYTES[kind] + extra
    scale, offset = np.full(3, 0.125), np.floor(positions.min(0)) + 0.5
    header = bytearray(227 if kind < 6 else 375)
    start = len(header) + 10
    header[:4] = b"LASF"
    header[24:26] = bytes([1, 2 if kind < 6 else 4])
    struct.pack_into("<HI", header, 94, len(header), start)
    struct.pack_into("<BHI", header, 104, kind, row_bytes, len(positions) if kind < 6 else 0)
    struct.pack_into("<6d", header, 131, *scale, *offset)
    if kind >= 6:
        struct.pack_into("<Q", header, 247, len(positions))
    rows = np.full((len(positions), row_bytes), 7, np.uint8)
    whole = np.rint((positions - offset) / scale).astype("<i4")
    rows[:, :12] = np.frombuffer(whole.tobytes(), np.uint8).reshape(-1, 12)
    if colors is not None:
        place = COLOR_STARTS[kind]
        rows[:, place : place + 6] = np.frombuffer(colors.astype("<u2").tobytes(), np.uint8).reshape(-1, 6)
    path.write_bytes(bytes(header) + bytes(10) + rows.tobytes())


@pytest.mark.parametrize("kind", sorted(ROW_BYTES))
def test_points_of_each_format(tmp_path: Path, kind: int) -> None:
    has_color = kind in (2, 3, 5, 7, 8, 10)
    write_las(tmp_path / "a.las", POSITIONS, COLORS if has_color else None, kind, extra=3)
    found = read_las(tmp_path / "a.las")
    assert np.array_equal(found.positions, POSITIONS)
    assert (found.colors is not None) == has_color
    if found.colors is not None:
        assert np.array_equal(found.colors, COLORS)


def test_colours_that_nobody_has_filled_are_none(tmp_path: Path) -> None:
    write_las(tmp_path / "a.las", POSITIONS, np.zeros((3, 3)))
    assert read_las(tmp_path / "a.las").colors is None


def changed(place: int, value: bytes) -> Any:
    return lambda data: data[:place] + value + data[place + len(value) :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "is cut: its header declares 3 points, and there is room for 2"),
        (lambda data: data[:100], "its header is cut"),
        (changed(104, bytes([0x82])), r"compressed \(LAZ\): write it as LAS or PLY"),
        (changed(104, bytes([11])), "has points of format 11"),
        (changed(105, bytes([12, 0])), "has points of format 2 with 12 bytes"),
        (changed(107, bytes(4)), "holds no point"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, change: Any, message: str) -> None:
    write_las(tmp_path / "a.las", POSITIONS, COLORS)
    (tmp_path / "a.las").write_bytes(change((tmp_path / "a.las").read_bytes()))
    with pytest.raises(LasError, match=message):
        read_las(tmp_path / "a.las")
