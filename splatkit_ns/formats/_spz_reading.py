"""The reader of SPZ files, which trusts nothing in them; `spz` tells of the format."""

from __future__ import annotations

import importlib
import logging
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.formats._inflate import GzipReader, check_inflated
from splatkit_ns.formats._quantise import WXYZ, ByteArray, as_floats, from_smallest_three, logits_of_bytes
from splatkit_ns.formats.frames import flip_yz
from splatkit_ns.formats.gaussians import FloatArray, FormatError, Gaussians

logger = logging.getLogger(__name__)

SpzAxes = Literal["rub", "rdf"]

MAGIC = 0x5053474E  # "NGSP"
HEADER = struct.Struct("<IIIBBBB")
"""Magic number, version, number of Gaussians, SH degree, fractional bits, flags; reserved, or number of streams (4)."""
HEADER_4 = struct.Struct("<IIIBBBBI12x")
"""The same for version 4, and the offset of the table of the streams' sizes."""
ANTIALIASED = 0x1
COLOUR_SCALE = 0.15
"""The scale of colours: wider than the 0.28 of colours from 0 to 1, because SH of higher degrees may bring others back
into that range."""
MIN_LOG_SCALE, LOG_SCALE_STEPS = -10.0, 16.0
_NUM_COEFFICIENTS = (0, 3, 8, 15, 24)
_KEPT_COEFFICIENTS = 15
MAX_MAGNITUDE = 511
_MAX_WINDOW = 1 << 27


@dataclass(frozen=True)
class _Header:
    """The values of a header."""

    version: int
    num: int
    sh_degree: int
    fractional_bits: int
    flags: int
    num_streams: int = 0
    table_start: int = 0

    def part_sizes(self) -> list[int]:
        """Bytes of positions, opacities, colours, scales, rotations and SH."""
        position = 6 if self.version == 1 else 9
        rotation = 4 if self.version >= 3 else 3
        of_one = [position, 1, 3, 3, rotation, 3 * _NUM_COEFFICIENTS[self.sh_degree]]
        return [self.num * size for size in of_one]


def read_spz(path: Path, axes: SpzAxes = "rub") -> Gaussians:
    """Read an SPZ file of version 1 to 4; SH of degree 4 is left out, with a note in the log.

    Args:
        path: of the file.
        axes: those of the file; rub, as the format says, or rdf, as some programs write it.

    Raises:
        FormatError: the file is of another kind, damaged or forged, or of version 4 without the module zstandard.
    """
    with path.open("rb") as file:
        return read_spz_stream(file, path.stat().st_size, path, axes)


def read_spz_stream(file: BinaryIO, num_bytes: int, path: Path, axes: SpzAxes = "rub") -> Gaussians:
    """Read the contents of an SPZ file from an open file that begins with them; see `read_spz`.

    Args:
        file: from its beginning.
        num_bytes: of the contents.
        path: for messages.
        axes: as of `read_spz`; rdf leaves the numbers as they are.
    """
    header, reader = _open(file, path)
    check_inflated(path, sum(header.part_sizes()), num_bytes)
    if reader is None:
        parts = _read_streams(file, num_bytes, header, path)
    else:
        parts = [reader.read(size) for size in header.part_sizes()]
    found = _unpack(header, [np.frombuffer(part, np.uint8) for part in parts], path)
    return flip_yz(found) if axes == "rub" else found


def version_of(path: Path) -> str:
    """The version that an SPZ file claims.

    Raises:
        FormatError: the file is of another kind or damaged.
    """
    with path.open("rb") as file:
        return str(_open(file, path)[0].version)


def _open(file: BinaryIO, path: Path) -> tuple[_Header, GzipReader | None]:
    """The header, and the reader of the rest of the gzip stream; None if there is no such stream (version 4)."""
    start = file.read(4)
    file.seek(0)
    if start[:2] == b"\x1f\x8b":
        reader = GzipReader(file, path)
        return _parse(reader.read(HEADER.size), path), reader
    if start == struct.pack("<I", MAGIC):
        return _parse_4(file.read(HEADER_4.size), path), None
    raise FormatError(f"{path} is not an SPZ file: it is neither compressed by gzip nor begins with NGSP.")


def _parse(data: bytes | bytearray, path: Path) -> _Header:
    magic, version, num, degree, bits, flags, _ = HEADER.unpack(data)
    if magic != MAGIC:
        raise FormatError(f"{path} is not an SPZ file: its compressed data does not begin with NGSP.")
    if version not in (1, 2, 3):
        raise FormatError(f"{path}: expected SPZ of version 1 to 3 in a gzip stream, found version {version}.")
    return _checked(_Header(version, num, degree, bits, flags), path)


def _parse_4(data: bytes, path: Path) -> _Header:
    if len(data) < HEADER_4.size:
        raise FormatError(f"{path} is truncated: it ends within the header.")
    _, version, num, degree, bits, flags, num_streams, table_start = HEADER_4.unpack(data)
    if version != 4:
        raise FormatError(f"{path}: expected SPZ of version 4, which is not in a gzip stream, found version {version}.")
    return _checked(_Header(version, num, degree, bits, flags, num_streams, table_start), path)


