"""Binary glTF (GLB) whose Gaussians are an SPZ file in it: the extension KHR_gaussian_splatting_compression_spz_2.

CesiumJS opens these, as content of 3D Tiles, and no others. The extension names attributes that are in the SPZ file, so
their accessors have no data. Axes are right, up, back in both formats.
https://github.com/CesiumGS/glTF/tree/draft-splat-spz/extensions/2.0/Khronos/KHR_gaussian_splatting_compression_spz_2
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from splatkit_ns.formats._glb_reading import EXTENSION, MODE_EXTRA, PREFIX, SPZ_EXTENSION, read_glb
from splatkit_ns.formats.gaussians import Gaussians
from splatkit_ns.formats.glb import KERNEL, write_chunks
from splatkit_ns.formats.registry import NoOptions, SplatFormat, register
from splatkit_ns.formats.spz import SpzOptions, spz_bytes

_FLOAT, _BYTE, _POINTS = 5126, 5121, 0


def write_spz_glb(path: Path, gaussians: Gaussians, options: NoOptions) -> None:
    """Write Gaussians atomically; see `SplatFormat.write`."""
    data = spz_bytes(path, gaussians, SpzOptions(version=2))
    padded = np.frombuffer(data + bytes(-len(data) % 4), np.uint8)
    write_chunks(path, _document(gaussians, len(data), padded.nbytes), [padded])


def _document(gaussians: Gaussians, num_bytes: int, num_padded: int) -> dict[str, Any]:
    means = gaussians.means * np.array([1, -1, -1], np.float32)
    vectors = ["POSITION", f"{PREFIX}SCALE"]
    for degree in range(1, gaussians.sh_degree + 1):
        vectors += [f"{PREFIX}SH_DEGREE_{degree}_COEF_{number}" for number in range(2 * degree + 1)]
    count = len(gaussians)
    accessors: dict[str, dict[str, Any]] = {
        name: {"count": count, "componentType": _FLOAT, "type": "VEC3"} for name in vectors
    }
    accessors["POSITION"] |= {"min": means.min(axis=0).tolist(), "max": means.max(axis=0).tolist()}
    accessors[f"{PREFIX}ROTATION"] = {"count": count, "componentType": _FLOAT, "type": "VEC4"}
    accessors["COLOR_0"] = {"count": count, "componentType": _BYTE, "type": "VEC4", "normalized": True}
    primitive: dict[str, Any] = {
        "mode": _POINTS,
        "attributes": {name: number for number, name in enumerate(accessors)},
        "extensions": {EXTENSION: {**KERNEL, "extensions": {SPZ_EXTENSION: {"bufferView": 0}}}},
    }
    if gaussians.render_mode != "default":
        primitive["extras"] = {MODE_EXTRA: gaussians.render_mode}
    return {
        "asset": {"version": "2.0", "generator": "splatkit-ns"},
        "extensionsUsed": [EXTENSION, SPZ_EXTENSION],
        "extensionsRequired": [EXTENSION, SPZ_EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "matrix": np.eye(4).ravel().tolist()}],  # Cesium needs one
        "meshes": [{"primitives": [primitive]}],
        "buffers": [{"byteLength": num_padded}],
        "bufferViews": [{"buffer": 0, "byteOffset": 0, "byteLength": num_bytes}],
        "accessors": list(accessors.values()),
    }


FORMAT = register(
    SplatFormat(
        name="spz.glb",
        suffixes=(".spz.glb",),
        about="CesiumJS opens it. An SPZ file within glTF: about a tenth of a PLY file.",
        read=read_glb,
        write=write_spz_glb,
        version=lambda path: "2.0, with SPZ",  # the reader refuses others
    )
)
