"""The parser of PLY files' headers, with one clear message for each possible fault."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from splatkit_ns.formats.gaussians import FormatError, NonFiniteError, SplatRenderMode, render_mode_named

PlyFormat = Literal["binary_little_endian", "binary_big_endian", "ascii"]

MAX_HEADER_BYTES = 1 << 20
SCALAR_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
"""PLY's names of scalar types, old and new -> numpy's."""


class PlyError(FormatError):
    """A PLY file cannot be used; the message says what was expected, what was found and what to do."""


class NonFinitePlyError(NonFiniteError, PlyError):
    """A PLY file has Gaussians with NaN or infinite values."""


@dataclass
class PlyElement:
    """One element of a header, such as `vertex`: its number of rows, and their properties."""

    name: str
    count: int
    properties: dict[str, str] = field(default_factory=dict[str, str])
    """Name -> numpy type code, in the order of the file."""
    lists: list[str] = field(default_factory=list[str])
    """Names of the list properties, which have no fixed size."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a binary row, lists left out."""
        return sum(int(code[1]) for code in self.properties.values())


@dataclass(frozen=True)
class PlyHeader:
    """A parsed header."""

    format: PlyFormat
    elements: dict[str, PlyElement]
    """The elements by name, in the order of the file."""
    num_bytes: int
    """Size of the header, which is the offset of the data, in bytes."""
    comments: list[str] = field(default_factory=list[str])
    """Texts of the comment lines."""


def read_header(file: BinaryIO, path: Path) -> PlyHeader:
    """Parse the header at the start of an open file, whose position is then the start of the data.

    Raises:
        PlyError: the file is no PLY, or its header is malformed.
    """
    if file.readline(8).rstrip(b"\r\n") != b"ply":
        raise PlyError(f"{path} is not a PLY file: it does not start with the line 'ply'.")
    format_found: PlyFormat | None = None
    elements: dict[str, PlyElement] = {}
    element: PlyElement | None = None  # to which the properties belong
    comments: list[str] = []
    line_number = 1
    while True:
        raw = file.readline(MAX_HEADER_BYTES)
        line_number += 1
        if not raw.endswith(b"\n") or file.tell() > MAX_HEADER_BYTES:
            raise PlyError(
                f"{path}: the PLY header has no end: expected the line 'end_header' within {MAX_HEADER_BYTES} bytes. "
                "The file is truncated or not a PLY file."
            )
        words = raw.decode("ascii", errors="replace").split()
        where = f"{path}, line {line_number}"
        if not words or words[0] in ("comment", "obj_info"):
            if words[:1] == ["comment"]:
                comments.append(" ".join(words[1:]))
            continue
        if words[0] == "end_header":
            break
        if words[0] == "format":
            format_found = _parse_format(words, where)
        elif words[0] == "element":
            element = _parse_element(words, elements, where)
            elements[element.name] = element
        elif words[0] == "property":
            _parse_property(words, element, where)
        else:
            raise PlyError(f"{where}: a PLY header has no line {_shown(words)}.")
    if format_found is None:
        raise PlyError(f"{path}: the PLY header has no 'format' line.")
    return PlyHeader(format_found, elements, file.tell(), comments)


def encoding_of(path: Path) -> str:
    """The encoding of the numbers in a PLY file, and the version of PLY.

    Raises:
        PlyError: the file is no PLY, or its header is malformed.
    """
    with path.open("rb") as file:
        return f"1.0, {read_header(file, path).format}"


def _parse_format(words: list[str], where: str) -> PlyFormat:
    for known in get_args(PlyFormat):
        if words[1:] == [known, "1.0"]:
            return known
    raise PlyError(
        f"{where}: expected format {' | '.join(get_args(PlyFormat))} and version 1.0, found {_shown(words)}."
    )


def _parse_element(words: list[str], elements: dict[str, PlyElement], where: str) -> PlyElement:
    if len(words) != 3 or not (words[2].isascii() and words[2].isdigit()) or len(words[2]) > 18:
        raise PlyError(f"{where}: expected 'element NAME COUNT', found {_shown(words)}.")
    if words[1] in elements:
        raise PlyError(f"{where}: the element {words[1]!r} is declared twice.")
    return PlyElement(words[1], int(words[2]))


def _parse_property(words: list[str], element: PlyElement | None, where: str) -> None:
    if element is None:
        raise PlyError(f"{where}: a property before any element.")
    if len(words) == 5 and words[1] == "list":
        element.lists.append(words[4])
        return
    if len(words) != 3 or words[1] not in SCALAR_TYPES:
        raise PlyError(f"{where}: expected 'property TYPE NAME' with a scalar type of PLY, found {_shown(words)}.")
    if words[2] in element.properties:
        raise PlyError(f"{where}: the property {words[2]!r} of {element.name!r} is declared twice.")
    element.properties[words[2]] = SCALAR_TYPES[words[1]]


def _shown(words: list[str]) -> str:
    return repr(" ".join(words)[:80])


def check_room(path: Path, start: int, count: int, row_bytes: int, slack: int = 0) -> None:
    """Check that a file has room for `count` rows from byte `start` on, before memory is taken for them.

    Raises:
        PlyError: it has not.
    """
    size = path.stat().st_size
    if start + count * row_bytes <= size + slack:
        return
    present = max(0, size - start) // max(row_bytes, 1)
    raise PlyError(
        f"{path} is truncated: its header declares {count} vertices of at least {row_bytes} bytes, but there is room "
        f"for {present} in the file. Copy or export it again."
    )


def mode_comments(mode: SplatRenderMode) -> tuple[str, ...]:
    """The comment that marks the way in which Gaussians were trained, as Brush writes it; none for 3D Gaussians."""
    return () if mode == "default" else (f"SplatRenderMode: {mode}",)


def render_mode_of(comments: list[str]) -> SplatRenderMode:
    """The way in which Gaussians were trained, from comments; the last one counts.

    Brush writes ``SplatRenderMode: default | mip | 2dgs``, Postshot ``antialiased 0 | 1``.
    """
    found: SplatRenderMode = "default"
    for comment in comments:
        words = comment.lower().split()
        if len(words) == 2 and words[0] == "splatrendermode:":
            found = render_mode_named(words[1]) or found
        elif len(words) == 2 and words[0] == "antialiased" and words[1] in ("0", "1"):
            found = "mip" if words[1] == "1" else "default"
    return found
