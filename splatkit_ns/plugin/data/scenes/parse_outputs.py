"""The output of a dataparser: lenses of each image, and scenes far from the origin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from numpy.typing import NDArray
from torch import Tensor

from splatkit_ns.plugin.data.photographs.lenses import Lens, cameras_of
from splatkit_ns.plugin.reporting.console import report_once

DEFAULT_LIMIT = 1_000_000
"""Seed points that a run starts with at most, unless an option says otherwise."""

ROUNDING = 1e-4
"""A rotation in single precision is orthogonal but for less than this."""


HELD_OUT = ("val", "test", "validation")
"""The splits of held-out images: training evaluates the first, ``ns-eval`` the second."""


def listed_split(split: str, place: Path, name_of: Callable[[str], str], is_there: Callable[[str], bool]) -> str:
    """The split whose list of images serves for a split: another one of `HELD_OUT`, with a note, if it has none.

    Args:
        split: as nerfstudio asks for it.
        place: what holds the lists, for the note.
        name_of: gives the name of a split's list.
        is_there: tells whether there is a list of this name.
    """
    if split not in HELD_OUT or is_there(name_of(split)):
        return split
    other = next((name for name in HELD_OUT if is_there(name_of(name))), split)
    if other != split:
        report_once(f"{place} has no {name_of(split)}: evaluations take the images of {name_of(other)}.")
    return other


def telling_name(name: str | Path) -> Path:
    """The part of an image's path that tells its split for ``--eval-mode filename``: its name, or else its folders."""
    path = Path(name)
    return path if any(word in path.name for word in ("train", "eval")) else Path("_".join(path.parts))


class OutputsFarFromOrigin(DataparserOutputs):
    """The output for a scene that was moved to the origin; its transform is in double precision."""

    def transform_poses_to_original_space(self, poses: Tensor, camera_convention: Any = "opencv") -> Tensor:
        """Do what nerfstudio's method of this name does, in double precision."""
        return super().transform_poses_to_original_space(poses.double(), camera_convention)


def finished(
    outputs: DataparserOutputs,
    lenses: Sequence[Lens],
    offset: NDArray[np.float64] | None,
    poses: Tensor | None = None,
    **metadata: Any,
) -> DataparserOutputs:
    """The output with its cameras' lenses, and with a transform from the data set's own coordinates.

    Args:
        outputs: of nerfstudio's dataparser; its transform is from coordinates without the offset.
        lenses: one an image.
        offset: (3,), in the coordinates from which the transform is; None for none.
        poses: (C, 3, 4), in place of those of the output.
        **metadata: of the cameras.
    """
    poses = outputs.cameras.camera_to_worlds.reshape(-1, 3, 4) if poses is None else poses
    outputs.cameras = cameras_of(lenses, poses, metadata)
    if offset is None:
        return outputs
    transform = outputs.dataparser_transform.double().clone()
    left, stretch, right = torch.linalg.svd(transform[:, :3])
    if float((stretch - 1).abs().max()) < ROUNDING:  # far away, the rounding of a rotation shifts a scene visibly
        transform[:, :3] = left @ right
    transform[:, 3] -= transform[:, :3] @ torch.from_numpy(offset)
    outputs.dataparser_transform = transform
    report_once(
        f"The scene is far from the origin: ({', '.join(f'{value:.0f}' for value in offset)}) is taken off its "
        "coordinates in double precision. Exports in the data set's frame have it again, in the file or beside it."
    )
    return OutputsFarFromOrigin(**vars(outputs))
