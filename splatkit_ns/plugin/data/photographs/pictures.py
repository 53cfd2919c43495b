"""Photographs and masks as people have them: any mode, 16 bits, turned by an EXIF tag, masks of another size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.reporting.console import report_once

Pixels = NDArray[np.uint8]
ExifOrientation = Literal["auto", "ignore", "apply"]

ORIENTATION_TAG = 0x0112
TURNS: dict[int, Callable[[Any], Any]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
"""EXIF orientation -> what shows the picture (H, W, …) upright."""
SWAPS_SIDES = (5, 6, 7, 8)
END_OF_JPEG = b"\xff\xd9"
"""OpenCV's older versions decode what is left of a file that was cut off."""
RGB: int = getattr(cv2, "IMREAD_COLOR_RGB", 0)
"""OpenCV's flag for colours in this order, which versions before 4.11 lack."""
RESTORE = "Restore it, or take it out of the data set."


@dataclass(frozen=True)
class StoredPicture:
    """The header of an image file."""

    width: int
    height: int
    orientation: int
    """EXIF orientation, 1 … 8; 1 if the file has none."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height once it is turned as its tag says."""
        return (self.height, self.width) if self.orientation in SWAPS_SIDES else (self.width, self.height)


def read_header(path: Path) -> StoredPicture:
    """Size and orientation of an image; does not decode it.

    Raises:
        DataError: it cannot be identified.
    """
    try:
        with Image.open(path) as file:
            return StoredPicture(file.width, file.height, _orientation(file))
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise DataError(f"The image {path} cannot be read: {error}. {_advice(error, path)}") from error


def _advice(error: Exception, path: Path) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return "Use smaller copies of the images: --downscale-factor of the dataparser."
    if isinstance(error, UnidentifiedImageError) and path.suffix.lower() not in Image.registered_extensions():
        return f"Pictures of the kind {path.suffix} are not read: convert them to PNG or JPEG."
    return RESTORE


def _orientation(file: Image.Image) -> int:
    if file.format == "TIFF":
        return 1  # Pillow has turned it already
    found = Image.Image.getexif(file).get(ORIENTATION_TAG, 1)  # a PNG's own method decodes it
    return found if found in TURNS else 1


def turns_pictures(
    headers: Mapping[Path, StoredPicture], sizes: Mapping[Path, tuple[int, int]], mode: ExifOrientation
) -> bool:
    """Whether the pictures of a data set are to be turned as their EXIF tags say.

    Programs differ: COLMAP calibrates pictures as they are stored, Metashape and RealityCapture as they are shown.
    Pictures whose tag swaps their sides tell which, by the size of their camera.

    Args:
        headers: those of the image files that can be read.
        sizes: width and height of the files' cameras.
        mode: auto for that; else it decides.
    """
    if mode != "auto":
        return mode == "apply"
    turned: list[tuple[Path, int]] = []
    for path, stored in headers.items():
        size = sizes[path]
        if stored.orientation == 1:
            continue
        if stored.upright_size != (stored.width, stored.height):
            if size == (stored.width, stored.height):
                return False
            if size == stored.upright_size:
                report_once(
                    "The pictures are turned as their EXIF tags say: their cameras have the size of turned ones."
                )
                return True
        turned.append((path, stored.orientation))
    if turned:
        report_once(
            f"{len(turned)} picture(s) have an EXIF orientation, the first is {turned[0][0]} with {turned[0][1]}. "
            "Their sizes do not tell whether the cameras are those of turned pictures, so they are used as they are "
            "stored, as COLMAP does. For cameras of turned pictures: --pipeline.datamanager.exif-orientation apply."
        )
    return False


def read_picture(path: Path, turned: bool, size: tuple[int, int] | None = None) -> Pixels:
    """An image, (H, W, 3 or 4); what transparent pixels hide is black.

    Args:
        path: its file.
        turned: whether to turn it as its EXIF tag says.
        size: (width, height) to which it is resampled after that.

    Raises:
        DataError: it cannot be decoded, or has more than 16 bits a channel.
    """
    try:
        with Image.open(path) as file:
            turn = TURNS.get(_orientation(file)) if turned else None
            is_plain = file.format == "JPEG" and file.mode == "RGB"
            pixels = _decoded_jpeg(path) if is_plain else None
            pixels = _decoded(file, path) if pixels is None else pixels
            pixels = pixels if turn is None else np.ascontiguousarray(turn(pixels))
            if size is not None:
                resized = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
                pixels = np.array(resized, dtype=np.uint8)
    except DataError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise DataError(f"The image {path} cannot be decoded: {error}. {_advice(error, path)}") from error
    if pixels.shape[2] == 4:
        pixels[pixels[..., 3] == 0] = 0
    return pixels


