"""The frames of a video that poses are computed for: spread evenly in time, and of each span the sharpest."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from splatkit_ns.errors import SplatkitError
from splatkit_ns.files import atomic_write
from splatkit_ns.poses.pictures import Picture

MEASURED_SIDE = 960
"""Pixels of the longest side at which sharpness is measured, so that sensor noise counts little."""
BLURRED_SHARE = 0.35
"""A chosen frame that has less than this share of its neighbours' sharpness is left out."""
NEIGHBOURS = 4
"""Neighbours on each side that a frame's sharpness is compared with."""
_JPEG_QUALITY = 95

T = TypeVar("T")


@dataclass(frozen=True)
class Video:
    """A video file that can be decoded."""

    path: Path
    times: tuple[float, ...]
    """Times of the frames in seconds, sorted."""


@dataclass(frozen=True)
class Chosen(Generic[T]):
    """A frame that was chosen."""

    frame: T
    time: float
    """In seconds."""
    sharpness: float


def open_video(path: Path) -> Video:
    """Read the times of all frames; nothing is decoded but the first frame.

    Raises:
        SplatkitError: the file is no video, or holds no frame.
    """
    av = _av()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise SplatkitError(f"{path} holds no video, only {_streams(container)}. Name a video file.")
            stream = container.streams.video[0]
            next(container.decode(stream))
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            packets = (packet for packet in container.demux(stream) if packet.size)
            times = [packet.pts * float(stream.time_base) for packet in packets if packet.pts is not None]
            rate = float(stream.average_rate or 25)
    except (StopIteration, OSError, ValueError) as error:  # FFmpeg's errors are both
        raise SplatkitError(
            f"{path} is no video that FFmpeg can read ({_reason(error)}). Name a folder of photographs or a video file."
        ) from error
    if not times:  # raw streams without times
        times = [number / rate for number in range(_count(path))]
    return Video(path, tuple(sorted(times)))


def _reason(error: Exception) -> str:
    return (
        "there is no frame in it" if isinstance(error, StopIteration) else getattr(error, "strerror", "") or str(error)
    )


def _count(path: Path) -> int:
    with _av().open(str(path)) as container:
        return sum(1 for packet in container.demux(container.streams.video[0]) if packet.size)


def _streams(container: Any) -> str:
    return " and ".join(sorted({str(stream.type) for stream in container.streams})) or "nothing"


def _av() -> Any:
    try:
        av: Any = importlib.import_module("av")
    except ImportError as error:
        raise SplatkitError(
            f"Videos need the package av, which brings FFmpeg along ({error}): pip install av."
        ) from error
    if not hasattr(av.VideoFrame, "rotation"):
        raise SplatkitError(
            f"The package av is {av.__version__}, which does not tell how a video is turned: pip install --upgrade av."
        )
    return av


def span_of(times: Sequence[float], spans: int) -> Callable[[float], int]:
    """Cut a video into spans.

    Args:
        times: of the frames, sorted, in seconds.
        spans: the most spans to make.

    Returns:
        The function from a frame's time to the number of its span. Spans have the same length in time; if there are no
        more frames than spans, each frame has one of its own.
    """
    if len(times) <= spans:
        order = np.asarray(times)
        return lambda time: int(np.searchsorted(order, time - 1e-6))
    start, length = times[0], times[-1] - times[0]
    if not length > 0:
        return lambda _: 0
    return lambda time: min(spans - 1, max(0, int((time - start) / length * spans)))


def sharpest(frames: Iterable[tuple[T, float, float]], span: Callable[[float], int]) -> Iterator[Chosen[T]]:
    """The sharpest frame of each span, as soon as the span has ended.

    Args:
        frames: frame, time in seconds and sharpness, in the order of time.
        span: see `span_of`.
    """
    best: Chosen[T] | None = None
    for frame, time, sharpness in frames:
        if best is not None and span(time) != span(best.time):
            yield best
            best = None
        if best is None or sharpness > best.sharpness:
            best = Chosen(frame, time, sharpness)
    if best is not None:
        yield best


