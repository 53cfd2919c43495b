"""The reader of SOG files, which trusts nothing in their archive, metadata and images."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.formats._inflate import check_inflated
from splatkit_ns.formats._quantise import ByteArray, as_floats, from_smallest_three, logits_of_bytes
from splatkit_ns.formats._webp import decode_image
from splatkit_ns.formats.gaussians import DoubleArray, FloatArray, FormatError, Gaussians, SplatRenderMode, check_finite

MODELS: dict[str, SplatRenderMode] = {"default": "default", "antialiased": "mip", "2dgs": "2dgs"}
"""The metadata's names of the ways in which Gaussians are trained -> ours."""
PALETTE_COLUMNS = 64
"""Entries of the SH palette in a row of its image."""
_MAX_META_BYTES = 1 << 20
_MAX_NAME = 255
_LARGEST = float(np.finfo(np.float32).max)
_COEFFICIENTS = {1: 3, 2: 8, 3: 15}
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError, KeyError, OverflowError,
)  # fmt: skip

ReadPart = Callable[[str], bytes]


def read_sog(path: Path) -> Gaussians:
    """Read a bundle, a folder, or the folder of a meta.json; of version 2.

    Raises:
        FormatError: a part is missing, damaged or forged, or there are no Gaussians.
    """
    if path.is_dir():
        path = path / "meta.json"
    if path.name.lower() == "meta.json":
        return _read_folder(path)
    whole_bytes = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            folder = _folder_within(archive)
            return _read_parts(path, lambda name: _read_entry(archive, folder + name, path, whole_bytes), whole_bytes)
    except FormatError:
        raise
    except _ZIP_ERRORS as error:
        raise FormatError(f"{path} is not a SOG bundle, or damaged: {error!s:.200}.") from error


def _folder_within(archive: zipfile.ZipFile) -> str:
    """The folder of the only meta.json in an archive, as of a SOG folder that was packed whole; empty if at the top."""
    found = [name for name in archive.namelist() if name.rpartition("/")[2] == "meta.json"]
    return found[0].removesuffix("meta.json") if len(found) == 1 else ""


def _read_entry(archive: zipfile.ZipFile, name: str, path: Path, whole_bytes: int) -> bytes:
    try:
        entry = archive.getinfo(name)
    except KeyError as error:
        raise FormatError(f"{path}: there is no {name} in the archive.") from error
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FormatError(f"{path}: {name} is compressed by method {entry.compress_type}, expected none or deflate.")
    check_inflated(path, entry.file_size, whole_bytes)
    return archive.read(entry)


def _read_folder(path: Path) -> Gaussians:
    files = [file for file in path.parent.iterdir() if file.is_file()]
    whole_bytes = sum(file.stat().st_size for file in files)
    known = {file.name: file for file in files}

    def read(name: str) -> bytes:
        if name not in known:  # a name with a folder in it is none of these
            raise FormatError(f"{path}: there is no file {name!r} beside it.")
        return known[name].read_bytes()

    return _read_parts(path, read, whole_bytes, path.name)


def _read_parts(path: Path, read: ReadPart, whole_bytes: int, meta_name: str = "meta.json") -> Gaussians:
    meta = _Meta(read(meta_name), path)
    num = meta.count

    def pixels(key: str, number: int = 0) -> ByteArray:
        name = meta.file(key, number)
        image = decode_image(read(name), name, path, whole_bytes)
        if image.shape[0] * image.shape[1] < num:
            raise FormatError(f"{path}: {num} Gaussians need as many pixels, {name} has {image.shape[:2]}.")
        return image.reshape(-1, 4)[:num]

    low, high = pixels("means")[:, :3], pixels("means", 1)[:, :3]
    numbers = low.astype(np.float64) + 256.0 * high
    mins, maxs = meta.numbers("means", "mins", 3), meta.numbers("means", "maxs", 3)
    logs = mins + (maxs - mins) * (numbers / 65535)
    with np.errstate(over="ignore"):
        means = as_floats(np.sign(logs) * np.expm1(np.abs(logs)))
    colours = pixels("sh0")
    found = Gaussians(
        means=means,
        scales=meta.look_up("scales", pixels("scales")[:, :3]),
        quats=_unpack_quats(pixels("quats"), path),
        opacities=logits_of_bytes(colours[:, 3]),
        sh0=meta.look_up("sh0", colours[:, :3])[:, None],
        shN=_read_sh(meta, path, read, whole_bytes, pixels),
        render_mode=meta.render_mode,
    )
    return check_finite(found, path)


def _unpack_quats(pixels: ByteArray, path: Path) -> FloatArray:
    if (pixels[:, 3] < 252).any():
        raise FormatError(f"{path}: the image of rotations has no such numbers as SOG of version 2 has; is it lossy?")
    return from_smallest_three(pixels[:, 3] - 252, as_floats((pixels[:, :3] / 255 - 0.5) * math.sqrt(2)))


