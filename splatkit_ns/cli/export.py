"""``splatkit export``: files of Gaussians from a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from splatkit_ns.opening_options import DataFolder, Device, LoadStep, Trust
from splatkit_ns.ranges import NonNegative, Positive, one_of


@dataclass
class ExportOptions:
    """Write the Gaussians of a run, in any formats and frame.

    The suffixes say which format: .ply, .compressed.ply, .spz, .sog, .splat, .glb, .spz.glb, .usd. Each file is read
    back and rendered at held-out views, and its PSNR against the run's own renders is reported.
    """

    load_config: Path
    """The run's config.yml."""
    output: tuple[Path, ...]
    """The files to write."""
    sky: Annotated[int, NonNegative] = 20_000
    """The number of Gaussians, on a sphere far behind all others, that show the sky of a run that has learnt one
    (--pipeline.model.renderer.sky-degree); 0 leaves the sky out."""
    cameras: Path | None = None
    """A folder for the cameras, as training has corrected them (--pipeline.model.camera-optimizer.mode): a
    transforms.json, which can take the place of the data set's, and COLMAP's text files. They are in the frame
    dataset, whatever the other files' frame is."""
    frame: Literal["nerfstudio", "dataset", "world"] = "nerfstudio"
    """nerfstudio: the frame of training. dataset: the frame of the poses and points in the data set's files, such as
    transforms.json and sparse_pc.ply. world: COLMAP's frame, before ns-process-data turned the poses. If the scene
    is far from the origin there, the file has small coordinates, and one beside it (.offset.json) the offset."""
    up: Literal["y", "z", "minus-y"] | None = None
    """Turn the scene so that the frame's z axis, which is up in nerfstudio's, becomes this axis. If not given, and for
    z, the axes stay as they are."""
    scale: Annotated[float, Positive] = 1.0
    """New units per unit of the frame."""
    sh_degree: Annotated[int | None, one_of(0, 1, 2, 3)] = None
    """Leave out spherical harmonics above this degree."""
    measure: Annotated[int, NonNegative] = 8
    """The most held-out views that are rendered from each file; 0 leaves the check out."""
    overwrite: bool = False
    """Replace files that exist."""
    load_step: LoadStep = None
    data: DataFolder = None
    trust: Trust = ()
    device: Device = None
