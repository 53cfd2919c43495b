"""A summary of the data set that a rank has read, to compare with those of other machines."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-4
"""The difference of numbers of cameras, relative or in units of the scene, up to which rounding is the cause."""


@dataclass(frozen=True)
class DataSummary:
    """The photographs that are trained on, and their cameras."""

    names: list[str]
    """File names of the photographs, without folders."""
    sizes: list[tuple[int, int]]
    """Width and height of each."""
    bytes: list[int]
    """The size of each file; -1 if it cannot be found."""
    cameras: Tensor
    """(N, K): pose, intrinsics and lens of each."""
    num_seed_points: int

    @classmethod
    def of(cls, datamanager: Any) -> DataSummary:
        """The summary of a datamanager's training images."""
        outputs, dataset = datamanager.train_dataparser_outputs, datamanager.train_dataset
        paths, cameras = [Path(path) for path in dataset.image_filenames], dataset.cameras
        numbers = [cameras.camera_to_worlds, cameras.fx, cameras.fy, cameras.cx, cameras.cy, cameras.camera_type]
        if cameras.distortion_params is not None:
            numbers.append(cameras.distortion_params)
        seeds = outputs.metadata.get("points3D_xyz")
        return cls(
            [path.name for path in paths],
            list(zip(cameras.width.flatten().tolist(), cameras.height.flatten().tolist(), strict=True)),
            [_bytes_of(path) for path in paths],
            torch.cat([each.reshape(len(paths), -1).double().cpu() for each in numbers], dim=1),
            0 if seeds is None else len(seeds),
        )

    def difference(self, other: DataSummary) -> str | None:
        """The first difference, as "NUMBER photographs, not NUMBER" with the values of `other` last; None if there is
        none but rounding."""
        if len(self.names) != len(other.names):
            return f"{len(self.names)} photographs, not {len(other.names)}"
        for i, (name, theirs) in enumerate(zip(self.names, other.names, strict=True)):
            if name != theirs:
                return f"photograph {i + 1} is {name}, not {theirs}"
            if self.sizes[i] != other.sizes[i]:
                (width, height), (x, y) = self.sizes[i], other.sizes[i]
                return f"{name} has {width}×{height} pixels, not {x}×{y}"
            if self.bytes[i] != other.bytes[i]:
                return f"{name} has {self.bytes[i]:,} bytes, not {other.bytes[i]:,}"
        if self.cameras.shape != other.cameras.shape:
            return "the cameras have other lenses"
        alike = torch.isclose(self.cameras, other.cameras, rtol=TOLERANCE, atol=TOLERANCE).all(dim=1)
        if not alike.all():
            return f"{self.names[int(alike.int().argmin())]} has another camera"
        if self.num_seed_points != other.num_seed_points:
            return f"{self.num_seed_points:,} seed points, not {other.num_seed_points:,}"
        return None


def _bytes_of(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return -1
