"""The photographs of a folder: which ones there are, what they say of themselves, and their way into a data set."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, ImageOps
from PIL.ExifTags import GPS, IFD, Base

from splatkit_ns import media
from splatkit_ns.errors import SplatkitError
from splatkit_ns.files import atomic_write

NOT_PHOTOGRAPHS = re.compile(r"masks?(_\d+)?|depths?(_\d+)?|normals?(_\d+)?|images_\d+|sparse|colmap", re.IGNORECASE)
"""Names of folders beside photographs whose pictures are made of these, or say something else about them."""

_KEPT_FORMATS = ("JPEG", "MPO", "PNG", "TIFF", "BMP")
"""Pillow's names of the formats that both COLMAP and nerfstudio read."""
_KEPT_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
_KEPT_MODES = ("RGB", "RGBA", "L")
_LOSSLESS = ("PNG", "TIFF", "BMP", "GIF")
_JPEG_QUALITY = 95
_TURNED = range(2, 9)
"""EXIF orientations of pictures that are not stored upright."""


@dataclass(frozen=True)
class Picture:
    """A picture of a data set, as poses are computed for it."""

    name: str
    """Path in the folder of pictures, with forward slashes and without white space."""
    source: str
    """The name to show: that of the photograph, relative to its folder, or of the frame."""
    width: int
    """In pixels, upright."""
    height: int
    camera: str = ""
    """Camera, lens and focal length as EXIF has them; pictures that agree in this and in size share intrinsics."""
    gps: tuple[float, float] | None = None
    """Latitude and longitude in degrees."""


@dataclass(frozen=True)
class Photograph:
    """A photograph of the user's that can be read."""

    path: Path
    picture: Picture
    is_kept: bool
    """Whether its file can be used as it is; if not, an upright copy in a common format is made."""


@dataclass(frozen=True)
class Found:
    """The photographs of a folder."""

    folder: Path
    """The folder that names are relative to."""
    photographs: tuple[Path, ...]
    """In the order of their names, numbers by value."""
    passed_over: tuple[str, ...] = field(default=())
    """Sentences about what else is there and was not taken."""


def natural_key(path: Path) -> tuple[tuple[int, int | str], ...]:
    """A key by which ``IMG_9`` comes before ``IMG_10``."""
    parts = re.split(r"(\d+)", path.as_posix().lower())
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts if part)


def find_photographs(folder: Path, output: Path) -> Found:
    """Find the photographs of a folder.

    Those that lie in the folder itself, or if there is none, those in its subfolder ``images``, or else in all its
    subfolders. Hidden files, and what is in the output folder, do not count; nor do folders with names of masks, depth
    images or smaller copies.

    Args:
        folder: exists.
        output: the data set's folder; it may be the folder itself, or a folder in it.

    Raises:
        SplatkitError: there are none.
    """
    passed_over: list[str] = []
    root = folder
    pictures = [path for path in _visible_files(folder) if path.suffix.lower() in media.PICTURES]
    if not pictures and (folder / "images").is_dir() and any(_pictures_below(folder / "images", output)):
        root = folder / "images"
        passed_over.append(f"Taking the pictures in {root}.")
    if not pictures:
        pictures = list(_pictures_below(root, output))
    else:
        below = sum(1 for path in _pictures_below(folder, output) if path.parent != folder)
        if below:
            passed_over.append(
                f"{below} picture(s) in subfolders of {folder} are not taken: name the subfolder to do so."
            )
    raw = sum(path.suffix.lower() in media.CAMERA_RAW for path in _visible_files(folder))
    videos = [path for path in _visible_files(folder) if path.suffix.lower() in media.VIDEOS]
    if pictures:
        if raw:
            passed_over.append(f"{raw} camera raw file(s) are not taken; convert them to JPEG or PNG to use them.")
        if videos:
            passed_over.append(f"{len(videos)} video(s) are not taken, such as {videos[0].name}.")
        return Found(root, tuple(sorted(pictures, key=natural_key)), tuple(passed_over))
    if raw:
        raise SplatkitError(
            f"{folder} holds {raw} camera raw file(s) and no pictures: convert them to JPEG or PNG first."
        )
    if videos:
        raise SplatkitError(
            f"{folder} holds {len(videos)} video(s) and no pictures: name the video, such as {videos[0]}."
        )
    raise SplatkitError(
        f"{folder} holds no pictures ({', '.join(media.PICTURES)}): name the folder with the photographs, or a video "
        "file."
    )


def _visible_files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))


def _pictures_below(folder: Path, output: Path) -> Iterator[Path]:
    """Pictures in a folder and its subfolders, without hidden ones, other images, and those in `output`."""
    for root, folders, files in os.walk(folder):
        at = Path(root)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not NOT_PHOTOGRAPHS.fullmatch(name) and not _same(at / name, output)
        )
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in media.PICTURES:
                yield at / name


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve()


def read_photographs(found: Found, threads: int) -> Iterator[Photograph | str]:
    """Read each file whole, several at once, in the order of `found`.

    Yields:
        For each file a `Photograph`, or a line that says why it cannot be read.
    """
    if any(path.suffix.lower() in (".heic", ".heif") for path in found.photographs):
        _register_heif()
    names = safe_names([path.relative_to(found.folder).as_posix() for path in found.photographs])

    def read(index: int) -> Photograph | str:
        path = found.photographs[index]
        try:
            return _read(path, path.relative_to(found.folder).as_posix(), names[index])
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return f"{path.name}: {_reason(path, error)}"

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(read, range(len(found.photographs)))


