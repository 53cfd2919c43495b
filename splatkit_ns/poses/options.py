"""Options of ``splatkit poses``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from splatkit_ns.ranges import at_least

Matching = Literal["auto", "exhaustive", "sequential", "gps"]
Lens = Literal["perspective", "fisheye"]
MIN_PICTURES = 3
"""The fewest pictures that poses are computed for: two to train on, one to hold out."""


@dataclass
class PosesOptions:
    """Compute the camera poses of photographs, or of a video's frames.

    Writes a data set for ns-train: transforms.json, images/, sparse_pc.ply (seed points), sparse/0 (COLMAP's model),
    and cameras.png, a picture of cameras and points. A run that was stopped goes on where it was. Needs pycolmap: pip
    install "splatkit-ns[poses]".
    """

    source: Annotated[Positional[Path], arg(metavar="PHOTOS_OR_VIDEO")]
    """A folder of photographs, or a video file. They stay as they are."""
    output: Path
    """The data set's folder. Photographs are linked into it, or copied if it is on another disk."""
    matching: Matching = "auto"
    """The pairs of pictures that are compared. exhaustive: all. sequential: neighbours in the order of names or time,
    and some farther ones. gps: neighbours by the places in EXIF. auto: sequential for a video; gps for more than 200
    photographs that all have a place; else exhaustive."""
    lens: Lens = "perspective"
    """The kind of lens: fisheye for a view of more than about 120 degrees."""
    cameras: Literal["auto", "each"] = "auto"
    """auto: pictures of one size, camera and focal length in EXIF share intrinsics. each: every picture has its own,
    for a zoom whose focal length EXIF does not tell."""
    frames: Annotated[int, at_least(MIN_PICTURES)] = 200
    """The most frames to take of a video: the sharpest of as many spans of the same length."""
    feature_size: Annotated[int | None, at_least(64)] = None
    """Pixels of the longest side at which features are looked for. If not given, 1600 on the CPU, 3200 on a GPU."""
    threads: Annotated[int | None, at_least(1)] = None
    """Threads on the CPU. If not given, one for each core."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device for features and matching. auto: the GPU if pycolmap was built for CUDA (pycolmap-cuda12), else the
    CPU."""
    overwrite: bool = False
    """Replace the poses that an earlier splatkit poses wrote into the folder."""
