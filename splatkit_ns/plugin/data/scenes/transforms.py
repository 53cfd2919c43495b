"""transforms.json and its kin: read, checked, and given to nerfstudio's dataparsers in a form that they can read."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.files import quoted
from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.data.photographs.lenses import INTRINSICS, Lens, lens_of_frame
from splatkit_ns.plugin.data.photographs.pictures import RESTORE, read_header
from splatkit_ns.plugin.data.scenes.frame_poses import far_offset, pose_of, without_scale

Doubles = NDArray[np.float64]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG", ".webp", ".tif", ".tiff", ".bmp")
FOCALS = ("fl_x", "fl_y", "x_fov", "y_fov", "camera_angle_x", "camera_angle_y")


def transforms_file(data: Path) -> Path:
    """The transforms.json of ``--data``, which names the file or its folder."""
    return data if data.suffix == ".json" else data / "transforms.json"


def read_frames(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The content of a JSON file of frames, and its frames, each with a path and a finite pose.

    Raises:
        DataError: it is missing, no JSON, has no frames, or a frame lacks its path or pose.
    """
    try:
        meta = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist, but the dataparser needs it.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON: {error}.") from error
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(frames, list) or not frames:
        raise DataError(f"{path} has no list of 'frames', or an empty one: there is no image in it.")
    for number, frame in enumerate(frames):
        where = f"{path}, frame {number}"
        if not isinstance(frame, dict) or not isinstance(name := frame.get("file_path"), str) or not name:
            raise DataError(f"{where} has no 'file_path', the path of its image relative to {path.name}.")
        pose_of(frame, f"{where} ({frame['file_path']})")
    return meta, frames


