"""Lossless WebP images as bytes, through Pillow."""

from __future__ import annotations

import io
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
    from PIL import Image  # takes a while: not for those who only list the formats

    target = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(target, "WEBP", lossless=True, exact=True, quality=75, method=4)
    return target.getvalue()


def decode_image(data: bytes, name: str, path: Path, whole_bytes: int) -> ByteArray:
    """Pixels (H, W, 4) of a WebP or PNG image.

    Args:
        data: of the image.
        name: of the image, for messages.
        path: of the file that it belongs to, for messages.
        whole_bytes: size of all that belongs to the file, to which that of the pixels is compared.

    Raises:
        FormatError: it is no image, damaged, or too large for a file of that size.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is stricter
            with Image.open(io.BytesIO(data), formats=("WEBP", "PNG")) as image:
                check_inflated(path, image.width * image.height * 4, whole_bytes)
                return np.asarray(image.convert("RGBA"))
    except FormatError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they come across
        raise FormatError(f"{path}: the image {name} cannot be read: {error}.") from error
