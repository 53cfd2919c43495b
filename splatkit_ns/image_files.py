"""Rendered images as files: pictures, animations and videos."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from splatkit_ns.errors import SplatkitError
from splatkit_ns.files import atomic_write

Pixels = NDArray[np.uint8]
AnyImage = Tensor | NDArray[Any]
"""(H, W, 3), float in [0, 1] or uint8."""


@dataclass(frozen=True)
class Container:
    """A kind of video file, in the words of FFmpeg."""

    muxer: str
    codec: str
    options: dict[str, str]


H264 = ("libx264", {"crf": "18"})
CONTAINERS = {
    ".mp4": Container("mp4", *H264),
    ".mov": Container("mov", *H264),
    ".mkv": Container("matroska", *H264),
    ".webm": Container("webm", "libvpx-vp9", {"crf": "24", "b": "0"}),
}
ANIMATIONS = (".gif", ".webp", ".png")
"""Suffixes of the formats in which Pillow writes several frames."""
LONGEST_SIDES = {
    **dict.fromkeys((".mp4", ".mov", ".mkv"), 16_384),
    ".webm": 65_536,
    ".gif": 65_535,
    ".webp": 16_383,
    **dict.fromkeys((".jpg", ".jpeg"), 65_500),
}
"""The most pixels of a side that a format, or its encoder, takes; others take any number."""
SPEEDS = (0.01, 1000.0)
"""The lowest and the highest number of frames a second of videos and animations."""


def save_image(image: AnyImage, path: str | PathLike[str]) -> None:
    """Write an image, atomically, in the format that the suffix says: ``.png``, ``.jpg``, ``.webp``, …

    Args:
        image: (H, W, 3), float in [0, 1], which is clamped and rounded to 8 bits, or uint8.
        path: the file; its folder is made if it is missing.

    Raises:
        SplatkitError: the image has another shape or type, is too large for the format, or Pillow cannot write it.
        OSError: the file cannot be written; an old file is then as it was.
    """
    pixels = _eight_bits(image)
    _check_sides(pixels, Path(path))
    _save(Image.fromarray(pixels), Path(path))


def save_images(images: Iterable[AnyImage], folder: str | PathLike[str], suffix: str = ".png") -> list[Path]:
    """Write images as ``frame_00000.png`` and so on.

    Args:
        images: see `save_image`; any number of them, which are taken one by one.
        folder: is made if it is missing.
        suffix: the format.

    Returns:
        The files.

    Raises:
        SplatkitError: an image cannot be written.
        OSError: a file cannot be written.
    """
    paths: list[Path] = []
    for index, image in enumerate(images):
        paths.append(Path(folder) / f"frame_{index:05d}{suffix}")
        save_image(image, paths[-1])
    return paths


def save_video(frames: Iterable[AnyImage], path: str | PathLike[str], fps: float = 30.0) -> None:
    """Write frames as a video or an animation, atomically.

    The suffix decides: ``.mp4``, ``.mov`` and ``.mkv`` (H.264) and ``.webm`` (VP9) are written by PyAV, which brings
    FFmpeg along, one frame after the other; ``.gif``, ``.webp`` and ``.png`` by Pillow, and run in a loop. Videos have
    even sides: a side with an odd number of pixels gets its last row or column once more.

    Args:
        frames: see `save_image`; at least one, all of one size.
        path: the file; its folder is made if it is missing.
        fps: frames a second, within `SPEEDS`. A GIF rounds the time of a frame to hundredths of a second.

    Raises:
        SplatkitError: there are no frames, their sizes differ or are too large for the format, the format is not known,
            or PyAV cannot be used.
        OSError: the file cannot be written; an old file is then as it was.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in CONTAINERS and suffix not in ANIMATIONS:
        known = ", ".join((*CONTAINERS, *ANIMATIONS))
        raise SplatkitError(f"save_video: {path} has no suffix of a video, expected one of: {known}.")
    if not SPEEDS[0] <= fps <= SPEEDS[1]:
        low, high = SPEEDS
        raise SplatkitError(f"save_video: fps is {fps}, expected {low:g} to {high:g} frames a second.")
    pixels = _of_one_size(frames)
    first = next(pixels, None)
    if first is None:
        raise SplatkitError("save_video: there are no frames.")
    _check_sides(first, target)
    if suffix in CONTAINERS:
        _save_with_ffmpeg(first, pixels, target, CONTAINERS[suffix], Fraction(fps).limit_denominator(1001))
        return
    rest = [Image.fromarray(frame) for frame in pixels]
    lossless = {"lossless": False, "quality": 90} if suffix == ".webp" else {}
    _save(Image.fromarray(first), target, save_all=True, append_images=rest, duration=1000 / fps, loop=0, **lossless)


def _eight_bits(image: AnyImage) -> Pixels:
    found = torch.as_tensor(image).detach().cpu()
    if found.dim() != 3 or found.shape[-1] != 3 or 0 in found.shape:
        raise SplatkitError(f"an image to save has the shape {tuple(found.shape)}, expected (H, W, 3).")
    if found.dtype == torch.uint8:
        return np.ascontiguousarray(found.numpy())
    if not found.is_floating_point():
        raise SplatkitError(f"an image to save is of type {found.dtype}, expected floats in [0, 1] or uint8.")
    return (found.float().nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8).contiguous().numpy()


def _of_one_size(frames: Iterable[AnyImage]) -> Iterator[Pixels]:
    shape: tuple[int, ...] | None = None
    for index, frame in enumerate(frames):
        pixels = _eight_bits(frame)
        shape = shape or pixels.shape
        if pixels.shape != shape:
            raise SplatkitError(
                f"save_video: frame {index} is {pixels.shape[1]}×{pixels.shape[0]} pixels, those before it are "
                f"{shape[1]}×{shape[0]}."
            )
        yield pixels


def _check_sides(pixels: Pixels, path: Path) -> None:
    height, width = pixels.shape[:2]
    most = LONGEST_SIDES.get(path.suffix.lower())
    if most is not None and max(width, height) > most:
        raise SplatkitError(
            f"{path}: images of {width}×{height} pixels, and {path.suffix} takes at most {most:,} a side. Make them "
            "smaller, or write a folder of .png files."
        )


def _save(image: Image.Image, path: Path, **options: Any) -> None:
    known = Image.registered_extensions()
    kind = known.get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise SplatkitError(f"{path} has no suffix of a picture that can be written, such as .png, .jpg or .webp.")

    def write(file: BinaryIO) -> None:
        image.save(file, format=kind, **options)

    atomic_write(path, write)


def _save_with_ffmpeg(first: Pixels, rest: Iterator[Pixels], path: Path, container: Container, rate: Fraction) -> None:
    try:
        av: Any = importlib.import_module("av")
    except ImportError as error:
        raise SplatkitError(
            f"Videos need the package av, which brings FFmpeg along ({error}): pip install av. "
            "Animations (.gif, .webp, .png) need nothing."
        ) from error
    if container.codec not in av.codecs_available:
        raise SplatkitError(
            f"The FFmpeg of the package av cannot encode {container.codec}, which {path.suffix} needs: install the "
            "wheel of av from PyPI, or write an animation (.gif, .webp, .png)."
        )
    height, width = first.shape[0], first.shape[1]

    def write(file: BinaryIO) -> None:
        with av.open(file, mode="w", format=container.muxer) as video:
            stream = video.add_stream(container.codec, rate=rate, options=container.options)
            stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
            for frame in chain((first,), rest):
                even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                video.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
            video.mux(stream.encode())

    atomic_write(path, write)
