"""The reader of Gaussians in GLB files, which trusts nothing in the file."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.formats._inflate import check_inflated
from splatkit_ns.formats._quantise import WXYZ, as_floats, log_scales_of, logits_of
from splatkit_ns.formats._spz_reading import read_spz_stream
from splatkit_ns.formats.frames import Similarity, transform
from splatkit_ns.formats.gaussians import (
    DoubleArray,
    FormatError,
    Gaussians,
    SplatRenderMode,
    join_parts,
    render_mode_named,
)

MAGIC, JSON_CHUNK, BIN_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
EXTENSION = "KHR_gaussian_splatting"
SPZ_EXTENSION = f"{EXTENSION}_compression_spz_2"
PREFIX = f"{EXTENSION}:"
MODE_EXTRA = "SplatRenderMode"
"""Key in a primitive's extras for the way in which its Gaussians were trained, which the extension cannot store."""
_MAX_JSON_BYTES = 16 << 20
_MAX_NODES = 100_000
_BYTES_OF_ONE = 240
_COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
_HALF_TURN = np.diag([1.0, -1.0, -1.0, 1.0])


def read_glb(path: Path) -> Gaussians:
    """Read the Gaussians of all nodes of a GLB file's scene, in the axes of PLY files.

    Raises:
        FormatError: the file is of another kind, damaged or forged, or holds no Gaussians.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(20)
        if len(head) < 20 or struct.unpack_from("<I", head)[0] != MAGIC:
            raise FormatError(f"{path} is not a GLB file: it does not begin with glTF.")
        _, version, _, json_bytes, kind = struct.unpack("<IIIII", head)
        if version != 2 or kind != JSON_CHUNK:
            raise FormatError(f"{path}: expected GLB of version 2 that begins with JSON, found version {version}.")
        if json_bytes > min(size, _MAX_JSON_BYTES):
            raise FormatError(f"{path}: its JSON of {json_bytes} bytes is more than the file has, or too much.")
        text = file.read(json_bytes)
        chunk = file.read(8)
        num_bytes, kind = struct.unpack("<II", chunk) if len(chunk) == 8 else (0, BIN_CHUNK)
        if kind != BIN_CHUNK or num_bytes > size - file.tell():
            raise FormatError(f"{path} is truncated: {num_bytes} bytes of data were expected after the JSON.")
        binary = file.read(num_bytes)
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: the JSON in the file cannot be read ({error}).") from error
    return _Reader(path, document, binary).gaussians()


@dataclass(frozen=True)
class _Reader:
    path: Path
    document: Any
    binary: bytes

    def gaussians(self) -> Gaussians:
        """The Gaussians of all primitives that have the extension, at the places that the nodes give them."""
        placed: list[tuple[DoubleArray, dict[str, Any]]] = []
        total = 0
        for matrix, primitive in self._primitives():  # all are counted before any is read
            count = self._integer(self._accessor(primitive, "POSITION").get("count"), "an accessor's count")
            total += max(count, 1)
            check_inflated(self.path, total * _BYTES_OF_ONE, len(self.binary))
            placed.append((matrix, primitive))
        if not placed:
            self._fail(f"there are no Gaussians in it: no primitive in the scene has {EXTENSION}")
        return join_parts([self._placed(matrix, primitive) for matrix, primitive in placed], self.path)

    def _placed(self, matrix: DoubleArray, primitive: dict[str, Any]) -> Gaussians:
        """A primitive's Gaussians in the axes of PLY files, moved by the matrix of its node."""
        compressed = self._compression(primitive)
        if compressed is None:
            return transform(self._read(primitive), self._move(matrix))
        return transform(self._read_spz(primitive, compressed), self._move(matrix @ _HALF_TURN))

    def _fail(self, reason: str) -> NoReturn:
        raise FormatError(f"{self.path}: {reason}.")

    def _item(self, key: str, number: Any) -> dict[str, Any]:
        """Entry of a list of the document."""
        items = self.document.get(key) if isinstance(self.document, dict) else None
        entries = cast(list[Any], items) if isinstance(items, list) else []
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(entries):
            self._fail(f"its {key} have no entry {number!r:.40}")
        entry = entries[number]
        if not isinstance(entry, dict):
            self._fail(f"entry {number} of its {key} is no object")
        return cast(dict[str, Any], entry)

    def _integer(self, value: Any, name: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**40:
            self._fail(f"expected a whole number as {name}, found {value!r:.40}")
        return value

    def _list(self, value: Any, name: str) -> list[Any]:
        if not isinstance(value, list):
            self._fail(f"expected a list of {name}, found {value!r:.40}")
        return cast(list[Any], value)

    def _primitives(self) -> Iterator[tuple[DoubleArray, dict[str, Any]]]:
        """Primitives with Gaussians and the matrices (4, 4) of their nodes."""
        if not isinstance(self.document, dict):
            self._fail("its JSON is no object")
        scene = self._item("scenes", cast(dict[str, Any], self.document).get("scene", 0))
        waiting = [(number, np.eye(4)) for number in self._list(scene.get("nodes", []), "nodes")]
        visited = 0
        while waiting:
            number, above = waiting.pop(0)
            visited += 1
            if visited > _MAX_NODES:
                self._fail(f"its scene has more than {_MAX_NODES} nodes, or a node within itself")
            node = self._item("nodes", number)
            matrix = above @ self._matrix(node)
            children = self._list(node.get("children", []), "children")
            waiting += [(child, matrix) for child in children[:_MAX_NODES]]
            if "mesh" not in node:
                continue
            for primitive in self._list(self._item("meshes", node["mesh"]).get("primitives", []), "primitives"):
                extensions = primitive.get("extensions") if isinstance(primitive, dict) else None
                if isinstance(extensions, dict) and EXTENSION in extensions:
                    yield matrix, cast(dict[str, Any], primitive)

    def _matrix(self, node: dict[str, Any]) -> DoubleArray:
        """A node's own matrix (4, 4)."""
        if "matrix" in node:
            return self._vector(node, "matrix", [0.0] * 16).reshape(4, 4).T
        matrix = np.eye(4)
        x, y, z, w = self._vector(node, "rotation", [0.0, 0.0, 0.0, 1.0])
        matrix[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
        matrix[:3, :3] *= self._vector(node, "scale", [1.0, 1.0, 1.0])
        matrix[:3, 3] = self._vector(node, "translation", [0.0, 0.0, 0.0])
        return matrix

    def _vector(self, node: dict[str, Any], key: str, default: list[float]) -> DoubleArray:
        values = node.get(key, default)
        found = cast(list[Any], values) if isinstance(values, list) else []
        numbers = all(isinstance(value, (int, float)) and abs(value) < 1e15 for value in found)
        if len(found) != len(default) or not numbers:
            self._fail(f"a node's {key} should be {len(default)} numbers, found {values!r:.60}")
        return np.array(found, np.float64)

    def _move(self, matrix: DoubleArray) -> Similarity:
        """The move from a primitive's data to the axes of PLY files, which are half a turn about x from glTF's."""
        try:
            return Similarity.from_matrix(_HALF_TURN @ matrix)
        except FormatError as error:
            raise FormatError(f"{self.path}: {error}") from error

    def _read(self, primitive: dict[str, Any]) -> Gaussians:
        """A primitive's own Gaussians."""
        attributes = primitive.get("attributes")
        if not isinstance(attributes, dict):
            self._fail("a primitive has no attributes")
        degree = max((d for d in range(1, 4) if f"{PREFIX}SH_DEGREE_{d}_COEF_0" in attributes), default=0)
        means = self._values(primitive, "POSITION", 3)
        names = [f"{PREFIX}SH_DEGREE_{d}_COEF_{n}" for d in range(degree + 1) for n in range(2 * d + 1)]
        coefficients = [self._values(primitive, name, 3) for name in names]
        scales = self._values(primitive, f"{PREFIX}SCALE", 3)
        opacities = self._values(primitive, f"{PREFIX}OPACITY", 1)[:, 0]
        quats = self._values(primitive, f"{PREFIX}ROTATION", 4)[:, WXYZ]
        if not ((scales >= 0).all() and (opacities >= 0).all() and (opacities <= 1).all()):
            self._fail("expected SCALE of at least 0 and OPACITY from 0 to 1; drafts of the extension had logs")
        if any(len(values) != len(means) for values in (*coefficients, scales, opacities, quats)):
            self._fail("the attributes of a primitive have different counts")
        sh = np.stack(coefficients, axis=1)
        return Gaussians(
            means=as_floats(means),
            scales=log_scales_of(scales),
            quats=as_floats(quats),
            opacities=logits_of(opacities),
            sh0=np.ascontiguousarray(as_floats(sh[:, :1])),
            shN=np.ascontiguousarray(as_floats(sh[:, 1:])),
            render_mode=self._render_mode(primitive) or "default",
        )

    def _compression(self, primitive: dict[str, Any]) -> dict[str, Any] | None:
        """The extension that names the part of the data with a primitive's SPZ file; None if it has none."""
        found: Any = primitive["extensions"][EXTENSION]
        within = cast(dict[str, Any], found).get("extensions") if isinstance(found, dict) else None
        if not isinstance(within, dict) or SPZ_EXTENSION not in within:
            return None
        compressed = cast(dict[str, Any], within)[SPZ_EXTENSION]
        return cast(dict[str, Any], compressed) if isinstance(compressed, dict) else {}

    def _read_spz(self, primitive: dict[str, Any], compressed: dict[str, Any]) -> Gaussians:
        """A primitive's own Gaussians, in the axes of PLY files."""
        view = self._view(compressed.get("bufferView"))
        start = self._integer(view.get("byteOffset", 0), "a view's offset")
        length = self._integer(view.get("byteLength"), "a view's length")
        if start + length > len(self.binary):
            self._fail(f"an SPZ file of {length} bytes does not fit into the {len(self.binary)} bytes of data")
        data = self.binary[start : start + length]
        found = read_spz_stream(io.BytesIO(data), length, self.path)
        if self._accessor(primitive, "POSITION").get("count") != len(found):
            self._fail(f"its SPZ data have {len(found)} Gaussians, and POSITION another number")
        return replace(found, render_mode=self._render_mode(primitive) or found.render_mode)

    def _render_mode(self, primitive: dict[str, Any]) -> SplatRenderMode | None:
        extras = primitive.get("extras")
        return render_mode_named(cast(dict[str, Any], extras).get(MODE_EXTRA) if isinstance(extras, dict) else None)

    def _accessor(self, primitive: dict[str, Any], name: str) -> dict[str, Any]:
        attributes = primitive.get("attributes")
        if not isinstance(attributes, dict) or name not in attributes:
            self._fail(f"a primitive with {EXTENSION} has no attribute {name}")
        return self._item("accessors", cast(dict[str, Any], attributes)[name])

    def _view(self, number: Any) -> dict[str, Any]:
        """A part of the data within the file."""
        view = self._item("bufferViews", number)
        if view.get("buffer") != 0 or "uri" in self._item("buffers", 0):
            self._fail("its data are in another file; only those within the GLB file are read")
        return view

    def _values(self, primitive: dict[str, Any], name: str, width: int) -> NDArray[Any]:
        """Values (N, width) of an attribute, after checking that all its bytes are in the file."""
        accessor = self._accessor(primitive, name)
        code, kind = accessor.get("componentType"), accessor.get("type")
        if (
            not isinstance(code, int)
            or code not in _COMPONENTS
            or not isinstance(kind, str)
            or _WIDTHS.get(kind) != width
            or "sparse" in accessor
        ):
            self._fail(
                f"{name} should be {width} numbers a Gaussian and not sparse, found {kind!r:.20} of {code!r:.20}"
            )
        view = self._view(accessor.get("bufferView"))
        dtype = np.dtype(_COMPONENTS[code])
        count = self._integer(accessor.get("count"), "an accessor's count")
        stride = self._integer(view.get("byteStride", dtype.itemsize * width), "a view's stride")
        start = self._integer(view.get("byteOffset", 0), "a view's offset")
        start += self._integer(accessor.get("byteOffset", 0), "an accessor's offset")
        if (
            count == 0
            or stride < dtype.itemsize * width
            or start + (count - 1) * stride + dtype.itemsize * width > len(self.binary)
        ):
            self._fail(f"{name} of {count} Gaussians does not fit into the {len(self.binary)} bytes of data")
        values = np.ndarray((count, width), dtype, self.binary, start, (stride, dtype.itemsize))
        if dtype.kind == "f":
            return values
        if accessor.get("normalized") is not True:
            return values.astype(np.float32)
        return np.maximum(values / np.float32(np.iinfo(dtype).max), np.float32(-1))