def _register_heif() -> None:
    with contextlib.suppress(ImportError):
        heif: Any = importlib.import_module("pillow_heif")
        heif.register_heif_opener()


def _reason(path: Path, error: Exception) -> str:
    if path.suffix.lower() in (".heic", ".heif"):
        return "Pillow cannot read HEIC by itself: pip install pillow-heif, or convert it to JPEG"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture that Pillow can read" if path.stat().st_size else "the file is empty"
    return str(error).rstrip(".")


def safe_names(names: Sequence[str]) -> list[str]:
    """Names without white space, quotes and ``#``, which COLMAP's lists cannot hold; all different."""
    taken: set[str] = set()
    safe: list[str] = []
    for name in names:
        path = Path(re.sub(r"[\s#\"']", "_", name))
        candidate, number = path, 2
        while candidate.as_posix().lower() in taken:
            candidate, number = path.with_name(f"{path.stem}_{number}{path.suffix}"), number + 1
        taken.add(candidate.as_posix().lower())
        safe.append(candidate.as_posix())
    return safe


def _read(path: Path, source: str, name: str) -> Photograph:
    with Image.open(path) as image:
        exif = image.getexif()
        orientation = exif.get(Base.Orientation)
        width, height = image.size
        is_kept = (
            image.format in _KEPT_FORMATS
            and path.suffix.lower() in _KEPT_SUFFIXES
            and image.mode in _KEPT_MODES
            and orientation not in _TURNED
        )
        suffix = _suffix_of_copy(image)
        camera, gps = _camera(exif), _gps(exif)
        if image.format == "JPEG":
            image.draft("L", (max(1, width // 8), max(1, height // 8)))  # all of the file is read, at little cost
        image.load()
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    if (
        not is_kept
        and Path(name).suffix.lower() != suffix
        and not (suffix == ".jpg" and name.lower().endswith(".jpeg"))
    ):
        name += suffix
    return Photograph(path, Picture(name, source, width, height, camera, gps), is_kept)


def _suffix_of_copy(image: Image.Image) -> str:
    has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    return ".png" if has_alpha or image.format in _LOSSLESS else ".jpg"


def _camera(exif: Image.Exif) -> str:
    """The camera, its lens and focal length, as far as EXIF names them."""
    details = exif.get_ifd(IFD.Exif)
    values = [exif.get(Base.Make), exif.get(Base.Model)]
    values += [details.get(tag) for tag in (Base.LensModel, Base.FocalLength, Base.FocalLengthIn35mmFilm)]
    return ", ".join(str(value).strip("\0 ") for value in values if value not in (None, ""))


def _gps(exif: Image.Exif) -> tuple[float, float] | None:
    """Latitude and longitude in degrees; None if EXIF has none, or (0, 0), which cameras write without a fix."""
    tags = exif.get_ifd(IFD.GPSInfo)
    try:
        latitude, longitude = (
            sum(float(part) / 60**power for power, part in enumerate(tags[tag]))
            for tag in (GPS.GPSLatitude, GPS.GPSLongitude)
        )
        south = str(tags.get(GPS.GPSLatitudeRef, "N")).upper().startswith("S")
        west = str(tags.get(GPS.GPSLongitudeRef, "E")).upper().startswith("W")
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    place = (-latitude if south else latitude, -longitude if west else longitude)
    is_place = abs(place[0]) <= 90 and abs(place[1]) <= 180 and place != (0.0, 0.0)  # NaN is none, either
    return place if is_place else None


def place_photographs(photographs: Iterable[Photograph], folder: Path) -> Iterator[Picture]:
    """Put photographs into a folder: as hard links, copies if it is on another disk, or upright copies if need be.

    Yields:
        Each picture, after it has been placed.

    Raises:
        OSError: a file cannot be written.
    """
    for photograph in photographs:
        target = folder / photograph.picture.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if photograph.is_kept:
            _link(photograph.path, target)
        else:
            _copy_upright(photograph.path, target)
        yield photograph.picture


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, a file system without links, or another user's file
        with source.open("rb") as file:
            atomic_write(target, lambda copy: shutil.copyfileobj(file, copy))


def _copy_upright(source: Path, target: Path) -> None:
    """Write the picture turned as its EXIF orientation says, with the rest of EXIF, as JPEG or PNG."""
    with Image.open(source) as image:
        upright = ImageOps.exif_transpose(image)
        exif = upright.getexif()
        exif.pop(Base.Orientation, None)
        profile = image.info.get("icc_profile")
    is_png = target.suffix.lower() not in (".jpg", ".jpeg")
    kind = "PNG" if is_png else "JPEG"
    if upright.mode.startswith(("I", "F")):  # 16 bits and more
        upright = _eight_bits(upright)
    has_alpha = is_png and (upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info)
    mode = "RGBA" if has_alpha else "L" if upright.mode in ("1", "L") else "RGB"
    pixels = upright.convert(mode)
    settings: dict[str, Any] = {} if is_png else {"quality": _JPEG_QUALITY, "subsampling": 0}

    def write(file: BinaryIO) -> None:
        pixels.save(file, format=kind, exif=exif.tobytes(), icc_profile=profile, **settings)

    atomic_write(target, write)


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits as one of 8."""
    return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
