"""Lossless WebP images as bytes, through Pillow."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np

from splatkit_ns.formats._inflate import check_inflated
from splatkit_ns.formats._quantise import ByteArray
from splatkit_ns.formats.gaussians import FormatError


def encode_webp(pixels: ByteArray) -> bytes:
    """A lossless WebP image of pixels (H, W, 4), RGBA.

    ``exact`` keeps the colours of transparent pixels, which hold numbers here like any others.
    """
    from PIL import Image  # takes a while, and is not needed to list the formats

    target = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(target, "WEBP", lossless=True, exact=True, quality=75, method=4)
    return target.getvalue()


def decode_image(data: bytes, name: str, path: Path, whole_bytes: int) -> ByteArray:
    """Pixels (H, W, 4) of a WebP or PNG image.

    Args:
        data: of the image.
        name: of the image, for messages.
        path: of the file that it belongs to, for messages.
        whole_bytes: size of the whole file, with which the size of the pixels is compared.

    Raises:
        FormatError: it is no image, damaged, or too large for a file of that size.
    """
    from PIL import Image

    try:
        width, height = _image_size(data)
        check_inflated(path, width * height * 4, whole_bytes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is stricter
            with Image.open(io.BytesIO(data), formats=("WEBP", "PNG")) as image:
                return np.asarray(image.convert("RGBA"))
    except FormatError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds of exception
        raise FormatError(f"{path}: the image {name} cannot be read: {error}.") from error


def _image_size(data: bytes) -> tuple[int, int]:
    """Width and height in the header of a WebP or PNG image; Pillow allocates memory for them when it opens it.

    Raises:
        ValueError, struct.error: it is neither, or ends within the header.
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        width, height = struct.unpack_from(">II", data, 16)
        return width, height
    kind = data[12:16] if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else b""
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("it is neither a WebP nor a PNG image")
