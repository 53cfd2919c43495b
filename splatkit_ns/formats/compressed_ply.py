"""PlayCanvas' compressed PLY: chunks of 256 Gaussians, whose numbers are fractions between the chunk's bounds.

An element `chunk` holds the bounds of 256 centres, log scales and colours as floats; a `vertex` packs a centre and
three scales into 11, 10 and 11 bits each, a rotation into 2 + 3 x 10 bits (the three smaller components), and colour
and opacity into 4 x 8; an element `sh`, if there is one, holds SH coefficients above degree 0 as bytes, channel by
channel. https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/ply
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.files import atomic_write
from splatkit_ns.formats._quantise import (
    ByteArray,
    from_smallest_three,
    logits_of_bytes,
    morton_order,
    opacity_bytes,
    smallest_three,
    unit_quats,
)
from splatkit_ns.formats.gaussians import (
    NUM_COEFFICIENTS_TO_DEGREE,
    SH_C0,
    FloatArray,
    Gaussians,
    check_finite,
)
from splatkit_ns.formats.ply_header import (
    NonFinitePlyError,
    PlyElement,
    PlyError,
    PlyHeader,
    check_room,
    encoding_of,
    mode_comments,
    read_header,
    render_mode_of,
)
from splatkit_ns.formats.registry import NoOptions, SplatFormat, register

CHUNK = 256
"""The number of Gaussians of a chunk; the last one may have fewer."""
MAX_LOG_SCALE = 20.0
"""The bound of log scales on both sides: values beyond would leave no bits for the others of a chunk."""
SH_RANGE = 8.0
"""The width of the range of SH coefficients, -4 to 4; values outside are clamped to it when written."""
_QUANTITIES = (("", "xyz"), ("scale_", "xyz"), ("", "rgb"))
CHUNK_NAMES = tuple(
    f"{bound}_{prefix}{axis}" for prefix, axes in _QUANTITIES for bound in ("min", "max") for axis in axes
)
"""min_x, min_y, min_z, max_x, …: the properties of a chunk, in the order in which they are written."""
VERTEX_NAMES = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
_POSITION_BITS = (11, 10, 11)
_COLOUR_BITS = (8, 8, 8)

# ---------------------------------------------------------------------------------------------------------- writing


def write_compressed(path: Path, gaussians: Gaussians, options: NoOptions) -> None:
    """Write Gaussians atomically, in an order in which neighbours share a chunk; see `SplatFormat.write`."""
    gaussians = gaussians.take(morton_order(gaussians.means))
    colours = gaussians.sh0[:, 0] * np.float32(SH_C0) + np.float32(0.5)
    scales = np.clip(gaussians.scales, -MAX_LOG_SCALE, MAX_LOG_SCALE)
    bounds: list[FloatArray] = []
    packed: list[NDArray[np.uint32]] = []
    for values, bits in ((gaussians.means, _POSITION_BITS), (scales, _POSITION_BITS), (colours, _COLOUR_BITS)):
        low, high = _chunk_bounds(values)
        bounds += [low, high]
        packed.append(_pack(_fractions(values, low, high), bits))
    position, scale, colour = packed
    colour = (colour << np.uint32(8)) | opacity_bytes(gaussians.opacities)
    vertices = np.stack([position, _pack_rotation(gaussians.quats), scale, colour], axis=1)
    chunks = np.concatenate(bounds, axis=1)
    rest = _pack_sh(gaussians.shN)
    header = _header(gaussians, len(chunks), rest.shape[1])

    def write(file: BinaryIO) -> None:
        file.write(header)
        file.write(chunks.astype("<f4").tobytes())
        file.write(vertices.astype("<u4").tobytes())
        file.write(rest.tobytes())

    atomic_write(path, write)


def _header(gaussians: Gaussians, num_chunks: int, num_rest: int) -> bytes:
    lines = ["ply", "format binary_little_endian 1.0"]
    lines += [f"comment {comment}" for comment in mode_comments(gaussians.render_mode)]
    lines += [f"element chunk {num_chunks}", *(f"property float {name}" for name in CHUNK_NAMES)]
    lines += [f"element vertex {len(gaussians)}", *(f"property uint {name}" for name in VERTEX_NAMES)]
    if num_rest:
        lines += [f"element sh {len(gaussians)}", *(f"property uchar f_rest_{i}" for i in range(num_rest))]
    return "\n".join([*lines, "end_header", ""]).encode("ascii")


def _chunk_bounds(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The least and greatest values (C, 3) of each chunk's rows of (N, 3)."""
    starts = np.arange(0, len(values), CHUNK)
    return np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)


def _fractions(values: FloatArray, low: FloatArray, high: FloatArray) -> NDArray[np.float64]:
    """The positions of values (N, 3) between their chunk's bounds (C, 3), 0 to 1."""
    lowest = low.astype(np.float64)  # the difference of two of the largest numbers of float32 would be infinite
    low, extent = _per_row(lowest, len(values)), _per_row(high - lowest, len(values))
    return np.divide(values - low, extent, out=np.zeros(values.shape), where=extent > 0)


