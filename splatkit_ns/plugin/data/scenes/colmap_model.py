"""A COLMAP model read for its cameras and poses alone, and handed to nerfstudio's dataparser without lenses."""

from __future__ import annotations

import math
import struct
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
from nerfstudio.data.utils import colmap_parsing_utils as colmap_utils
from numpy.typing import NDArray

from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.data.photographs.lenses import UNDISTORT, Lens, lens_of_colmap
from splatkit_ns.plugin.data.scenes.frame_poses import far_offset

Doubles = NDArray[np.float64]

IMAGE_ROW = struct.Struct("<idddddddi")
PINHOLE_ID = 1
POINT_BYTES = 24
"""The bytes of an image's 2D point in images.bin."""
BOM = b"\xef\xbb\xbf"
UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class ColmapImage:
    """One image of a model."""

    id: int
    quaternion: tuple[float, ...]
    """(w, x, y, z), of the rotation from world to camera."""
    translation: tuple[float, ...]
    camera_id: int
    name: str

    @property
    def rotation(self) -> Doubles:
        """(3, 3), from world to camera."""
        return np.asarray(colmap_utils.qvec2rotmat(np.array(self.quaternion)), np.float64)

    @property
    def centre(self) -> Doubles:
        """(3,), the position of the camera."""
        return -self.rotation.T @ np.array(self.translation)


class ColmapModel:
    """The cameras and images of a COLMAP model.

    Args:
        folder: with cameras and images, .bin or .txt.

    Raises:
        DataError: a camera's model cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        is_text = is_text_model(folder)
        self.lenses = _read_lenses(folder, is_text)
        """The lens of each camera, by its id; NaN where a program could not compute it."""
        images = _read_images_text(folder / "images.txt") if is_text else read_images_binary(folder / "images.bin")
        self.images = sorted(images, key=lambda image: image.id)
        unknown = [image for image in self.images if image.camera_id not in self.lenses]
        if unknown:
            raise DataError(f"{folder}: {unknown[0].name} has the camera {unknown[0].camera_id}, which is not there.")
        self.images = [image for image in self.images if self._is_finite(image)]
        centres = np.array([image.centre for image in self.images]).reshape(-1, 3)
        self.offset = far_offset(centres) if len(centres) else None

    def _is_finite(self, image: ColmapImage) -> bool:
        """Whether an image has a pose and a lens; what a program could not compute it writes as NaN."""
        lens = self.lenses[image.camera_id]
        lens_values = (lens.fl_x, lens.fl_y, lens.cx, lens.cy, *lens.distortion)
        return bool(np.isfinite((*image.quaternion, *image.translation, *lens_values)).all())

    @contextmanager
    def without_lenses(self) -> Generator[Path]:
        """A folder with the model near the origin, in which all cameras are pinholes of one pixel."""
        with TemporaryDirectory() as folder:
            with (Path(folder) / "cameras.bin").open("wb") as file:
                file.write(struct.pack("<Q", len(self.lenses)))
                for camera_id in self.lenses:
                    file.write(struct.pack("<iiQQdddd", camera_id, PINHOLE_ID, 1, 1, 1.0, 1.0, 0.5, 0.5))
            with (Path(folder) / "images.bin").open("wb") as file:
                file.write(struct.pack("<Q", len(self.images)))
                for image in self.images:
                    moved = np.array(image.translation)
                    if self.offset is not None:
                        moved = -image.rotation @ (image.centre - self.offset)
                    file.write(IMAGE_ROW.pack(image.id, *image.quaternion, *moved.tolist(), image.camera_id))
                    file.write(image.name.encode() + b"\0" + struct.pack("<Q", 0))
            yield Path(folder)


def is_text_model(folder: Path) -> bool:
    """Whether a model is read from its text files; of two kinds, these are taken."""
    return (folder / "cameras.txt").exists()


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a text file of a model, with or without a byte order mark.

    A line that is not UTF-8 is Latin-1, as programs of Windows write names of photographs.

    Raises:
        DataError: the file is UTF-16.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if number == 0 and line.startswith(UTF16):
                raise DataError(f"{path} is UTF-16, as Windows PowerShell writes text. Save it as UTF-8.")
            yield decoded(line.removeprefix(BOM) if number == 0 else line)


def decoded(content: bytes) -> str:
    """Text in UTF-8, or in Latin-1 if it is not that."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _read_lenses(folder: Path, is_text: bool) -> dict[int, Lens]:
    path = folder / ("cameras.txt" if is_text else "cameras.bin")
    if is_text:
        lines = (line for line in map(str.strip, text_lines(path)) if line and not line.startswith("#"))
        return dict(_lens_of_line(line, path) for line in lines)
    try:
        cameras: dict[int, Any] = colmap_utils.read_cameras_binary(path)
    except KeyError as error:
        raise DataError(
            f"{path} has a camera of COLMAP's model number {error}, which is not known. {UNDISTORT}"
        ) from error
    return {
        number: lens_of_colmap(camera.model, camera.width, camera.height, camera.params.tolist(), str(path))
        for number, camera in cameras.items()
    }


