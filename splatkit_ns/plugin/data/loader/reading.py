"""Reading one photograph as training needs it: decoded, without lens distortion, with its mask, depth and normals."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import torch

from splatkit_ns.loss_fn.base import TargetName
from splatkit_ns.plugin.data.loader.dataset import SplatkitDataset
from splatkit_ns.plugin.data.loader.targets import read_target

Batch = dict[str, Any]
"""A photograph and what belongs to it: ``image`` (H, W, 3 or 4), and ``mask`` (H, W, 1), targets and names if there are
any."""


MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""glibc's numbers of these options of mallopt."""
LARGEST_KEPT = 32 * 1024**2
"""Bytes; glibc allows no more. Larger pieces go back to the system."""
MOST_KEPT = 256 * 1024**2
"""Bytes that are free at the end of the heap before glibc gives them back."""


@dataclass
class TargetFiles:
    """Depth and normal images of a split."""

    paths: Mapping[TargetName, Sequence[Path]] = field(default_factory=dict)
    """See `targets.target_files`."""
    unit: float = 1.0
    """The length of the depth files' unit in world units."""


def prepare_thread() -> None:
    """Prepare a thread to read photographs beside others like it: one core each, and memory that is used again.

    OpenCV would start threads of its own in each, and glibc would give the memory of each photograph back to the
    system, which has to clear it before the next one has it.
    """
    cv2.setNumThreads(1)
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        set_option(MMAP_THRESHOLD, LARGEST_KEPT)
        set_option(TRIM_THRESHOLD, MOST_KEPT)


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
