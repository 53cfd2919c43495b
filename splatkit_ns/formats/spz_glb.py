"""Binary glTF (GLB) whose Gaussians are an SPZ file in it: the extension KHR_gaussian_splatting_compression_spz_2.

CesiumJS opens these, as content of 3D Tiles, and no others. The extension names attributes that are in the SPZ file, so
their accessors have no data. Axes are right, up, back in both formats.
https://github.com/CesiumGS/glTF/tree/draft-splat-spz/extensions/2.0/Khronos/KHR_gaussian_splatting_compression_spz_2
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from splatkit_ns.formats._glb_reading import PREFIX, SPZ_EXTENSION, read_glb
from splatkit_ns.formats.gaussians import Gaussians
from splatkit_ns.formats.glb import FLOAT, UNSIGNED_BYTE, document, write_chunks
from splatkit_ns.formats.registry import NoOptions, SplatFormat, register
from splatkit_ns.formats.spz import SpzOptions, spz_bytes


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
        name: {"count": count, "componentType": FLOAT, "type": "VEC3"} for name in vectors
    }
    accessors["POSITION"] |= {"min": means.min(axis=0).tolist(), "max": means.max(axis=0).tolist()}
    accessors[f"{PREFIX}ROTATION"] = {"count": count, "componentType": FLOAT, "type": "VEC4"}
    accessors["COLOR_0"] = {"count": count, "componentType": UNSIGNED_BYTE, "type": "VEC4", "normalized": True}
    views = [{"buffer": 0, "byteOffset": 0, "byteLength": num_bytes}]
    placing = {"matrix": np.eye(4).ravel().tolist()}  # Cesium needs one
    return document(gaussians, accessors, views, num_padded, placing, {SPZ_EXTENSION: {"bufferView": 0}})


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