def _decoded_jpeg(path: Path) -> Pixels | None:
    """A JPEG file in colours, (H, W, 3), as Pillow decodes it, but without Python's lock; None if it is not whole."""
    stored = np.fromfile(path, np.uint8)
    if stored[-2:].tobytes() != END_OF_JPEG:
        return None
    try:
        decoded: Any = cv2.imdecode(stored, (RGB or cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    return decoded if decoded is None or RGB else cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded)


def _decoded(file: Image.Image, path: Path) -> Pixels:
    image = _eight_bits(file, path)
    mode = "RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB"
    return np.array(image if image.mode == mode else image.convert(mode), dtype=np.uint8)


def _eight_bits(file: Image.Image, path: Path) -> Image.Image:
    """The image, with one channel of 16 bits scaled to 8."""
    if not file.mode.startswith(("I", "F")):
        return file
    values: NDArray[Any] = np.asarray(file)
    if values.dtype.kind not in "iu" or (values.size and not 0 <= int(values.min()) <= int(values.max()) < 1 << 16):
        raise DataError(
            f"The image {path} has channels of 32 bits, whose range is not known: convert it to 8 or 16 bits."
        )
    return Image.fromarray(np.rint(values.astype(np.float32) * np.float32(255 / 65535)).astype(np.uint8))


def read_mask(
    path: Path, size: tuple[int, int], picture: Path, turned: bool, inverted: bool = False
) -> NDArray[np.bool_]:
    """A mask, (H, W), true where the picture's pixels count: where it is neither black nor transparent.

    Args:
        path: its file, of any mode; in a JPEG file, what is darker than half is black.
        size: (width, height) of the picture that it is for. A mask of another size with the same sides is resampled;
            a pixel is true if all that it covers are.
        picture: the file that it is for, whose EXIF tag it follows.
        turned: whether the picture is turned as its EXIF tag says; a mask that fits the picture before that is, too.
        inverted: whether a pixel counts where the mask is black or transparent instead.

    Raises:
        DataError: it cannot be read, or has other sides.
    """
    try:
        with Image.open(path) as file:
            limit = 127 if file.format == "JPEG" else 0
            valid = _is_set(file, limit) != inverted
    except Exception as error:  # Pillow raises many kinds for damaged files
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"The image {picture} with its mask {path} cannot be used: {reason}. {RESTORE}") from error
    found = valid.shape[1::-1]
    orientation = read_header(picture).orientation if turned else 1
    if orientation != 1 and not _alike(found, size) and _alike(found, size[::-1]):
        valid = np.ascontiguousarray(TURNS[orientation](valid))
        found = valid.shape[1::-1]
    if found == size:
        return valid
    if not _alike(found, size):
        raise DataError(
            f"The mask {path} is {found[0]}×{found[1]} pixels, the picture {picture} is {size[0]}×{size[1]}: expected "
            "the same size, or the same sides in another size. Make the mask anew, or take it out of the data set."
        )
    method = Image.Resampling.BOX if found[0] > size[0] else Image.Resampling.BILINEAR
    smaller = Image.fromarray(valid.astype(np.uint8) * 255).resize(size, method)
    return np.array(smaller) == 255


def _is_set(file: Image.Image, limit: int) -> NDArray[np.bool_]:
    if file.mode == "P" or "transparency" in file.info:
        file = file.convert("RGBA")
    elif file.mode in ("CMYK", "YCbCr", "LAB", "HSV", "La", "RGBa", "PA"):
        file = file.convert("RGB")
    values = np.asarray(file)
    if values.ndim == 2:
        return values > limit
    colors = 1 if file.mode == "LA" else 3
    return (values[..., :colors].max(-1) > limit) & (values[..., colors:] > 0).all(-1)


def _alike(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Whether two sizes (width, height) have the same sides, but for the rounding of the smaller one."""
    small, large = sorted((first, second))
    scale = large[0] / small[0]
    return abs(large[1] - small[1] * scale) <= scale
