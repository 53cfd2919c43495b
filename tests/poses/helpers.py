"""Small photographs, videos and models for the tests."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from splatkit_ns.poses.scene import Intrinsics, PosedPicture, Scene

PINHOLE = Intrinsics("OPENCV", 64, 48, (50.0, 51.0, 31.0, 23.0, 0.1, -0.02, 0.001, 0.002))


def texture(width: int = 64, height: int = 48, seed: int = 0, blur: float = 0.0) -> NDArray[np.uint8]:
    """(height, width, 3): noise with detail at all scales, blurred if wanted."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    mixed = sum(2**scale * gaussian_filter(noise, (2**scale, 2**scale, 0)) for scale in range(4))
    mixed = gaussian_filter(mixed, (blur, blur, 0)) if blur else mixed
    return np.clip(128 + 60 * np.asarray(mixed), 0, 255).astype(np.uint8)


def save(path: Path, image: NDArray[Any] | Image.Image, **exif: Any) -> Path:
    """Write a photograph.

    Args:
        path: the file; its folder is made.
        image: pixels, or a picture.
        exif: ``orientation``, ``model``, ``focal`` (mm), ``gps`` (latitude, longitude).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = Image.Exif()
    if "orientation" in exif:
        tags[0x0112] = exif["orientation"]
    if "model" in exif:
        tags[0x0110] = exif["model"]
    if "focal" in exif:
        tags.get_ifd(0x8769)[0x920A] = exif["focal"]
    if "gps" in exif:
        latitude, longitude = exif["gps"]
        ifd = tags.get_ifd(0x8825)
        ifd[1], ifd[3] = "N" if latitude >= 0 else "S", "E" if longitude >= 0 else "W"
        for number, value in ((2, abs(latitude)), (4, abs(longitude))):
            minutes = value % 1 * 60
            ifd[number] = (float(int(value)), float(int(minutes)), minutes % 1 * 60)
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(path, exif=tags.tobytes()) if exif else picture.save(path)
    return path


def made_scene(number: int = 6, cameras: dict[int, Intrinsics] | None = None) -> Scene:
    """Cameras on a ring of radius 3 that look at a ball of points around the origin, y pointing down."""
    cameras = cameras or {1: PINHOLE}
    pictures: list[PosedPicture] = []
    for index in range(number):
        turn = 2 * np.pi * index / number
        rotation = Rotation.from_euler("y", -turn).as_matrix()  # world to camera
        pictures.append(
            PosedPicture(
                f"p_{index}.jpg", list(cameras)[index % len(cameras)], np.column_stack([rotation, [0.0, 0.0, 3.0]])
            )
        )
    generator = np.random.default_rng(1)
    points = generator.normal(size=(200, 3)) * 0.3
    return Scene(cameras, pictures, points, generator.integers(0, 255, (200, 3)).astype(np.uint8), 0.5)


@lru_cache(maxsize=1)
def _surfaces() -> list[tuple[int, float, tuple[float, float], tuple[float, float], NDArray[np.uint8]]]:
    """The axis across each surface, its value there, lower and upper ends along the other two axes, and pixels."""
    return [
        (2, 4.0, (-4.0, -2.5), (4.0, 1.0), texture(512, 224, 1)),
        (1, 1.0, (-4.0, 0.0), (4.0, 4.0), texture(512, 256, 2)),
        (2, 2.5, (-0.8, -0.2), (0.4, 1.0), texture(128, 128, 3)),
        (0, 1.5, (-0.6, 2.0), (1.0, 3.5), texture(128, 128, 4)),
    ]


def room_picture(pose: NDArray[np.float64], width: int = 240, height: int = 180, focal: float = 220.0) -> Image.Image:
    """Photograph a room: a wall 4 away, a floor, the front of a box 2.5 away, and a wall on the right, all textured.

    Args:
        pose: (4, 4) camera to world, OpenCV axes.
        width: in pixels.
        height: in pixels.
        focal: in pixels.
    """
    y, x = np.mgrid[0:height, 0:width] + 0.5
    directions = np.stack([(x - width / 2) / focal, (y - height / 2) / focal, np.ones_like(x)], -1) @ pose[:3, :3].T
    image, nearest = np.zeros((height, width, 3)), np.full((height, width), np.inf)
    for axis, value, low, high, pixels in _surfaces():
        distance = (value - pose[axis, 3]) / directions[..., axis]
        points = np.delete(pose[:3, 3] + distance[..., None] * directions, axis, axis=-1)
        inside = ((points > low) & (points < high)).all(axis=-1) & (distance > 0) & (distance < nearest)
        places = (points[inside] - low) / (np.array(high) - low) * (np.array(pixels.shape[1::-1]) - 1)
        for channel in range(3):
            image[inside, channel] = map_coordinates(pixels[..., channel].astype(float), places.T[::-1], order=1)
        nearest[inside] = distance[inside]
    return Image.fromarray(image.astype(np.uint8))


def write_video(path: Path, frames: list[NDArray[np.uint8]], rate: int = 30, rotation: int = 0) -> Path:
    """Write frames as H.264; a player turns them counterclockwise by `rotation` degrees."""
    import av

    with av.open(str(path), "w") as video:
        stream: Any = video.add_stream("libx264", rate=rate, options={"crf": "10"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in frames:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        video.mux(stream.encode())
    return path
