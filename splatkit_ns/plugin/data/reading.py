"""Reading one photograph as training needs it: decoded, without lens distortion, with its mask, depth and normals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from splatkit_ns.loss_fn.base import TargetName
from splatkit_ns.plugin.data.dataset import SplatkitDataset
from splatkit_ns.plugin.data.targets import read_target

Batch = dict[str, Any]
"""A photograph and what belongs to it: ``image`` (H, W, 3 or 4), and ``mask`` (H, W, 1), targets and names if there are
any."""


@dataclass
class TargetFiles:
    """Depth and normal images of a split."""

    paths: Mapping[TargetName, Sequence[Path]] = field(default_factory=dict)
    """See `targets.target_files`."""
    unit: float = 1.0
    """The length of the depth files' unit in world units."""


class ImageReader:
    """Reads the photographs of a split, one by one; may be called from several threads.

    Args:
        dataset: the photographs.
        image_type: of the pixels that are returned.
        targets: depth and normal images to read as well.
    """

    def __init__(
        self, dataset: SplatkitDataset, image_type: Literal["uint8", "float32"], targets: TargetFiles | None = None
    ) -> None:
        self._dataset = dataset
        self._image_type: Literal["uint8", "float32"] = image_type
        self._targets = targets or TargetFiles()

    def __call__(self, index: int) -> Batch:
        """The photograph of an index, in main memory.

        Raises:
            DataError: a file of it cannot be used.
        """
        batch: Batch = self._dataset.get_data(index, image_type=self._image_type)
        for name, paths in self._targets.paths.items():
            batch[name] = torch.from_numpy(read_target(name, paths[index], self._targets.unit, self._dataset, index))
        return batch