def _per_row(chunks: NDArray[Any], num: int) -> NDArray[Any]:
    """A row of `chunks` for each of `num` Gaussians."""
    return np.repeat(chunks, CHUNK, axis=0)[:num]


def _pack(fractions: NDArray[Any], bits: tuple[int, ...]) -> NDArray[np.uint32]:
    """Fractions (N, 3) as unsigned numbers of the given bits, the first one highest."""
    packed = np.zeros(len(fractions), np.uint32)
    for column, count in enumerate(bits):
        top = 2**count - 1
        number = np.clip(np.rint(fractions[:, column] * top), 0, top).astype(np.uint32)
        packed = (packed << np.uint32(count)) | number
    return packed


def _pack_rotation(quats: FloatArray) -> NDArray[np.uint32]:
    largest, others = smallest_three(unit_quats(quats))
    return (largest.astype(np.uint32) << np.uint32(30)) | _pack(others * np.sqrt(0.5) + 0.5, (10, 10, 10))


def _pack_sh(coefficients: FloatArray) -> ByteArray:
    """(N, K - 1, 3) coefficients as bytes (N, 3 (K - 1)), channel by channel, each for 1 / 256 of the range."""
    flat = coefficients.transpose(0, 2, 1).reshape(len(coefficients), -1)
    return np.clip(np.floor((flat / SH_RANGE + 0.5) * 256.0), 0, 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------- reading


def is_compressed(header: PlyHeader) -> bool:
    """Whether a PLY header is that of a compressed file."""
    return "chunk" in header.elements and "packed_position" in (
        header.elements["vertex"].properties if "vertex" in header.elements else {}
    )


def read_compressed_ply(path: Path) -> Gaussians:
    """Read a compressed PLY file.

    Raises:
        PlyError: the file is missing, of another kind, truncated, or holds values that are not finite.
    """
    try:
        with path.open("rb") as file:
            header = read_header(file, path)
            if not is_compressed(header):
                raise PlyError(
                    f"{path} is no compressed PLY file: expected the elements 'chunk' and 'vertex' with "
                    f"packed_position, found {list(header.elements)[:9] or 'no elements'}. Is it an ordinary PLY file? "
                    "Then its name must not end in .compressed.ply."
                )
            return read_compressed(file, header, path)
    except OSError as error:
        raise PlyError(f"{path} cannot be read: {error.strerror or error}.") from error


def read_compressed(file: BinaryIO, header: PlyHeader, path: Path) -> Gaussians:
    """Read the data of a compressed PLY file, whose header has been read.

    Raises:
        PlyError: the elements are not those of such a file, it is truncated, or holds values that are not finite.
    """
    num, num_rest = _check_header(header, path)
    tables: dict[str, dict[str, NDArray[Any]]] = {}
    for element in header.elements.values():
        if element.name in ("chunk", "vertex", "sh") and element.row_bytes:
            tables[element.name] = _read_element(file, element, path)
        else:
            file.seek(element.count * element.row_bytes, 1)
    chunks, vertices = tables["chunk"], tables["vertex"]
    centres, log_scales, colours = (
        _unpack(vertices[name] >> np.uint32(shift), bits)
        for name, shift, bits in (
            ("packed_position", 0, _POSITION_BITS),
            ("packed_scale", 0, _POSITION_BITS),
            ("packed_color", 8, _COLOUR_BITS),
        )
    )
    with np.errstate(over="ignore", invalid="ignore"):
        means = _between(chunks, "", "xyz", centres)
        scales = _between(chunks, "scale_", "xyz", log_scales)
        if "min_r" in header.elements["chunk"].properties:  # before SuperSplat 2, colours were from 0 to 1
            colours = _between(chunks, "", "rgb", colours)
    opacities = logits_of_bytes((vertices["packed_color"] & np.uint32(255)).astype(np.uint8))
    rotation = vertices["packed_rotation"]
    others = (_unpack(rotation, (10, 10, 10)) - np.float32(0.5)) * np.float32(np.sqrt(2))
    rest = np.empty((num, 0), np.float32)
    if num_rest:
        numbers = np.stack([tables["sh"][f"f_rest_{i}"] for i in range(num_rest)], axis=1).astype(np.float32)
        # a byte is the middle of its 1 / 256, but the ends are the range's own
        middles = np.where(numbers == 0, 0.0, np.where(numbers == 255, 1.0, (numbers + 0.5) / 256.0))
        rest = ((middles - 0.5) * SH_RANGE).astype(np.float32)
    found = Gaussians(
        means=means,
        scales=scales,
        quats=from_smallest_three(rotation >> np.uint32(30), others),
        opacities=opacities,
        sh0=((colours - np.float32(0.5)) / np.float32(SH_C0)).astype(np.float32)[:, None],
        shN=np.ascontiguousarray(rest.reshape(num, 3, num_rest // 3).transpose(0, 2, 1)),
        render_mode=render_mode_of(header.comments),
    )
    check_finite(found, path, NonFinitePlyError)
    return found


def _check_header(header: PlyHeader, path: Path) -> tuple[int, int]:
    """Numbers of Gaussians and of SH properties, if the header is that of a whole compressed file."""
    vertex, chunk = header.elements["vertex"], header.elements["chunk"]
    if header.format != "binary_little_endian":
        raise PlyError(f"{path}: expected a compressed PLY file in binary_little_endian, found {header.format}.")
    needed = {vertex.name: VERTEX_NAMES, chunk.name: CHUNK_NAMES[:12]}
    for element in (vertex, chunk):
        missing = [name for name in needed[element.name] if name not in element.properties]
        if missing:
            raise PlyError(f"{path}: the element {element.name!r} lacks the properties {', '.join(missing)}.")
    partly = [name for name in CHUNK_NAMES[12:] if name in chunk.properties]
    if len(partly) not in (0, 6):
        raise PlyError(f"{path}: expected none or all of {', '.join(CHUNK_NAMES[12:])}, found {', '.join(partly)}.")
    wrong = [name for name in VERTEX_NAMES if vertex.properties[name] not in ("u4", "i4")]
    if wrong:
        raise PlyError(f"{path}: expected {', '.join(wrong)} as uint, found {vertex.properties[wrong[0]]}.")
    if vertex.count == 0:
        raise PlyError(f"{path}: the element 'vertex' has no rows: there are no Gaussians in the file.")
    if chunk.count != -(-vertex.count // CHUNK):
        raise PlyError(
            f"{path}: expected {-(-vertex.count // CHUNK)} chunks of {CHUNK} for {vertex.count} Gaussians, found "
            f"{chunk.count}."
        )
    start = header.num_bytes
    for element in header.elements.values():
        if element.lists:
            raise PlyError(f"{path}: the element {element.name!r} has a list property; Gaussians have only scalars.")
        check_room(path, start, element.count, element.row_bytes)
        start += element.count * element.row_bytes
    return vertex.count, _count_sh(header, vertex.count, path)


def _count_sh(header: PlyHeader, num: int, path: Path) -> int:
    sh = header.elements.get("sh")
    if sh is None:
        return 0
    names = [f"f_rest_{i}" for i in range(len(sh.properties))]
    if set(names) != set(sh.properties) or len(names) / 3 not in NUM_COEFFICIENTS_TO_DEGREE:
        raise PlyError(
            f"{path}: expected the properties f_rest_0 to f_rest_(n-1) of 'sh' with n = 9, 24 or 45 (SH degree 1 to "
            f"3), found {len(names)} properties."
        )
    if sh.count != num or any(code != "u1" for code in sh.properties.values()):
        raise PlyError(
            f"{path}: expected {num} rows of 'sh' as uchar, found {sh.count} of {set(sh.properties.values())}."
        )
    return len(names)


def _read_element(file: BinaryIO, element: PlyElement, path: Path) -> dict[str, NDArray[Any]]:
    """The columns of an element, in the order of the file."""
    dtype = np.dtype([(name, "<" + ("u4" if code == "i4" else code)) for name, code in element.properties.items()])
    data = file.read(element.count * dtype.itemsize)
    if len(data) < element.count * dtype.itemsize:
        raise PlyError(f"{path} is truncated: it ends within the element {element.name!r}.")
    rows: NDArray[Any] = np.frombuffer(data, dtype)
    return {name: rows[name] for name in element.properties}


def _unpack(packed: NDArray[Any], bits: tuple[int, ...]) -> FloatArray:
    """Fractions (N, 3) of numbers that `_pack` packed."""
    fractions = np.empty((len(packed), len(bits)), np.float32)
    for column in reversed(range(len(bits))):
        top = 2 ** bits[column] - 1
        fractions[:, column] = (packed & np.uint32(top)).astype(np.float64) / top
        packed = packed >> np.uint32(bits[column])
    return fractions


def _between(chunks: dict[str, NDArray[Any]], prefix: str, axes: str, fractions: FloatArray) -> FloatArray:
    low, high = (
        _per_row(np.stack([chunks[f"{bound}_{prefix}{axis}"] for axis in axes], axis=1), len(fractions)).astype(
            np.float64
        )
        for bound in ("min", "max")
    )
    return (low + (high - low) * fractions).astype(np.float32)


FORMAT = register(
    SplatFormat(
        name="compressed.ply",
        suffixes=(".compressed.ply",),
        about="PlayCanvas, SuperSplat, Spark and others open it. About a quarter of a PLY file.",
        read=read_compressed_ply,
        write=write_compressed,
        version=encoding_of,
    )
)