def _lens_of_line(line: str, path: Path) -> tuple[int, Lens]:
    """The id and the lens of a line of cameras.txt.

    Raises:
        DataError: it has not what a camera needs, or its camera model cannot be used.
    """
    try:
        camera_id, model, width, height, *parameters = line.split()
        values = [number(word) for word in parameters]
        return int(camera_id), lens_of_colmap(model, int(width), int(height), values, str(path))
    except ValueError as error:
        raise DataError(
            f"{path} has the line {line[:80]!r}, expected the number, model, width, height and parameters of a camera: "
            f"{error}."
        ) from error


def _read_images_text(path: Path) -> list[ColmapImage]:
    """All images; their names may hold spaces, which nerfstudio's reader cuts."""
    found: list[ColmapImage] = []
    for line in image_lines(text_lines(path)):
        words = line.split(maxsplit=9)
        if len(words) != 10:
            raise ValueError(f"{path} has the line {line[:80]!r}, expected ten values of an image")
        numbers = tuple(map(number, words[1:8]))
        found.append(ColmapImage(int(words[0]), numbers[:4], numbers[4:], int(words[8]), words[9]))
    return found


def image_lines(lines: Iterable[str]) -> Iterator[str]:
    """The lines of images.txt that have an image, without those of its 2D points, which some programs leave out."""
    points_may_follow = False
    for line in map(str.strip, lines):
        if points_may_follow and not _is_of_image(line):
            points_may_follow = False
        elif line and not line.startswith("#"):
            yield line
            points_may_follow = True


def _is_of_image(line: str) -> bool:
    """Whether a line is of an image, and not of 2D points, which are three numbers each; a name may be a number."""
    words = line.split(maxsplit=10)
    return len(words) == 10 or (len(words) > 10 and not _is_number(words[-1].rsplit(maxsplit=1)[-1]))


def _is_number(word: str) -> bool:
    try:
        number(word)
    except ValueError:
        return False
    return True


def number(word: str) -> float:
    """A number as programs write it; Windows' write NaN as ``-nan(ind)``, for what they could not compute.

    Raises:
        ValueError: it is none.
    """
    return math.nan if word.lower().lstrip("-").startswith("nan(") else float(word)


def read_images_binary(path: Path) -> list[ColmapImage]:
    """All images, without their 2D points, which are most of the file."""
    found: list[ColmapImage] = []
    with path.open("rb") as file:
        (count,) = struct.unpack("<Q", exactly(file, 8, path))
        for _ in range(count):
            number, *values, camera = IMAGE_ROW.unpack(exactly(file, IMAGE_ROW.size, path))
            name = bytearray()
            while (char := exactly(file, 1, path)) != b"\0":
                name += char
            (points,) = struct.unpack("<Q", exactly(file, 8, path))
            file.seek(points * POINT_BYTES, 1)
            found.append(ColmapImage(number, tuple(values[:4]), tuple(values[4:]), camera, decoded(bytes(name))))
        if file.tell() > path.stat().st_size:
            raise ValueError(f"{path} ends in the middle of an image")
    return found


def exactly(file: BinaryIO, count: int, path: Path) -> bytes:
    """So many bytes of a file.

    Raises:
        ValueError: it has fewer.
    """
    found = file.read(count)
    if len(found) < count:
        raise ValueError(f"{path} ends in the middle of an entry")
    return found
