"""The first stage: the photographs, or frames of the video, come into the data set's folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.console import Console

from splatkit_ns import media
from splatkit_ns.errors import SplatkitError, listed
from splatkit_ns.poses.options import MIN_PICTURES, PosesOptions
from splatkit_ns.poses.pictures import (
    Found,
    Photograph,
    Picture,
    find_photographs,
    place_photographs,
    read_photographs,
)
from splatkit_ns.poses.progress import SHOWN_NAMES, Watch, bar
from splatkit_ns.poses.video import Video, open_video, save_frames
from splatkit_ns.poses.workspace import IMAGES, Workspace, fingerprint_of
from splatkit_ns.printing import say, warn


@dataclass(frozen=True)
class Source:
    """The input that poses are computed of."""

    found: Found | None
    video: Video | None
    fingerprint: str


def find_source(options: PosesOptions) -> Source:
    """Find the photographs, or open the video.

    Raises:
        SplatkitError: there are none, or too few.
        OSError: a folder cannot be read.
    """
    path = options.source
    if path.is_dir():
        found = find_photographs(path, options.output)
        if len(found.photographs) < MIN_PICTURES:
            raise SplatkitError(
                f"{found.folder} holds {len(found.photographs)} picture(s), expected at least {MIN_PICTURES}: poses "
                "follow from things that several photographs show from different places. 50 to 300 are a good number."
            )
        return Source(found, None, fingerprint_of(found.photographs))
    if not path.exists():
        raise SplatkitError(f"{path} does not exist: name a folder of photographs, or a video file.")
    if path.suffix.lower() in media.PICTURES or _is_picture(path):
        raise SplatkitError(f"{path} is one picture: name the folder of all photographs of the scene, or a video file.")
    video = open_video(path)
    if len(video.times) < MIN_PICTURES:
        raise SplatkitError(f"{path} has {len(video.times)} frame(s), expected at least {MIN_PICTURES}.")
    return Source(None, video, fingerprint_of([path], options.frames))


def _is_picture(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return getattr(image, "n_frames", 1) == 1
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def add_pictures(options: PosesOptions, source: Source, work: Workspace, console: Console) -> list[Picture]:
    """Put the pictures of photographs or of a video into the workspace, and return them."""
    if source.video is not None:
        return _add_frames(source.video, options.frames, work, console)
    assert source.found is not None
    return _add_photographs(source.found, options, work, console)


def _add_photographs(found: Found, options: PosesOptions, work: Workspace, console: Console) -> list[Picture]:
    watch = Watch()
    for sentence in found.passed_over:
        warn(console, sentence)
    photographs: list[Photograph] = []
    unreadable: list[str] = []
    with bar(console, "Reading pictures", len(found.photographs)) as report:
        for number, entry in enumerate(read_photographs(found, options.threads or os.cpu_count() or 1)):
            if isinstance(entry, str):
                unreadable.append(entry)
            else:
                photographs.append(entry)
            report(number + 1)
    if len(photographs) < MIN_PICTURES:
        raise SplatkitError(
            f"{len(unreadable)} of {len(found.photographs)} pictures in {found.folder} cannot be read, and at least "
            f"{MIN_PICTURES} are needed. Restore them, or take them out:\n{listed(unreadable, SHOWN_NAMES, chr(10))}"
        )
    if unreadable:
        warn(console, f"Left out, as they cannot be read: {listed(unreadable, SHOWN_NAMES, '; ')}")
    changed = sum(not photograph.is_kept for photograph in photographs)
    if _usable_in_place(found, photographs, work):
        work.use_images(found.folder.resolve().relative_to(work.output.resolve()).as_posix())
        pictures = [photograph.picture for photograph in photographs]
    else:
        with work.new_images() as folder, bar(console, "Placing pictures", len(photographs)) as report:
            pictures = []
            for picture in place_photographs(photographs, folder):
                pictures.append(picture)
                report(len(pictures))
    work.set_pictures(pictures)
    turned = f", {changed} of them as upright copies in a common format" if changed else ""
    say(console, f"Pictures: {len(pictures)} in {work.images}{turned}; {watch.shown()}")
    return pictures


def _usable_in_place(found: Found, photographs: Sequence[Photograph], work: Workspace) -> bool:
    """Whether the photographs are the ``images`` of the data set's folder already, and can stay as they are."""
    return found.folder.resolve() == (work.output / IMAGES).resolve() and all(
        photograph.is_kept and photograph.picture.name == photograph.picture.source for photograph in photographs
    )


def _add_frames(video: Video, number: int, work: Workspace, console: Console) -> list[Picture]:
    watch = Watch()
    with work.new_images() as folder, bar(console, "Choosing frames", 100) as report:
        pictures, left_out = save_frames(video, folder, number, lambda share: report(100 * share))
        if len(pictures) < MIN_PICTURES:
            raise SplatkitError(
                f"{video.path}: only {len(pictures)} frame(s) can be used, expected at least {MIN_PICTURES}."
            )
    work.set_pictures(pictures)
    blurred = f"; {left_out} blurred part(s) of the video have none" if left_out else ""
    say(
        console,
        f"Pictures: {len(pictures)} of {len(video.times)} frames in {work.images}, the sharpest, evenly spread"
        f"{blurred}; {watch.shown()}",
    )
    return pictures