def check_transforms(path: Path) -> dict[str, Any]:
    """Check the parts of a ``transforms.json`` that nerfstudio's dataparser takes for granted.

    Returns:
        Its content.

    Raises:
        DataError: it is not JSON, has no frames, or a frame lacks its image, its pose or its intrinsics.
    """
    meta, frames = read_frames(path)
    scale = meta.get("applied_scale", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise DataError(f"{path}: 'applied_scale' is {scale!r}, expected a number above 0. Correct it, or take it out.")
    for number, frame in enumerate(frames):
        where = f"{path}, frame {number} ({frame['file_path']})"
        missing = [key for key in INTRINSICS if key not in meta and key not in frame]
        if missing:
            angle = next((key for key in FOCALS[2:] if key in meta or key in frame), None)
            how = (
                f" To take them from {angle} and the images' sizes, end the command with: "
                f"instant-ngp-data --data {quoted(path)}"
            )
            raise DataError(
                f"{where} lacks intrinsics: {', '.join(missing)} stand neither in the frame nor at the top of the "
                f"file. Focal lengths, centre and size are in pixels.{how if angle else ''}"
            )
        lens_of_frame(meta, frame, where)
    return meta


class Scene:
    """A file of frames as nerfstudio's dataparsers are to read it.

    Args:
        path: the file.

    Raises:
        DataError: see `read_frames`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.parent
        self.meta, self.frames = read_frames(path)
        poses = np.stack([pose_of(frame, f"{path}, frame {i}") for i, frame in enumerate(self.frames)])
        self.poses = without_scale(poses, path)
        """(F, 4, 4)."""
        self.offset = far_offset(self.poses[:, :3, 3])
        self.names = [existing_name(self.folder, frame["file_path"]) for frame in self.frames]
        """Paths of images, relative to the file's folder unless absolute."""

    def where(self, index: int) -> str:
        """The file and the frame, for messages."""
        return f"{self.path}, frame {index} ({self.frames[index]['file_path']})"

    def lens(self, index: int) -> Lens:
        """The lens of a frame; see `lens_of_frame`."""
        return lens_of_frame(self.meta, self.frames[index], self.where(index))

    def lens_by_angles(self, index: int, size: tuple[int, int] | None = None) -> Lens:
        """The lens of a frame whose focal lengths may be given as angles, as instant-ngp and Blender do.

        Args:
            index: of the frame.
            size: width and height of its image; read from the file if None and if the frame does not have them.

        Raises:
            DataError: see `lens_of_frame`; or there is neither a focal length nor an angle.
        """
        frame, where = self.frames[index], self.where(index)
        both: dict[str, Any] = {**self.meta, **{key: frame[key] for key in INTRINSICS if key in frame}}
        if "w" not in both or "h" not in both:
            width, height = size or image_size(self.folder / self.names[index])
            both = {**both, "w": both.get("w", width), "h": both.get("h", height)}
        source = frame if any(key in frame for key in FOCALS) else self.meta
        both["fl_x"] = _focal(source, "x", both["w"])
        both["fl_y"] = _focal(source, "y", both["h"]) or both["fl_x"]
        both["fl_x"] = both["fl_x"] or both["fl_y"]
        if both["fl_x"] is None:
            raise DataError(
                f"{where} lacks intrinsics: neither fl_x nor x_fov (degrees) nor camera_angle_x (radians) stands in "
                "the frame or at the top of the file."
            )
        both = {"cx": both["w"] / 2, "cy": both["h"] / 2, **both}
        rest = {key: value for key, value in frame.items() if key not in INTRINSICS}
        return lens_of_frame(both, rest, where)

    def poses_near_origin(self) -> Doubles:
        """(F, 4, 4), without the offset."""
        poses = self.poses.copy()
        if self.offset is not None:
            poses[:, :3, 3] -= self.offset
        return poses

    def written(self, frames: list[dict[str, Any]], **top: Any) -> AbstractContextManager[Path]:
        """A context with the path of a file for nerfstudio: these frames, with poses near the origin.

        Args:
            frames: one for each frame of the file, without its pose.
            **top: keys at the top, in place of those of the file; None leaves a key out. Intrinsics are those of a
                stand-in, and paths are relative to the stand-in's folder.
        """
        stand_in = {"fl_x": 1.0, "fl_y": 1.0, "cx": 0.5, "cy": 0.5, "w": 1, "h": 1}
        kept = ("orientation_override", "applied_transform", "applied_scale", "aabb_scale", "camera_angle_x")
        meta = {**{key: self.meta[key] for key in kept if key in self.meta}, **stand_in, **top}
        meta = {key: value for key, value in meta.items() if value is not None}
        meta["frames"] = [
            {**frame, "transform_matrix": pose.tolist()}
            for frame, pose in zip(frames, self.poses_near_origin(), strict=True)
        ]
        return _temporary_json(meta)


@contextmanager
def _temporary_json(content: dict[str, Any]) -> Generator[Path]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "transforms.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        yield path


def _focal(source: Mapping[str, Any], axis: str, size: float) -> float | None:
    angle = source.get(f"camera_angle_{axis}")
    if f"{axis}_fov" in source:
        angle = math.radians(source[f"{axis}_fov"])
    if f"fl_{axis}" in source:
        return source[f"fl_{axis}"]
    return 0.5 * size / math.tan(0.5 * angle) if angle else None


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image as it is stored.

    Raises:
        DataError: it does not exist or cannot be identified.
    """
    if not path.is_file():
        raise DataError(f"The image {path} does not exist, which the data set names. {near_name(path)}")
    stored = read_header(path)
    return stored.width, stored.height


def existing_name(folder: Path, name: str) -> str:
    """The path of an image that exists, for one that other programs write: without suffix, with backslashes, in other
    case, with accents as signs of their own (macOS); the path itself if there is none or several."""
    names = [name, name.replace("\\", "/")]
    names += [f"{names[-1]}{suffix}" for suffix in IMAGE_SUFFIXES]
    for candidate in names:
        if (folder / candidate).is_file():
            return candidate
    path = folder / names[1]
    found = _same_but_for_case(path)
    return str(Path(names[1]).with_name(found[0])) if len(found) == 1 else name


def _same_but_for_case(path: Path) -> list[str]:
    def plain(name: str) -> str:
        return unicodedata.normalize("NFC", name).lower()

    try:
        return [other.name for other in path.parent.iterdir() if plain(other.name) == plain(path.name)]
    except OSError:
        return []


def near_name(path: Path) -> str:
    """A sentence that names a file which may be the one that was meant, or says what to do without it."""
    if path.is_symlink():
        return f"It is a link to {path.readlink()}, where there is no file: restore that. {RESTORE}"
    try:
        beside = sorted(other.name for other in path.parent.iterdir() if other.stem.lower() == path.stem.lower())
    except OSError:
        return smaller_copies_of(path) or f"There is no folder {path.parent}."
    return f"There is {', '.join(beside[:3])} beside it: correct the path." if beside else RESTORE


def smaller_copies_of(path: Path) -> str | None:
    """A sentence that names the smaller copies of images whose own folder is not there; None if there are none."""
    found = sorted(path.parent.parent.glob(f"{path.parent.name}_[0-9]*"))
    if path.parent.exists() or not found:
        return None
    factor = found[0].name.rpartition("_")[2]
    return f"There is {found[0]}, which --downscale-factor {factor} of the dataparser uses."


def mask_path(given: Path, image: Path) -> Path:
    """The mask of an image: the one that is named, or another name that programs give it; as given if none exists."""
    names = [given.name, f"{image.name}.png", f"{image.stem}.png", image.name]
    return next((path for name in names if (path := given.with_name(name)).is_file()), given)


def same_file_in(folder: Path, missing: Path) -> str | None:
    """A sentence that names the file in a data set that an absolute path of another machine probably means."""
    parts = str(missing).replace("\\", "/").split("/") if missing.is_absolute() else []  # of Windows, too
    tails = [Path(*parts[start:]) for start in range(1, len(parts)) if parts[start]]
    found = next((tail for tail in tails if (folder / tail).is_file()), None)
    if found is None:
        return None
    return (
        f"There is {found} in {folder}: correct the paths of the data set; those that begin without / are relative to "
        "the file that names them."
    )
