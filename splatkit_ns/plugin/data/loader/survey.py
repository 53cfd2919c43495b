"""Figures of a data set as training has it, and the photographs that cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from nerfstudio.cameras.cameras import CameraType

from splatkit_ns.plugin.data.cameras import have_distortion, pixel_counts
from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.data.loader.batches import batch_bytes, usable_cores
from splatkit_ns.plugin.data.loader.dataset import SplatkitDataset
from splatkit_ns.plugin.data.loader.memory import PinnedMemory, choose_storage
from splatkit_ns.plugin.data.loader.reading import ImageReader, prepare_thread


@dataclass(frozen=True)
class SplitFigures:
    """Figures of the training images, or of the held-out ones."""

    names: tuple[str, ...]
    sizes: dict[tuple[int, int], int]
    """(width, height) of the files -> the number of images."""
    lenses: dict[str, int]
    """A kind of lens -> the number of images."""
    pixels: int
    """The pixels of all images as training uses them."""
    stored_pixels: int
    """The pixels of all image files."""
    undistorts: bool
    """Whether training uses images without lens distortion."""
    masks: int
    seed_points: int | None
    """None if the data set has none."""


@dataclass(frozen=True)
class ReadingResult:
    """The result of reading every image once."""

    num_bytes: int
    """The memory of all images as training keeps them."""
    problems: tuple[str, ...]
    """A message for each image that cannot be used."""
    masked_share: float | None
    """The share of all pixels that masks leave out; None without masks."""


@dataclass(frozen=True)
class Room:
    """The memory for images."""

    limit: int
    """Bytes."""
    on_gpu: bool


def split_figures(dataset: SplatkitDataset) -> SplitFigures:
    """Count what a split of a data set has."""
    stored, outputs = dataset.stored_cameras, dataset.dataparser_outputs
    widths, heights = stored.width.flatten().tolist(), stored.height.flatten().tolist()
    points: Any = outputs.metadata.get("points3D_xyz")
    return SplitFigures(
        names=tuple(str(path) for path in dataset.image_filenames),
        sizes=dict(Counter(zip(map(int, widths), map(int, heights), strict=True))),
        lenses=dict(Counter(_lens_names(dataset))),
        pixels=sum(pixel_counts(dataset.cameras)),
        stored_pixels=sum(pixel_counts(stored)),
        undistorts=dataset.undistorts,
        masks=len(outputs.mask_filenames or ()),
        seed_points=None if points is None else len(points),
    )


def _lens_names(dataset: SplatkitDataset) -> list[str]:
    cameras = dataset.stored_cameras
    kinds = [CameraType(kind).name.lower() for kind in cameras.camera_type.flatten().tolist()]
    return [
        "pinhole" if kind == "perspective" and not is_bent else f"{kind} with distortion" if is_bent else kind
        for kind, is_bent in zip(kinds, have_distortion(cameras).tolist(), strict=True)
    ]


def read_all_images(
    dataset: SplatkitDataset, image_type: Any, report: Callable[[int], None] = lambda _: None
) -> ReadingResult:
    """Read each image and its mask once, as training would.

    Args:
        dataset: the images.
        image_type: that in which training keeps them: "uint8" or "float32".
        report: is told how many have been read.
    """
    read = ImageReader(dataset, image_type)

    def figures(index: int) -> tuple[int, int, int] | str:
        try:
            batch = read(index)
        except DataError as error:
            return str(error)
        mask: torch.Tensor | None = batch.get("mask")
        return batch_bytes(batch), 0 if mask is None else mask.numel(), 0 if mask is None else int((~mask.bool()).sum())

    sums, problems = [0, 0, 0], list[str]()
    with ThreadPoolExecutor(usable_cores(), initializer=prepare_thread) as threads:
        for done, found in enumerate(threads.map(figures, range(len(dataset))), start=1):
            if isinstance(found, str):
                problems.append(found)
            else:
                sums = [total + value for total, value in zip(sums, found, strict=True)]
            report(done)
    num_bytes, masked, left_out = sums
    return ReadingResult(num_bytes, tuple(problems), left_out / masked if masked else None)


def room_for(config: Any, device: torch.device, num_bytes: int) -> Room:
    """The memory that training would give to images.

    Args:
        config: that of the datamanager.
        device: of the training.
        num_bytes: of all images.
    """
    storage = choose_storage(
        device, num_bytes, prefer_gpu=config.cache_images == "gpu", gib=config.cache_gib,
        workers=config.max_thread_workers,
    )  # fmt: skip
    return Room(storage.budget.limit, device.type == "cuda" and not isinstance(storage.keep, PinnedMemory))
