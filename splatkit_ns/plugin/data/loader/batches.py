"""The photographs of a split: as many as memory allows are kept, and the others are read ahead of their use."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import accumulate, islice

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor

from splatkit_ns.errors import listed
from splatkit_ns.memory import GIB
from splatkit_ns.plugin.data.loader.reading import Batch, prepare_thread
from splatkit_ns.plugin.reporting.console import report_once

logger = logging.getLogger("splatkit_ns")

READ_SHARE = 4
"""At most one in this many parts of the budget is for the photographs that training reads ahead."""


def usable_cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def batch_bytes(batch: Batch) -> int:
    """The memory of a batch's tensors."""
    return sum(value.nbytes for value in batch.values() if isinstance(value, Tensor))


def as_they_are(batch: Batch) -> Batch:
    """The batch itself."""
    return batch


@dataclass
class ImageBudget:
    """The memory that the photographs of all splits of a run share."""

    limit: int
    """The most bytes that photographs may take."""
    workers: int = field(default_factory=usable_cores)
    """The number of threads that read photographs."""
    used: int = 0
    """The bytes of the photographs that are kept."""
    reserved: int = 0
    """The bytes that are left free for photographs that are read ahead."""

    @property
    def free(self) -> int:
        """The bytes that further photographs may take."""
        return self.limit - self.used - self.reserved

    def window(self, largest: int) -> int:
        """The number of photographs to read ahead, at least two.

        Args:
            largest: bytes of the largest photograph.
        """
        room = self.reserved // 2 if self.reserved else self.free // READ_SHARE
        return max(2, min(2 * self.workers, room // max(1, largest)))


class ReadAhead:
    """Runs a function for the indices that are needed next, in threads; its owner is a single thread.

    Args:
        read: the function.
        workers: the number of threads. They start with the first index that is wanted, and end with `close`.
    """

    def __init__(self, read: Callable[[int], Batch], workers: int) -> None:
        self._read, self._workers = read, workers
        self._executor: ThreadPoolExecutor | None = None
        self._futures: dict[int, Future[Batch]] = {}

    def want(self, indices: Iterable[int]) -> None:
        """Read these, in this order; others that were wanted before are dropped."""
        wanted = dict.fromkeys(indices)
        for index in [index for index in self._futures if index not in wanted]:
            self._futures.pop(index).cancel()
        for index in wanted:
            if index not in self._futures:
                if self._executor is None:
                    self._executor = ThreadPoolExecutor(
                        self._workers, thread_name_prefix="splatkit-images", initializer=prepare_thread
                    )
                self._futures[index] = self._executor.submit(self._read, index)

    def is_ready(self, index: int) -> bool:
        """Whether `take` would return without waiting."""
        future = self._futures.get(index)
        return future is not None and future.done()

    def take(self, index: int) -> Batch:
        """The result for an index, which is not remembered.

        Raises:
            DataError: the photograph cannot be used.
        """
        future = self._futures.pop(index, None)
        return self._read(index) if future is None else future.result()

    def close(self) -> None:
        """Drop everything, and wait for the threads to end."""
        self._futures.clear()
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None


def read_in_order(read: Callable[[int], Batch], indices: Sequence[int], workers: int, window: int) -> Generator[Batch]:
    """Run a function for all indices, in threads that end with the iteration.

    Args:
        read: the function.
        indices: in the order of the results; each once.
        workers: the number of threads.
        window: the number of results that are wanted at a time.
    """
    with closing(ReadAhead(read, workers)) as ahead:
        for done, index in enumerate(indices):
            ahead.want(indices[done : done + window])
            yield ahead.take(index)


class Batches(Sequence[Batch]):
    """The photographs of a split as a sequence. One that is not kept is read each time it is used.

    Args:
        read: reads a photograph into main memory; is called from several threads.
        pixels: the number of pixels of each photograph.
        budget: the memory for photographs.
        keep: copies a photograph to the place where it is kept; is called from several threads.
        stage: prepares a photograph that is read ahead for its use; is called from several threads.
    """

    def __init__(
        self,
        read: Callable[[int], Batch],
        pixels: Sequence[int],
        budget: ImageBudget,
        keep: Callable[[Batch], Batch] = as_they_are,
        stage: Callable[[Batch], Batch] = as_they_are,
    ) -> None:
        self._read, self._pixels, self._keep = read, pixels, keep
        self.budget = budget
        self._kept: dict[int, Batch] = {}
        self._ahead = ReadAhead(lambda index: stage(read(index)), budget.workers)
        self._window = 2
        self.streams = True
        """Whether some photographs are not kept; known after `fill`."""

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> Batch:
        """A photograph; a copy of its dictionary, not of its tensors.

        Raises:
            DataError: it has to be read, and cannot be used.
        """
        index = range(len(self))[index]
        kept = self._kept.get(index)
        return dict(self._ahead.take(index) if kept is None else kept)

    def __iter__(self) -> Iterator[Batch]:
        return self.in_order(range(len(self)))

    @property
    def num_kept(self) -> int:
        """The number of photographs that are kept."""
        return len(self._kept)

    def is_ready(self, index: int) -> bool:
        """Whether a photograph can be had without waiting."""
        return index in self._kept or self._ahead.is_ready(index)

    def expect(self, indices: Iterable[int]) -> None:
        """Read photographs ahead that will be used next, as far as memory allows.

        Args:
            indices: in the order of their use; as many as memory allows are looked at.
        """
        if self.streams:
            self._ahead.want(index for index in islice(indices, self._window) if index not in self._kept)

    def in_order(self, indices: Sequence[int]) -> Generator[Batch]:
        """The photographs of these indices, read ahead; the threads end with the iteration."""
        missing = [index for index in indices if index not in self._kept]
        with closing(read_in_order(self._read, missing, self.budget.workers, self._window)) as others:
            for index in indices:
                kept = self._kept.get(index)
                yield next(others) if kept is None else dict(kept)

    def close(self) -> None:
        """End the threads that read ahead; photographs can still be had, and start them again."""
        self._ahead.close()

    def fill(self, first: Batch, name: str) -> None:
        """Read photographs until the budget is used up, with a progress bar, and keep them. A note says if not all are.

        Args:
            first: the first photograph, by whose size those of the others are estimated.
            name: of the split, for the progress bar.

        Raises:
            DataError: a photograph cannot be used.
        """
        budget = self.budget
        per_pixel = batch_bytes(first) / self._pixels[0]
        sizes = [round(per_pixel * pixels) for pixels in self._pixels]
        self._window = budget.window(max(sizes))
        if sum(sizes) > budget.free:
            # once for training, and once for an evaluation meanwhile
            budget.reserved = max(budget.reserved, 2 * self._window * max(sizes))
        expected = sum(total <= budget.free for total in accumulate(sizes))
        numbers = track(
            range(expected),
            f"Reading {name} images",
            console=CONSOLE,
            transient=True,
            disable=not CONSOLE.is_terminal,
        )
        rest, workers = range(1, expected), budget.workers
        with closing(read_in_order(lambda index: self._keep(self._read(index)), rest, workers, self._window)) as others:
            for index in numbers:
                batch = next(others) if index else self._keep(first)
                size = batch_bytes(batch)
                if size > budget.free:  # larger than estimated
                    break
                self._kept[index] = batch
                budget.used += size
        self.streams = self.num_kept < len(self)
        if self.streams:
            report_once(
                f"{len(self):,} {name} images are too many for the {budget.limit / GIB:.3g} GiB of memory that "
                f"images may take (--pipeline.datamanager.cache-gib): {self.num_kept:,} are kept, and the others are "
                "read from disk each time they are used."
            )


class EvaluationViews(Sequence[tuple[Cameras, Batch]]):
    """Cameras and photographs for an evaluation, on its device; one photograph at a time is copied there.

    Args:
        cameras: of all photographs of the split.
        batches: all photographs of the split.
        indices: of those that are measured, in order.
        device: of the evaluation.
    """

    def __init__(self, cameras: Cameras, batches: Batches, indices: Sequence[int], device: torch.device | str) -> None:
        self._cameras = deepcopy(cameras).to(device)
        self._batches, self._indices, self._device = batches, indices, device

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Cameras, Batch]:
        index = self._indices[index]
        return self._view(index, self._batches[index])

    def __iter__(self) -> Iterator[tuple[Cameras, Batch]]:
        pairs = zip(self._indices, self._batches.in_order(self._indices), strict=True)
        return (self._view(index, batch) for index, batch in pairs)

    def _view(self, index: int, batch: Batch) -> tuple[Cameras, Batch]:
        return self._cameras[index : index + 1], {**batch, "image": batch["image"].to(self._device)}


def indices_with_pixels(batches: Batches, names: Sequence[str]) -> list[int]:
    """The photographs of which masks leave any pixel. The others cannot be measured; a warning names them.

    Args:
        batches: the photographs of a split.
        names: their files' names, for the warning.
    """
    masks = (batch.get("mask") for batch in batches)
    found = [index for index, mask in enumerate(masks) if mask is None or bool(mask.any())]
    if len(found) < len(batches):
        measured = set(found)
        left_out = [name for index, name in enumerate(names) if index not in measured]
        logger.warning(
            "%d of %d held-out photographs are left out of the evaluation, because their masks leave no pixel: %s.",
            len(left_out),
            len(batches),
            listed(left_out, most=3),
        )
    return found
