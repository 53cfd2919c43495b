"""Photographs and videos in place of a data set: the command that makes one of them, or the data set around them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from splatkit_ns import media
from splatkit_ns.files import quoted
from splatkit_ns.plugin.data.scenes.bare_colmap import IMAGES, photographs_of_model, place_of_model

DEEPEST = 3
"""The depth of a COLMAP model in a data set, as in colmap/sparse/0."""


def data_set_around(data: Path) -> str | None:
    """A sentence that names the data set in which a folder is, such as that of its photographs or its model.

    Returns:
        None if there is none, or if the folder has photographs in a folder of their own.
    """
    if (data / IMAGES).is_dir() or photographs_of_model(data) is not None:
        return None
    for folder in list(data.absolute().parents)[:DEEPEST]:
        is_colmap = place_of_model(folder) is not None and (folder / IMAGES).is_dir()
        if is_colmap or any((folder / f"transforms{split}.json").is_file() for split in ("", "_train")):
            return f"The folder is inside a data set: --data {quoted(folder)}"
    return None


def poses_command(data: Path) -> str | None:
    """A sentence with the command that computes camera poses, for a folder of photographs or a video.

    Args:
        data: a file or folder that exists, and is no data set.

    Returns:
        None if there is neither a picture nor a video.
    """
    if data.is_file():
        return _command("It is a video without camera poses", data) if _count([data], media.VIDEOS) else None
    for folder in (data, data / "images"):
        files = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
        if number := _count(files, media.PICTURES):
            output = data if folder != data else None
            return _command(f"{folder} holds {number} picture(s) without camera poses", folder, output)
        videos = sorted(path for path in files if path.suffix.lower() in media.VIDEOS)
        if videos:
            return _command(f"{folder} holds a video without camera poses", videos[0])
    return None


def _count(files: Iterable[Path], suffixes: tuple[str, ...]) -> int:
    return sum(path.suffix.lower() in suffixes and not path.name.startswith(".") for path in files)


def _command(what: str, source: Path, output: Path | None = None) -> str:
    named = source if source.name not in ("", "..") else source.resolve()
    output = output or named.with_name(f"{named.stem if named.is_file() else named.name}_poses")
    target = quoted(output)
    return (
        f"{what}. Compute them with: splatkit poses {quoted(named)} --output {target}, and train with --data {target}"
    )
