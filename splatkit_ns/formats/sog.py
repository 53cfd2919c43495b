"""PlayCanvas' SOG (Spatially Ordered Gaussians), version 2: images of numbers, in a zip archive or a folder.

A pixel of each lossless WebP image belongs to one Gaussian: 16 bits for each coordinate of ``sign(x) log(1 + |x|)``,
the three smaller components of the rotation, and indices into codebooks of 256 log scales and 256 colours. SH
coefficients above degree 0 are rows of a palette of at most 65,536, whose numbers are indices into a third codebook.
``meta.json`` names the images. https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/sog
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from splatkit_ns.files import atomic_write, atomic_write_bytes
from splatkit_ns.formats._quantise import ByteArray, morton_order, opacity_bytes, smallest_three, to_bytes, unit_quats
from splatkit_ns.formats._sog_reading import MODELS, PALETTE_COLUMNS, read_sog
from splatkit_ns.formats._webp import encode_webp
from splatkit_ns.formats.gaussians import FloatArray, FormatError, Gaussians
from splatkit_ns.formats.registry import SplatFormat, register

MAX_PALETTE = 1 << 16
MAX_SIDE = 16383
"""The largest side of a WebP image, in pixels."""
_MAX_SH = 1e6
"""Coefficients beyond this are clamped to it: the squares of larger ones leave the search for a palette no digits."""


@dataclass(frozen=True)
class SogOptions:
    """The options of a SOG file."""

    palette_size: int | None = None
    """Rows of the SH palette, at most 65,536: more are better and larger. If not given, one for 8 Gaussians."""
    iterations: int = 8
    """Rounds of the search for the palette."""


def write_sog(path: Path, gaussians: Gaussians, options: SogOptions) -> None:
    """Write a bundle, or a folder if `path` is that of its meta.json; see `SplatFormat.write`.

    In a folder images are named after their content, so that the old files stay complete until meta.json is replaced.
    """
    if options.palette_size is not None and not 1 <= options.palette_size <= MAX_PALETTE:
        raise FormatError(f"the option palette_size of SOG is {options.palette_size}, expected 1 to {MAX_PALETTE}.")
    if options.iterations < 1:
        raise FormatError(f"the option iterations of SOG is {options.iterations}, expected at least 1.")
    width, height = image_size(len(gaussians))
    if max(width, height) > MAX_SIDE:
        raise FormatError(f"{path}: SOG images have room for {MAX_SIDE**2} Gaussians, found {len(gaussians)}.")
    gaussians = gaussians.take(morton_order(gaussians.means))
    meta, pixels = _quantised(gaussians, options)
    images = {name: encode_webp(_image(values, width, height)) for name, values in pixels.items()}
    if path.name.lower() == "meta.json":
        _write_folder(path, meta, images)
        return

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # images are compressed already
            for name, data in {"meta.json": _json(meta), **images}.items():
                archive.writestr(zipfile.ZipInfo(name), data)  # without the time: equal Gaussians make equal files

    atomic_write(path, write)


def image_size(num: int) -> tuple[int, int]:
    """Width and height of images for this many Gaussians, multiples of 4."""
    width = math.ceil(math.sqrt(num) / 4) * 4
    return width, math.ceil(num / width / 4) * 4


def _quantised(gaussians: Gaussians, options: SogOptions) -> tuple[dict[str, Any], dict[str, ByteArray]]:
    """The metadata, and the pixels (N, 4) of each image (rows of them for the palette)."""
    from splatkit_ns.formats._kmeans import codebook_1d, nearest_1d  # loads PyTorch: not for other formats

    logs = np.sign(gaussians.means) * np.log1p(np.abs(gaussians.means.astype(np.float64)))
    low, high = logs.min(axis=0), logs.max(axis=0)
    numbers = np.rint((logs - low) * (65535 / np.maximum(high - low, 1e-30))).astype(np.uint32)
    scale_book = codebook_1d(gaussians.scales, 256)
    colour_book = codebook_1d(gaussians.sh0, 256)
    colours = np.concatenate(
        [nearest_1d(gaussians.sh0[:, 0], colour_book), opacity_bytes(gaussians.opacities)[:, None]], axis=1
    )
    meta: dict[str, Any] = {"version": 2, "asset": {"generator": "splatkit-ns"}, "count": len(gaussians)}
    if gaussians.render_mode != "default":
        meta["model"] = {mode: model for model, mode in MODELS.items()}[gaussians.render_mode]
    meta["means"] = {"mins": low.tolist(), "maxs": high.tolist(), "files": ["means_l.webp", "means_u.webp"]}
    meta["scales"] = {"codebook": _padded(scale_book), "files": ["scales.webp"]}
    meta["quats"] = {"files": ["quats.webp"]}
    meta["sh0"] = {"codebook": _padded(colour_book), "files": ["sh0.webp"]}
    pixels = {
        "means_l.webp": _opaque((numbers & 255).astype(np.uint8)),
        "means_u.webp": _opaque((numbers >> 8).astype(np.uint8)),
        "scales.webp": _opaque(nearest_1d(gaussians.scales, scale_book)),
        "quats.webp": _quat_pixels(gaussians.quats),
        "sh0.webp": colours,
    }
    if gaussians.sh_degree:
        meta["shN"], more = _quantised_sh(gaussians, options)
        pixels |= more
    return meta, pixels


def _quantised_sh(gaussians: Gaussians, options: SogOptions) -> tuple[dict[str, Any], dict[str, ByteArray]]:
    from splatkit_ns.formats._kmeans import codebook_1d, nearest_1d, palette

    num, coefficients = gaussians.shN.shape[:2]
    size = options.palette_size or min(MAX_PALETTE, max(1024, num // 8))
    entries, labels = palette(gaussians.shN.reshape(num, -1).clip(-_MAX_SH, _MAX_SH), size, options.iterations)
    book = codebook_1d(entries, 256)
    indices = nearest_1d(entries, book).reshape(len(entries), coefficients, 3)
    rows = np.zeros((-(-len(entries) // PALETTE_COLUMNS) * PALETTE_COLUMNS, coefficients, 3), np.uint8)
    rows[: len(entries)] = indices
    meta = {
        "count": len(entries),
        "bands": gaussians.sh_degree,
        "codebook": _padded(book),
        "files": ["shN_centroids.webp", "shN_labels.webp"],
    }
    low_high = np.stack([labels & 255, labels >> 8, np.zeros_like(labels)], axis=1).astype(np.uint8)
    centroids = _opaque(rows.reshape(-1, 3)).reshape(-1, PALETTE_COLUMNS * coefficients, 4)
    return meta, {"shN_centroids.webp": centroids, "shN_labels.webp": _opaque(low_high)}


def _padded(codebook: FloatArray) -> list[float]:
    """The codebook with 256 entries, the last one repeated: some readers expect that number."""
    values: list[float] = codebook.astype(np.float64).tolist()
    return values + values[-1:] * (256 - len(values))


def _opaque(rgb: ByteArray) -> ByteArray:
    return np.concatenate([rgb, np.full((len(rgb), 1), 255, np.uint8)], axis=1)


def _quat_pixels(quats: FloatArray) -> ByteArray:
    largest, others = smallest_three(unit_quats(quats))
    return np.concatenate([to_bytes((others * math.sqrt(0.5) + 0.5) * 255), 252 + largest[:, None]], 1).astype(np.uint8)


def _image(pixels: ByteArray, width: int, height: int) -> ByteArray:
    """Pixels (N, 4) as an image of that size; whole images stay as they are."""
    if pixels.ndim == 3:
        return pixels
    image = np.zeros((height * width, 4), np.uint8)
    image[: len(pixels)] = pixels
    return image.reshape(height, width, 4)


def _json(meta: dict[str, Any]) -> bytes:
    return json.dumps(meta).encode("ascii")


def _write_folder(path: Path, meta: dict[str, Any], images: dict[str, bytes]) -> None:
    names = {name: f"{Path(name).stem}-{zlib.crc32(data):08x}.webp" for name, data in images.items()}
    before = _images_of(path)
    for name, data in images.items():
        atomic_write_bytes(path.with_name(names[name]), data)
    for value in meta.values():
        if isinstance(value, dict) and "files" in value:
            value["files"] = [names[name] for name in cast(list[str], value["files"])]
    atomic_write_bytes(path, _json(meta))
    for name in before - set(names.values()):
        path.with_name(name).unlink(missing_ok=True)


def _images_of(path: Path) -> set[str]:
    """Names of the images in its folder that an older meta.json of ours names."""
    try:
        meta = json.loads(path.read_bytes())
        ours = meta["asset"]["generator"] == "splatkit-ns"
        names = {name for value in meta.values() if isinstance(value, dict) for name in value.get("files", ())}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # none yet, or another program's
        return set()
    return {name for name in names if ours and isinstance(name, str) and name == Path(name).name}


FORMAT = register(
    SplatFormat(
        name="sog",
        suffixes=(".sog", "meta.json"),
        about="SuperSplat, PlayCanvas and Spark open it. The smallest: a fifteenth of a PLY file.",
        read=read_sog,
        write=write_sog,
        options=SogOptions,
        version=lambda path: "2",  # the reader refuses others
    )
)
