"""The memory that a run may use for photographs, and the places where they are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from splatkit_ns.memory import GIB, free_host_memory
from splatkit_ns.plugin.data.loader.batches import ImageBudget, as_they_are, usable_cores
from splatkit_ns.plugin.data.loader.reading import Batch
from splatkit_ns.ranks import Ranks

HOST_SHARE = 2
"""Photographs may take one in this many parts of the main memory that is free."""
CPU_TRAINING = GIB
"""The most bytes for photographs if training is on the CPU, too. A step then takes many times as long as reading a
photograph, so that keeping many saves little, and costs memory and the time to read them all before the first step."""
GPU_SHARE = 3
"""Photographs may take one in this many parts of the GPU memory that is free; most of it is for Gaussians."""
BLOCK = 64 * 1024**2
"""Bytes of a block of pinned memory. PyTorch rounds the size of each up to a power of two."""


def default_bytes(device: torch.device | None) -> int:
    """The memory for photographs if the user names none.

    Args:
        device: the GPU on which they are to be kept; None for main memory.
    """
    if device is None:
        return free_host_memory() // HOST_SHARE
    return torch.cuda.mem_get_info(device)[0] // GPU_SHARE


def on_device(device: torch.device) -> Callable[[Batch], Batch]:
    """A function that copies a batch to a device."""
    return lambda batch: {name: _if_tensor(value, lambda t: t.to(device)) for name, value in batch.items()}


class PinnedMemory:
    """Copies batches into pinned memory, from which a GPU reads without the processor; many share one block, and
    threads may share it.

    Args:
        allocate: makes a block of so many bytes.
    """

    def __init__(self, allocate: Callable[[int], Tensor] | None = None) -> None:
        self._allocate = allocate or (lambda size: torch.empty(size, dtype=torch.uint8, pin_memory=True))
        self._block = torch.empty(0, dtype=torch.uint8)
        self._used = 0
        self._lock = Lock()

    def __call__(self, batch: Batch) -> Batch:
        """The batch with its tensors in pinned memory."""
        return {name: _if_tensor(value, self._pinned) for name, value in batch.items()}

    def _pinned(self, tensor: Tensor) -> Tensor:
        with self._lock:
            start = -(-self._used // 256) * 256  # aligned for every type
            if start + tensor.nbytes > len(self._block):
                self._block, start = self._allocate(max(BLOCK, tensor.nbytes)), 0
            self._used = start + tensor.nbytes
            place = self._block[start : self._used]
        return _copied(tensor, place.view(tensor.dtype).view(tensor.shape))


class PinnedCopies:
    """Copies each batch into pinned memory of its own, for one use; threads may share it.

    PyTorch keeps pinned memory that is free again, and hands it out once the GPU has read what was in it.

    Args:
        allocate: makes an empty tensor of a shape and type.
    """

    def __init__(self, allocate: Callable[[torch.Size, torch.dtype], Tensor] | None = None) -> None:
        self._allocate = allocate or (lambda shape, dtype: torch.empty(shape, dtype=dtype, pin_memory=True))

    def __call__(self, batch: Batch) -> Batch:
        """The batch with copies of its tensors."""
        return {name: _if_tensor(value, self._copy) for name, value in batch.items()}

    def _copy(self, tensor: Tensor) -> Tensor:
        return _copied(tensor, self._allocate(tensor.shape, tensor.dtype))


@dataclass(frozen=True)
class ImageStorage:
    """The place where the photographs of a run are kept, the same for all splits."""

    budget: ImageBudget
    keep: Callable[[Batch], Batch] = as_they_are
    """Copies a photograph there."""
    stage: Callable[[Batch], Batch] = as_they_are
    """Prepares a photograph that is not kept."""


def choose_storage(
    device: torch.device, needed: int, *, prefer_gpu: bool, gib: float | None = None, workers: int | None = None
) -> ImageStorage:
    """Choose the place for the photographs: the GPU if all of them fit there, otherwise the main memory.

    Several ranks of a machine take the main memory if all fit there: the graphs of two photographs that run beside each
    other need that of their GPUs, and copies of the next photographs are made while the present ones are rendered.

    Args:
        device: the device of the training.
        needed: bytes of all photographs.
        prefer_gpu: whether they may be on the GPU.
        gib: the memory for them; None for a share of what is free, of which the ranks of this machine each take a part;
            on the CPU no more than `CPU_TRAINING`.
        workers: the number of threads that read photographs; None for one a core, divided likewise.
    """
    ranks = Ranks.current().on_machine
    workers = workers or max(1, usable_cores() // ranks)
    given = None if gib is None else round(gib * GIB)
    limit = default_bytes(None) // ranks if given is None else given
    if device.type == "cuda" and prefer_gpu and (ranks == 1 or needed > limit):
        on_gpu = default_bytes(device) if given is None else given
        if needed <= on_gpu:
            return ImageStorage(ImageBudget(on_gpu, workers), on_device(device), PinnedCopies())
    if device.type == "cpu" and given is None:
        limit = min(limit, CPU_TRAINING)
    if device.type == "cuda":
        return ImageStorage(ImageBudget(limit, workers), PinnedMemory(), PinnedCopies())
    return ImageStorage(ImageBudget(limit, workers))


class SideCopies:
    """Copies the photographs of the next step to the GPU while the present step runs.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._next: dict[int, Batch] = {}

    def start(self, batches: Mapping[int, Batch]) -> None:
        """Begin to copy photographs, by index, from pinned memory; copies that have not been taken are dropped."""
        self._next = {}
        if batches:  # else all are on the GPU, and a step does without a change of streams
            with torch.cuda.stream(self._stream):
                self._next = {index: self._copy_of(batch) for index, batch in batches.items()}

    def __contains__(self, index: int) -> bool:
        """Whether a photograph has been copied and not taken yet."""
        return index in self._next

    def take(self, index: int) -> Batch | None:
        """The copy of a photograph, for use on the current stream; None if it has not been copied."""
        batch = self._next.pop(index, None)
        if batch is None:
            return None
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for value in batch.values():
            if isinstance(value, Tensor):
                value.record_stream(current)  # its memory is not given to another copy before this step is over
        return batch

    def _copy_of(self, batch: Batch) -> Batch:
        return {
            name: _if_tensor(value, lambda tensor: tensor.to(self._device, non_blocking=True))
            for name, value in batch.items()
        }


def _copied(tensor: Tensor, place: Tensor) -> Tensor:
    """The copy of a tensor in main memory, at a place there.

    It is NumPy's, which neither holds Python's lock nor starts threads. PyTorch's does in every thread that copies, and
    waits for all of them, while all cores read photographs.
    """
    np.copyto(place.numpy(), tensor.numpy())
    return place


def _if_tensor(value: object, change: Callable[[Tensor], Tensor]) -> object:
    return change(value) if isinstance(value, Tensor) else value
