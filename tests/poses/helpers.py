"""Small photographs, videos and models for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
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
