"""PLY files in the layout of 3DGS (the INRIA code), which viewers and converters share.

One `vertex` element: x y z, nx ny nz (zero), f_dc_0..2, f_rest_0.., opacity, scale_0..2, rot_0..3, all float32, in the
raw space of `Gaussians`. f_rest goes channel by channel: all red coefficients, then green, then blue. A comment
``SplatRenderMode: mip`` or ``2dgs``, as Brush writes it, marks Gaussians that were trained that way. Extra rows
follow as properties of their own, see `_ply_extra`.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.files import atomic_write
from splatkit_ns.formats._ply_extra import (
    Shapes,
    declared_extra,
    extra_comments,
    extra_names,
    extra_shapes,
    fill_extra,
    split_extra,
)
from splatkit_ns.formats.compressed_ply import is_compressed, read_compressed
from splatkit_ns.formats.gaussians import (
    LOG_THICKNESS,
    SH_C0,
    FloatArray,
    Gaussians,
    SplatRenderMode,
    check_finite,
    drop_non_finite,
)
from splatkit_ns.formats.ply_header import (
    MAX_HEADER_BYTES,
    NonFinitePlyError,
    PlyElement,
    PlyError,
    PlyFormat,
    PlyHeader,
    check_room,
    encoding_of,
    mode_comments,
    read_header,
    render_mode_of,
)
from splatkit_ns.formats.registry import SplatFormat, register

__all__ = ["PlyError", "PlyFormat", "PlyOptions", "read_ply", "write_ply"]

NUM_REST = (0, 9, 24, 45)
"""Number of f_rest properties of SH degree 0, 1, 2, 3."""
THICKNESS = "scale_2"
"""The property that files of discs may lack."""
COLOURS = ("red", "green", "blue")
"""The bytes that stand in place of f_dc in files of ``ns-export gaussian-splat --ply-color-mode rgb``."""
_CHUNK_ROWS = 1 << 16  # 16 MB of Gaussians of degree 3 at a time: stays in cache, and memory stays flat
_MAX_NUMBER_BYTES = 64
_BYTE_ORDER = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "<"}


def property_names(num_rest: int, normals: bool = True) -> list[str]:
    """Names of the vertex properties, in the order in which they are written."""
    return [
        *("x", "y", "z"),
        *(("nx", "ny", "nz") if normals else ()),
        *(f"f_dc_{i}" for i in range(3)),
        *(f"f_rest_{i}" for i in range(num_rest)),
        "opacity",
        *(f"scale_{i}" for i in range(3)),
        *(f"rot_{i}" for i in range(4)),
    ]


# ---------------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class PlyOptions:
    """The options of a PLY file."""

    encoding: PlyFormat = "binary_little_endian"
    """The encoding of the numbers; every viewer reads binary_little_endian."""
    comments: tuple[str, ...] = ()
    """Lines for the header."""


def write_ply(
    path: str | PathLike[str],
    gaussians: Gaussians,
    *,
    format: PlyFormat = "binary_little_endian",
    comments: tuple[str, ...] = (),
) -> None:
    """Write Gaussians atomically. Those with a NaN or infinity are left out, with one warning: viewers fail on them.

    Args:
        path: file to write; its folder is made if it is missing.
        gaussians: to write.
        format: encoding of the numbers.
        comments: lines for the header.

    Raises:
        PlyError: the format is unknown, a comment has a line break, or the header would be too long for the extra rows.
        FormatError: no Gaussian would be written.
        OSError: the file cannot be written; an old file is then as it was.
    """
    _write(Path(path), drop_non_finite(gaussians, path), PlyOptions(format, comments))


def _write(path: Path, gaussians: Gaussians, options: PlyOptions) -> None:
    format = options.encoding
    if format not in get_args(PlyFormat):
        raise PlyError(f"format must be one of {', '.join(get_args(PlyFormat))}, found {format!r}.")
    bad = [comment for comment in options.comments if not comment.isascii() or not comment.isprintable()]
    if bad:
        raise PlyError(f"a PLY comment must be one line of printable ASCII, found {bad[0]!r}.")
    num = len(gaussians)
    shapes = extra_shapes(gaussians.extra)
    own_names = property_names(gaussians.shN.shape[1] * 3)
    names = own_names + extra_names(shapes)
    comments = (*options.comments, *mode_comments(gaussians.render_mode), *extra_comments(shapes))
    header = ["ply", f"format {format} 1.0", *(f"comment {comment}" for comment in comments), f"element vertex {num}"]
    header += [f"property float {name}" for name in names] + ["end_header", ""]
    head = "\n".join(header).encode("ascii")
    if len(head) > MAX_HEADER_BYTES:
        raise PlyError(
            f"{path}: the PLY header would have {len(head)} bytes, expected at most {MAX_HEADER_BYTES}. Write fewer "
            f"comments, or fewer extra rows than {shapes}."
        )

    def write(file: BinaryIO) -> None:
        file.write(head)
        buffer = np.zeros((min(num, _CHUNK_ROWS), len(names)), dtype=np.float32)  # the normals stay zero
        for start in range(0, num, _CHUNK_ROWS):
            rows = buffer[: min(num - start, _CHUNK_ROWS)]
            _fill_rows(rows, gaussians, start)
            fill_extra(rows[:, len(own_names) :], gaussians.extra, shapes, start)
            _write_rows(file, rows, format)

    atomic_write(path, write)


def _fill_rows(rows: FloatArray, gaussians: Gaussians, start: int) -> None:
    stop = start + len(rows)
    num_rest = gaussians.shN.shape[1] * 3
    rest = 9 + num_rest
    rows[:, 0:3] = gaussians.means[start:stop]
    rows[:, 6:9] = gaussians.sh0[start:stop, 0]
    rows[:, 9:rest] = gaussians.shN[start:stop].transpose(0, 2, 1).reshape(len(rows), num_rest)
    rows[:, rest] = gaussians.opacities[start:stop]
    rows[:, rest + 1 : rest + 4] = gaussians.scales[start:stop]
    rows[:, rest + 4 : rest + 8] = gaussians.quats[start:stop]


def _write_rows(file: BinaryIO, rows: FloatArray, format: PlyFormat) -> None:
    if format == "ascii":
        np.savetxt(file, rows, fmt="%.9g")  # 9 digits bring back every float32
    else:
        file.write(np.ascontiguousarray(rows, dtype=_BYTE_ORDER[format] + "f4").data)


# ---------------------------------------------------------------------------------------------------------- reading


def read_ply(path: str | PathLike[str]) -> Gaussians:
    """Read Gaussians from an ascii or binary PLY file, or from a compressed one of PlayCanvas.

    Properties may come in any order and as any scalar type of PLY; normals and unknown properties are skipped, as are
    elements and bytes after the vertices. Extra rows are read if a comment declares them. Discs, which 2DGS's authors
    write without ``scale_2``, get `LOG_THICKNESS` as that. Colours may be bytes, `COLOURS`. Memory stays within a small
    multiple of the file's size.

    Raises:
        PlyError: the file is missing, is no PLY, is truncated, lacks a property, or holds NaN or infinite values.
    """
    file_path = Path(path)
    try:
        with file_path.open("rb") as file:
            header = read_header(file, file_path)
            if is_compressed(header):
                return read_compressed(file, header, file_path)
            vertex = _seek_vertices(file, header, file_path)
            num_rest = _check_properties(vertex, file_path)
            shapes = declared_extra(header.comments, vertex, file_path)
            names = property_names(num_rest, normals=False) + extra_names(shapes)
            thickness = names.index(THICKNESS)
            flat = THICKNESS not in vertex.properties
            if flat:
                names.remove(THICKNESS)
            coloured = _has_byte_colours(vertex)
            if coloured:
                names[3:6] = COLOURS
            columns = _read_ascii if header.format == "ascii" else _read_binary
            values = columns(file, header, vertex, names, file_path)
            if flat:
                values = np.insert(values, thickness, np.float32(LOG_THICKNESS), axis=1)
            if coloured:
                values[:, 3:6] = (values[:, 3:6] / 255 - 0.5) / SH_C0
    except OSError as error:
        raise PlyError(f"{file_path} cannot be read: {error.strerror or error}.") from error
    found = _to_gaussians(values, num_rest, "2dgs" if flat else render_mode_of(header.comments), shapes)
    return check_finite(found, file_path, NonFinitePlyError)


def _seek_vertices(file: BinaryIO, header: PlyHeader, path: Path) -> PlyElement:
    """Move to the first vertex and check that all the rows can be there, before anything is allocated for them."""
    names = list(header.elements)
    if "vertex" not in names:
        raise PlyError(f"{path}: expected an element 'vertex' with the Gaussians, found {names[:9] or 'no elements'}.")
    before = [header.elements[name] for name in names[: names.index("vertex")]]
    vertex = header.elements["vertex"]
    if vertex.count == 0:
        raise PlyError(f"{path}: the element 'vertex' has no rows: there are no Gaussians in the file.")
    for element in (*before, vertex):
        if element.lists:
            raise PlyError(
                f"{path}: the element {element.name!r} has the list property {element.lists[0]!r}; Gaussians have only "
                "scalar ones. Is this a mesh?"
            )
    skipped_lines = sum(element.count for element in before)
    if header.format == "ascii":
        # a number takes at least a digit and a separator, except that the last line may lack its line break
        check_room(path, header.num_bytes + skipped_lines, vertex.count, 2 * len(vertex.properties), slack=1)
        for _ in range(skipped_lines):
            file.readline()
    else:
        start = header.num_bytes + sum(element.count * element.row_bytes for element in before)
        check_room(path, start, vertex.count, vertex.row_bytes)
        file.seek(start)
    return vertex


def _check_properties(vertex: PlyElement, path: Path) -> int:
    """Number of f_rest properties, after checking that nothing that Gaussians need is missing."""
    present = set(vertex.properties)
    rest = {name for name in present if name.startswith("f_rest_")}
    if len(rest) not in NUM_REST or rest != {f"f_rest_{i}" for i in range(len(rest))}:
        raise PlyError(
            f"{path}: expected the properties f_rest_0 to f_rest_(n-1) with n = 0, 9, 24 or 45 (SH degree 0 to 3), "
            f"found {len(rest)} of them."
        )
    spared = {THICKNESS, "f_dc_0", "f_dc_1", "f_dc_2"} if _has_byte_colours(vertex) else {THICKNESS}
    needed = [name for name in property_names(len(rest), normals=False) if name not in spared]
    missing = [name for name in needed if name not in present]
    if missing:
        raise PlyError(
            f"{path}: the vertices lack the properties {', '.join(missing)}. Is this a point cloud or a mesh? A file "
            "of Gaussians has x, f_dc_0, opacity, scale_0, rot_0 and so on."
        )
    return len(rest)


def _has_byte_colours(vertex: PlyElement) -> bool:
    """Whether the vertices have `COLOURS` as bytes, and no colour as a coefficient."""
    return "f_dc_0" not in vertex.properties and all(vertex.properties.get(name) == "u1" for name in COLOURS)


def _read_binary(file: BinaryIO, header: PlyHeader, vertex: PlyElement, names: list[str], path: Path) -> FloatArray:
    order = _BYTE_ORDER[header.format]
    dtype = np.dtype([(name, order + code) for name, code in vertex.properties.items()])
    uniform = all(code == "f4" for code in vertex.properties.values())
    position = {name: i for i, name in enumerate(vertex.properties)}
    columns = [position[name] for name in names]
    values = np.empty((vertex.count, len(names)), dtype=np.float32)
    for start in range(0, vertex.count, _CHUNK_ROWS):
        out = values[start : start + _CHUNK_ROWS]
        data = file.read(len(out) * dtype.itemsize)
        if len(data) < len(out) * dtype.itemsize:
            raise PlyError(f"{path} is truncated: it ends within vertex {start + len(data) // dtype.itemsize}.")
        if uniform:
            np.take(np.frombuffer(data, order + "f4").reshape(len(out), -1), columns, axis=1, out=out, mode="clip")
            continue
        rows: NDArray[Any] = np.frombuffer(data, dtype)
        with np.errstate(over="ignore"):  # a double too large for float32 becomes infinite, which is refused later
            for i, name in enumerate(names):
                out[:, i] = rows[name]
    return values


def _read_ascii(file: BinaryIO, header: PlyHeader, vertex: PlyElement, names: list[str], path: Path) -> FloatArray:
    position = {name: i for i, name in enumerate(vertex.properties)}
    columns = [position[name] for name in names]
    num_columns = len(vertex.properties)
    longest_line = _MAX_NUMBER_BYTES * (num_columns + 1)  # so that a line without an end is not read whole
    values = np.empty((vertex.count, len(names)), dtype=np.float32)
    for row in range(vertex.count):
        line = file.readline(longest_line)
        words = line.split()
        if not line:
            raise PlyError(f"{path} is truncated: its header declares {vertex.count} vertices, found {row}.")
        if len(words) != num_columns:
            raise PlyError(f"{path}, vertex {row}: expected {num_columns} numbers on the line, found {len(words)}.")
        try:
            numbers = [float(word) for word in words]
        except ValueError:
            raise PlyError(f"{path}, vertex {row}: expected numbers, found {line[:60]!r}.") from None
        with np.errstate(over="ignore"):
            values[row] = [numbers[column] for column in columns]
    return values


def _to_gaussians(values: FloatArray, num_rest: int, render_mode: SplatRenderMode, shapes: Shapes) -> Gaussians:
    """Split the columns, in the order of `property_names` without normals and `extra_names`, into arrays."""
    num, rest = len(values), 6 + num_rest
    columns = {
        "means": values[:, 0:3],
        "scales": values[:, rest + 1 : rest + 4],
        "quats": values[:, rest + 4 : rest + 8],
        "opacities": values[:, rest],
        "sh0": values[:, None, 3:6],
        "shN": values[:, 6:rest].reshape(num, 3, num_rest // 3).transpose(0, 2, 1),
    }
    arrays = {key: np.ascontiguousarray(value) for key, value in columns.items()}
    return Gaussians(**arrays, render_mode=render_mode, extra=split_extra(values[:, rest + 8 :], shapes))


FORMAT = register(
    SplatFormat(
        name="ply",
        suffixes=(".ply",),
        about="Every viewer and editor opens it; nothing is lost. 248 bytes a Gaussian of SH degree 3.",
        read=read_ply,
        write=_write,
        options=PlyOptions,
        version=encoding_of,
        keeps_extra=True,
    )
)
