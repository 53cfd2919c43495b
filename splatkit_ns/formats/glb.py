"""Binary glTF (GLB) with the extension KHR_gaussian_splatting, at the state of its release candidate of 2026.

A primitive of points has attributes of floats: POSITION, ROTATION (xyzw), SCALE (standard deviations), OPACITY (0 to 1)
and SH_DEGREE_l_COEF_n (red, green, blue); COLOR_0 is for programs that do not know the extension. Data keep their axes
(right, down, forward), which a node turns to those of glTF (right, up, back).
https://github.com/KhronosGroup/glTF/tree/main/extensions/2.0/Khronos/KHR_gaussian_splatting
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.files import atomic_write
from splatkit_ns.formats._glb_reading import BIN_CHUNK, EXTENSION, JSON_CHUNK, MAGIC, MODE_EXTRA, PREFIX, read_glb
from splatkit_ns.formats._quantise import XYZW, deviations_of, opacity_bytes, sigmoid, to_bytes, unit_quats
from splatkit_ns.formats.gaussians import SH_C0, FloatArray, FormatError, Gaussians
from splatkit_ns.formats.registry import NoOptions, SplatFormat, register

FLOAT, UNSIGNED_BYTE, _ARRAY_BUFFER, _POINTS = 5126, 5121, 34962, 0
_MAX_BYTES = 2**32 - 1
_KERNEL: dict[str, Any] = {
    "kernel": "ellipse",
    "colorSpace": "srgb_rec709_display",
    "projection": "perspective",
    "sortingMethod": "cameraDistance",
}
"""The way in which Gaussians are drawn, in the words of the extension."""
_HALF_TURN_ABOUT_X = [1.0, 0.0, 0.0, 0.0]


def write_glb(path: Path, gaussians: Gaussians, options: NoOptions) -> None:
    """Write Gaussians atomically; see `SplatFormat.write`."""
    attributes = _attributes(gaussians)
    num_bytes = sum(values.nbytes for values in attributes.values())
    write_chunks(path, _document(gaussians, attributes, num_bytes), list(attributes.values()))


def write_chunks(path: Path, json_part: dict[str, Any], data: Sequence[NDArray[Any]]) -> None:
    """Write a GLB file atomically.

    Args:
        path: of the file.
        json_part: its JSON.
        data: the buffer, in pieces; the size of each is a multiple of 4 bytes.

    Raises:
        FormatError: it would be larger than a GLB file can be.
    """
    text = json.dumps(json_part, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 4)
    num_bytes = sum(values.nbytes for values in data)
    total = 12 + 8 + len(text) + 8 + num_bytes
    if total > _MAX_BYTES:
        raise FormatError(f"{path}: GLB files hold 4 GiB, these Gaussians need {total} bytes; use another format.")

    def write(file: BinaryIO) -> None:
        file.write(struct.pack("<III", MAGIC, 2, total))
        file.write(struct.pack("<II", len(text), JSON_CHUNK) + text)
        file.write(struct.pack("<II", num_bytes, BIN_CHUNK))
        for values in data:
            file.write(np.ascontiguousarray(values).data)

    atomic_write(path, write)


def _attributes(gaussians: Gaussians) -> dict[str, NDArray[Any]]:
    """Arrays (N, …) by attribute; the size of each is a multiple of 4 bytes."""
    colours = to_bytes((gaussians.sh0[:, 0] * SH_C0 + 0.5) * 255)
    coefficients: FloatArray = np.concatenate([gaussians.sh0, gaussians.shN], axis=1)
    attributes: dict[str, NDArray[Any]] = {
        "POSITION": gaussians.means.astype("<f4"),
        "COLOR_0": np.concatenate([colours, opacity_bytes(gaussians.opacities)[:, None]], axis=1),
        f"{PREFIX}ROTATION": unit_quats(gaussians.quats)[:, XYZW].astype("<f4"),
        f"{PREFIX}SCALE": deviations_of(gaussians.scales).astype("<f4"),
        f"{PREFIX}OPACITY": sigmoid(gaussians.opacities).astype("<f4"),
    }
    for degree in range(gaussians.sh_degree + 1):
        for number in range(2 * degree + 1):
            attributes[f"{PREFIX}SH_DEGREE_{degree}_COEF_{number}"] = coefficients[:, degree**2 + number].astype("<f4")
    return attributes


def _document(gaussians: Gaussians, attributes: dict[str, NDArray[Any]], num_bytes: int) -> dict[str, Any]:
    views: list[dict[str, Any]] = []
    accessors: dict[str, dict[str, Any]] = {}
    start = 0
    for number, (name, values) in enumerate(attributes.items()):
        views.append({"buffer": 0, "byteOffset": start, "byteLength": values.nbytes, "target": _ARRAY_BUFFER})
        start += values.nbytes
        kind = "SCALAR" if values.ndim == 1 else f"VEC{values.shape[1]}"
        accessor: dict[str, Any] = {"bufferView": number, "count": len(values), "type": kind}
        accessor |= (
            {"componentType": FLOAT} if name != "COLOR_0" else {"componentType": UNSIGNED_BYTE, "normalized": True}
        )
        if name == "POSITION":
            accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        accessors[name] = accessor
    return document(gaussians, accessors, views, num_bytes, {"rotation": _HALF_TURN_ABOUT_X})


def document(
    gaussians: Gaussians,
    accessors: Mapping[str, dict[str, Any]],
    views: list[dict[str, Any]],
    num_bytes: int,
    placing: dict[str, Any],
    compression: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Make the JSON of a scene with one primitive.

    Args:
        gaussians: of the primitive.
        accessors: of its attributes, by name.
        views: of the buffer.
        num_bytes: of the buffer.
        placing: moves the primitive, in the words of a node.
        compression: an extension by name, which programs have to know to read the Gaussians.
    """
    names = [EXTENSION, *(compression or {})]
    primitive: dict[str, Any] = {
        "mode": _POINTS,
        "attributes": {name: number for number, name in enumerate(accessors)},
        "extensions": {EXTENSION: _KERNEL | ({"extensions": compression} if compression else {})},
    }
    if gaussians.render_mode != "default":
        primitive["extras"] = {MODE_EXTRA: gaussians.render_mode}
    return {
        "asset": {"version": "2.0", "generator": "splatkit-ns"},
        "extensionsUsed": names,
        **({"extensionsRequired": names} if compression else {}),
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, **placing}],
        "meshes": [{"primitives": [primitive]}],
        "buffers": [{"byteLength": num_bytes}],
        "bufferViews": views,
        "accessors": list(accessors.values()),
    }


FORMAT = register(
    SplatFormat(
        name="glb",
        suffixes=(".glb",),
        about="Babylon and others with KHR_gaussian_splatting open it. Nothing is lost; as large as a PLY file.",
        read=read_glb,
        write=write_glb,
        version=lambda path: "2.0",  # the reader refuses others
    )
)