def _read_sh(
    meta: _Meta, path: Path, read: ReadPart, whole_bytes: int, pixels: Callable[[str, int], ByteArray]
) -> FloatArray:
    """SH coefficients (N, K - 1, 3) above degree 0."""
    if not meta.has("shN"):
        return np.zeros((meta.count, 0, 3), np.float32)
    bands, count = meta.whole("shN", "bands"), meta.whole("shN", "count")
    if bands not in _COEFFICIENTS:
        raise FormatError(f"{path}: expected an SH palette of 1, 2 or 3 bands, found {bands}.")
    coefficients = _COEFFICIENTS[bands]
    name = meta.file("shN", 0)
    image = decode_image(read(name), name, path, whole_bytes)
    if image.shape[1] != PALETTE_COLUMNS * coefficients or image.shape[0] * PALETTE_COLUMNS < count:
        raise FormatError(
            f"{path}: {name} should be {PALETTE_COLUMNS * coefficients} pixels wide and have room for {count} entries, "
            f"found {image.shape[1]} x {image.shape[0]}."
        )
    entries = meta.look_up("shN", image.reshape(-1, coefficients, 4)[:count, :, :3])
    labels = pixels("shN", 1).astype(np.intp)
    rows = labels[:, 0] + 256 * labels[:, 1]
    if (rows >= count).any():
        raise FormatError(f"{path}: a Gaussian names entry {rows.max()} of an SH palette of {count}.")
    return entries[rows]


class _Meta:
    """The content of meta.json; each value is checked when it is read.

    Raises:
        FormatError: a value is missing or of another kind, also from the methods.
    """

    def __init__(self, data: bytes, path: Path) -> None:
        self._path = path
        if len(data) > _MAX_META_BYTES:
            raise FormatError(f"{path}: meta.json has {len(data)} bytes, expected at most {_MAX_META_BYTES}.")
        try:
            meta: Any = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path}: meta.json is no JSON ({error}).") from error
        if not isinstance(meta, dict):
            raise FormatError(f"{path}: expected an object in meta.json.")
        self._meta = cast(dict[str, Any], meta)
        if self._meta.get("version") != 2:
            raise FormatError(
                f"{path}: expected SOG of version 2, found {str(self._meta.get('version', 'none'))[:20]}; convert it "
                "with PlayCanvas' splat-transform."
            )
        self.count = self._checked(self._meta.get("count"), "count")
        model = self._meta.get("model", "antialiased" if self._meta.get("antialias") is True else "default")
        self.render_mode: SplatRenderMode = MODELS.get(model, "default") if isinstance(model, str) else "default"

    def has(self, key: str) -> bool:
        """Whether there is such a part."""
        return self._meta.get(key) is not None

    def file(self, key: str, number: int) -> str:
        """Name of a part's image."""
        files = self._part(key).get("files")
        names = cast(list[Any], files) if isinstance(files, list) else []
        if len(names) <= number or not isinstance(names[number], str) or len(names[number]) > _MAX_NAME:
            raise FormatError(f"{self._path}: expected the name of image {number + 1} in {key}.files of meta.json.")
        return names[number]

    def whole(self, key: str, name: str) -> int:
        """A positive whole number."""
        return self._checked(self._part(key).get(name), f"{key}.{name}")

    def numbers(self, key: str, name: str, count: int | None = None) -> DoubleArray:
        """A list of numbers that float32 can hold, `count` of them or 1 to 256."""
        values = self._part(key).get(name)
        found = cast(list[Any], values) if isinstance(values, list) else []
        right = len(found) == count if count else 1 <= len(found) <= 256
        if not right or not all(isinstance(v, (int, float)) and abs(v) <= _LARGEST for v in found):
            raise FormatError(f"{self._path}: expected {count or '1 to 256'} finite numbers in {key}.{name}.")
        return np.array(found, np.float64)

    def look_up(self, key: str, indices: ByteArray) -> FloatArray:
        """Entries of a part's codebook."""
        codebook: NDArray[Any] = as_floats(self.numbers(key, "codebook"))
        if int(indices.max(initial=0)) >= len(codebook):
            raise FormatError(f"{self._path}: an image names entry {indices.max()} of {len(codebook)} of {key}.")
        return codebook[indices]

    def _part(self, key: str) -> dict[str, Any]:
        part = self._meta.get(key)
        if not isinstance(part, dict):
            raise FormatError(f"{self._path}: meta.json has no {key!r}.")
        return cast(dict[str, Any], part)

    def _checked(self, value: Any, name: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            raise FormatError(f"{self._path}: expected a positive whole number as {name}, found {value!r:.40}.")
        return value