def _checked(header: _Header, path: Path) -> _Header:
    if header.num == 0:
        raise FormatError(f"{path}: there are no Gaussians in the file.")
    if header.sh_degree >= len(_NUM_COEFFICIENTS):
        raise FormatError(f"{path}: expected an SH degree from 0 to 4, found {header.sh_degree}.")
    if header.fractional_bits > 30:
        raise FormatError(f"{path}: expected at most 30 fractional bits, found {header.fractional_bits}.")
    return header


def _read_streams(file: BinaryIO, num_bytes: int, header: _Header, path: Path) -> list[bytes]:
    """The parts of a file of version 4."""
    try:
        zstandard: Any = importlib.import_module("zstandard")
    except ImportError as error:
        raise FormatError(
            f"{path} is SPZ of version 4, for which the module zstandard is needed: pip install zstandard. Or convert "
            "it to version 3."
        ) from error
    sizes = [size for size in header.part_sizes() if size]
    if header.num_streams != len(sizes) or header.table_start < HEADER_4.size:
        raise FormatError(f"{path}: expected {len(sizes)} streams after the header, found {header.num_streams}.")
    file.seek(header.table_start)
    table = file.read(16 * len(sizes))
    if len(table) < 16 * len(sizes):
        raise FormatError(f"{path} is truncated: it ends within the table of its streams.")
    parts: list[bytes] = []
    left = num_bytes - file.tell()
    for size, (compressed, whole) in zip(sizes, struct.iter_unpack("<QQ", table), strict=True):
        if whole != size or compressed > left:
            raise FormatError(
                f"{path}: a stream of {size} bytes was expected, found one of {whole} that takes {compressed} of the "
                f"{left} bytes left in the file."
            )
        left -= compressed
        try:
            with zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(file.read(compressed)) as reader:
                data = reader.read(size)
        except zstandard.ZstdError as error:
            raise FormatError(f"{path} is damaged: its compressed data cannot be read ({error}).") from error
        if len(data) < size:
            raise FormatError(f"{path} is truncated: a stream of {size} bytes was expected, found {len(data)}.")
        parts.append(data)
    return parts + [b""] * (6 - len(parts))


def _unpack(header: _Header, parts: list[ByteArray], path: Path) -> Gaussians:
    positions, opacities, colours, scales, rotations, sh = parts
    num = header.num
    coefficients = sh.reshape(num, -1, 3)
    if coefficients.shape[1] > _KEPT_COEFFICIENTS:
        logger.info("%s has SH coefficients of degree 4: those above degree 3 are left out.", path)
        coefficients = coefficients[:, :_KEPT_COEFFICIENTS]
    means = _unpack_positions(header, positions)
    if header.version == 1 and not np.isfinite(means).all():
        raise FormatError(f"{path}: some Gaussians have centres that are NaN or infinite.")
    rotations = rotations.reshape(num, -1)
    return Gaussians(
        means=means,
        scales=as_floats(scales.reshape(num, 3) / np.float32(LOG_SCALE_STEPS) + np.float32(MIN_LOG_SCALE)),
        quats=_unpack_smallest_three(rotations) if header.version >= 3 else _unpack_first_three(rotations),
        opacities=logits_of_bytes(opacities),
        sh0=as_floats((colours.reshape(num, 1, 3) / np.float32(255) - np.float32(0.5)) / np.float32(COLOUR_SCALE)),
        shN=as_floats((coefficients.astype(np.float32) - np.float32(128)) / np.float32(128)),
        render_mode="mip" if header.flags & ANTIALIASED else "default",
    )


def _unpack_positions(header: _Header, positions: ByteArray) -> FloatArray:
    if header.version == 1:
        return positions.view("<f2").reshape(header.num, 3).astype(np.float32)
    fixed = np.zeros((header.num * 3, 4), np.uint8)
    fixed[:, 1:] = positions.reshape(-1, 3)  # in the upper bytes, so that the sign is the number's
    numbers = (fixed.view("<i4").reshape(header.num, 3) >> 8).astype(np.float64)
    return (numbers / 2**header.fractional_bits).astype(np.float32)


def _unpack_first_three(rotations: ByteArray) -> FloatArray:
    xyz = rotations / np.float32(127.5) - np.float32(1)
    w = np.sqrt(np.maximum(0, 1 - np.square(xyz).sum(axis=1, keepdims=True)))
    return as_floats(np.concatenate([w, xyz], axis=1))


def _unpack_smallest_three(rotations: ByteArray) -> FloatArray:
    packed: NDArray[Any] = np.ascontiguousarray(rotations).view("<u4")[:, 0]
    others = np.empty((len(packed), 3), np.float32)
    for column in range(3):
        number = packed >> np.uint32(10 * (2 - column))
        magnitude = (number & np.uint32(MAX_MAGNITUDE)).astype(np.float32) / np.float32(MAX_MAGNITUDE * math.sqrt(2))
        others[:, column] = np.where(number & np.uint32(512), -magnitude, magnitude)
    return from_smallest_three(packed >> np.uint32(30), others)[:, WXYZ]