def blurred(sharpness: Sequence[float]) -> list[bool]:
    """Whether each chosen frame is much less sharp than the median of its neighbours.

    Sharpness depends on what a frame shows, so it is compared with frames nearby that show nearly the same.
    """
    values = np.asarray(sharpness, float)
    found: list[bool] = []
    for index, value in enumerate(values):
        around = np.concatenate(
            [values[max(0, index - NEIGHBOURS) : index], values[index + 1 : index + 1 + NEIGHBOURS]]
        )
        found.append(bool(len(around)) and bool(value < BLURRED_SHARE * np.median(around)))
    return found


def sharpness_of(grey: NDArray[np.uint8]) -> float:
    """The amount of detail of an image at its finest scale: the variance of its Laplacian.

    Args:
        grey: (H, W).
    """
    import cv2  # takes a while to import: for videos alone

    return float(cv2.Laplacian(grey, cv2.CV_32F, ksize=3).var())


def decoded(video: Video) -> Iterator[tuple[Any, float, float]]:
    """Each frame of a video, in FFmpeg's own form, with its time in seconds and its sharpness.

    Raises:
        SplatkitError: no frame can be decoded. Damage after the first frames ends the frames.
    """
    av = _av()
    number = 0
    try:
        with av.open(str(video.path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                time = frame.time if frame.time is not None else video.times[min(number, len(video.times) - 1)]
                number += 1
                yield frame, time, sharpness_of(_small_grey(frame))
    except av.FFmpegError as error:
        if number == 0:
            raise SplatkitError(f"{video.path} cannot be decoded: {_reason(error)}.") from error


def _small_grey(frame: Any) -> NDArray[np.uint8]:
    scale = max(1.0, max(frame.width, frame.height) / MEASURED_SIDE)
    size = {"width": max(1, round(frame.width / scale)), "height": max(1, round(frame.height / scale))}
    return frame.reformat(**size, format="gray", interpolation="AREA").to_ndarray()


def save_frames(video: Video, folder: Path, number: int, report: Callable[[float], None]) -> tuple[list[Picture], int]:
    """Choose frames and write them as ``frame_00001.jpg`` and so on, upright.

    Args:
        video: the video.
        folder: an empty folder.
        number: the most frames.
        report: is told the share of the video that has been read.

    Returns:
        The pictures, and how many spans of the video have none because all in them is blurred.

    Raises:
        SplatkitError: no frame can be decoded.
        OSError: a file cannot be written.
    """
    start, end = video.times[0], video.times[-1]

    def told() -> Iterator[tuple[Any, float, float]]:
        for frame, time, sharpness in decoded(video):
            report(min(1.0, (time - start) / (end - start)) if end > start else 1.0)
            yield frame, time, sharpness

    candidates: list[tuple[Path, tuple[int, int], float, float]] = []
    for chosen in sharpest(told(), span_of(video.times, number)):
        image = upright(chosen.frame)
        path = folder / f"candidate_{len(candidates):05d}.jpg"
        atomic_write(path, lambda file, image=image: image.save(file, "JPEG", quality=_JPEG_QUALITY, subsampling=0))
        candidates.append((path, image.size, chosen.time, chosen.sharpness))
    left_out = blurred([sharpness for _, _, _, sharpness in candidates])
    pictures: list[Picture] = []
    for (path, (width, height), time, _), is_blurred in zip(candidates, left_out, strict=True):
        if is_blurred:
            path.unlink()
            continue
        name = f"frame_{len(pictures) + 1:05d}.jpg"
        path.rename(folder / name)
        pictures.append(Picture(name, f"{name} (at {time:.2f} s)", width, height))
    return pictures, sum(left_out)


def upright(frame: Any) -> Image.Image:
    """A decoded frame as a picture, turned as the video's display matrix says."""
    turn = round(frame.rotation / 90) % 4
    # FFmpeg counts quarter turns counterclockwise, as NumPy does
    return Image.fromarray(np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turn)))
