"""Photographs are kept within the budget, and the others are read ahead, but never more than memory allows."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from splatkit_ns.memory import GIB
from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.data.loader import memory
from splatkit_ns.plugin.data.loader.batches import Batches, ImageBudget, batch_bytes
from splatkit_ns.plugin.data.loader.memory import (
    BLOCK,
    PinnedCopies,
    PinnedMemory,
    SideCopies,
    choose_storage,
)
from splatkit_ns.plugin.data.loader.reading import Batch
from splatkit_ns.ranks import Ranks

SIZE = 8 * 8 * 3
NUM = 20


class Reader:
    """Makes photographs of 8×8 pixels that show their index, and counts how many are read and not yet used."""

    def __init__(self, damaged: int | None = None) -> None:
        self.damaged = damaged
        self.read: list[int] = []
        self.most = 0
        self._waiting = 0
        self._lock = threading.Lock()

    def __call__(self, index: int) -> Batch:
        with self._lock:
            self.read.append(index)
            self._waiting += 1
            self.most = max(self.most, self._waiting)
        if index == self.damaged:
            raise DataError(f"image {index} is damaged")
        return {"image": torch.full((8, 8, 3), index, dtype=torch.uint8), "image_idx": index}

    def used(self) -> None:
        with self._lock:
            self._waiting -= 1


def batches(read: Reader, limit: float, workers: int = 3, num: int = NUM) -> Batches:
    """`limit` in photographs."""
    return Batches(read, [64] * num, ImageBudget(round(limit * SIZE), workers))


def filled(read: Reader, limit: float, workers: int = 3) -> Batches:
    made = batches(read, limit, workers)
    made.fill(Reader()(0), "train")
    return made


@pytest.mark.parametrize(("limit", "kept"), [(20, 20), (19.9, 19 - 2 * 4), (12, 12 - 2 * 3), (8, 4), (4, 0), (0, 0)])
def test_as_many_are_kept_as_the_budget_holds_beside_those_that_are_read_ahead(limit: float, kept: int) -> None:
    found = filled(Reader(), limit)
    assert (found.num_kept, found.streams) == (kept, kept < NUM)
    budget = found.budget
    assert budget.used == kept * SIZE
    if limit >= 4:
        assert budget.used + budget.reserved <= limit * SIZE
    assert [int(batch["image"][0, 0, 0]) for batch in found] == list(range(NUM))
    assert int(found[-1]["image"][7, 7, 2]) == NUM - 1
    with pytest.raises(IndexError):
        found[NUM]


def test_filling_reads_no_more_than_it_keeps() -> None:
    read = Reader()
    found = filled(read, 12)
    assert sorted(read.read) == list(range(1, found.num_kept)), "the first was there"


def test_splits_share_the_budget() -> None:
    first = filled(Reader(), 40)
    other = Batches(Reader(), [64] * 10, first.budget)
    other.fill(Reader()(0), "eval")
    assert first.budget.used == 30 * SIZE
    third = Batches(Reader(), [64] * 11, first.budget)
    third.fill(Reader()(0), "eval")
    assert third.streams
    assert first.budget.used + first.budget.reserved <= 40 * SIZE


def test_larger_images_than_expected_do_not_exceed_the_budget() -> None:
    """Those after the first have an alpha channel."""

    def read(index: int) -> Batch:
        return {"image": torch.zeros(8, 8, 4, dtype=torch.uint8)}

    budget = ImageBudget(20 * SIZE, 3)
    found = Batches(read, [64] * NUM, budget)
    found.fill(Reader()(0), "train")
    assert 0 < found.num_kept < NUM
    assert budget.used == SIZE + (found.num_kept - 1) * 256 <= 20 * SIZE


def test_reading_ahead_is_bounded_and_what_is_not_wanted_any_more_is_dropped() -> None:
    read = Reader()
    found = filled(read, 12, workers=2)
    window = found.budget.limit // SIZE // 4
    order = [*range(NUM - 1, -1, -1)] * 2
    for step in range(NUM):
        found.expect(order[step:])
        assert int(found[order[step]]["image"][0, 0, 0]) == order[step]
        if order[step] >= found.num_kept:
            read.used()
    assert read.most <= window + found.num_kept - 1, "those of the beginning are kept"
    found.expect([18])
    while not found.is_ready(18):
        time.sleep(0.001)
    found.expect([17])
    assert not found.is_ready(18)
    assert found.is_ready(0)
    found.close()
    assert int(found[19]["image"][0, 0, 0]) == 19, "and it goes on after that"


def test_a_damaged_photograph_is_an_error_only_when_it_is_used() -> None:
    found = filled(Reader(damaged=15), 8)
    found.expect([15, 16])
    assert int(found[16]["image"][0, 0, 0]) == 16
    for _ in range(2):
        with pytest.raises(DataError, match="image 15 is damaged"):
            found[15]
    found.close()
    with pytest.raises(DataError, match="image 15 is damaged"):
        list(found)
    assert not [each for each in threading.enumerate() if each.name.startswith("splatkit-images")]


def test_a_damaged_photograph_ends_the_filling() -> None:
    with pytest.raises(DataError, match="image 5 is damaged"):
        filled(Reader(damaged=5), 30)
    assert not [each for each in threading.enumerate() if each.name.startswith("splatkit-images")]


# ------------------------------------------------------------------ places


def test_the_gpu_is_used_if_it_holds_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "default_bytes", lambda device: 50 if device is None else 100)
    gpu = torch.device("cuda")

    def limit(needed: int, **options: object) -> tuple[int, bool]:
        storage = choose_storage(gpu, needed, **{"prefer_gpu": True, **options})  # type: ignore[arg-type]
        return storage.budget.limit, isinstance(storage.keep, PinnedMemory)

    assert limit(100) == (100, False)
    assert limit(101) == (50, True)
    assert limit(100, prefer_gpu=False) == (50, True)
    assert limit(GIB, gib=1.0) == (GIB, False)
    assert limit(GIB + 1, gib=1.0) == (GIB, True)
    assert choose_storage(torch.device("cpu"), 10, prefer_gpu=True).budget.limit == 50
    assert choose_storage(torch.device("cpu"), 10, prefer_gpu=True, workers=7).budget.workers == 7
    monkeypatch.setattr(memory, "default_bytes", lambda device: 50 * GIB)
    assert choose_storage(torch.device("cpu"), 10, prefer_gpu=True).budget.limit == GIB, "reading is quick there"
    assert choose_storage(torch.device("cpu"), 10, prefer_gpu=True, gib=9.0).budget.limit == 9 * GIB
    assert choose_storage(gpu, 51 * GIB, prefer_gpu=True).budget.limit == 50 * GIB
    monkeypatch.setattr(memory, "default_bytes", lambda device: 50)
    monkeypatch.setattr(Ranks, "current", lambda: Ranks(1, 2))
    assert choose_storage(torch.device("cpu"), 10, prefer_gpu=True).budget.limit == 25, "two processes share the memory"
    assert limit(25) == (25, True), "they leave that of GPUs to their graphs"
    assert limit(26) == (50, False), "if the main memory holds all"
    assert limit(51) == (25, True)


def test_pinned_memory_is_taken_in_blocks() -> None:
    """PyTorch makes every single piece as large as the next power of two."""
    made: list[int] = []

    def allocate(size: int) -> torch.Tensor:
        made.append(size)
        return torch.empty(size, dtype=torch.uint8)

    keep = PinnedMemory(allocate)
    generator = torch.Generator().manual_seed(0)
    given: list[Batch] = [
        {
            "image": torch.randint(0, 255, (5, 7, 3), dtype=torch.uint8, generator=generator),
            "mask": torch.rand(5, 7, 1, generator=generator) > 0.5,
            "target_depths": torch.rand(5, 7, 1, generator=generator),
            "image_name": "a.png",
        }
        for _ in range(4)
    ]
    kept = [keep(batch) for batch in given]
    for batch, copy in zip(given, kept, strict=True):
        assert copy["image_name"] == "a.png"
        for name in ("image", "mask", "target_depths"):
            assert torch.equal(copy[name], batch[name])
            assert copy[name].data_ptr() != batch[name].data_ptr()
            assert copy[name].data_ptr() % copy[name].element_size() == 0
    assert made == [BLOCK]
    assert batch_bytes(kept[0]) == 5 * 7 * (3 + 1 + 4)
    keep({"image": torch.empty(1, BLOCK + 1, dtype=torch.uint8)})
    assert made == [BLOCK, BLOCK + 1]


def test_threads_share_a_block_of_pinned_memory() -> None:
    """Photographs are copied there by the threads that read them."""
    made: list[int] = []

    def allocate(size: int) -> torch.Tensor:
        made.append(size)
        time.sleep(0.1)  # in which the other threads come to it, too
        return torch.empty(size, dtype=torch.uint8)

    keep = PinnedMemory(allocate)
    given: list[Batch] = [{"image": torch.full((1, 300 + number), number, dtype=torch.uint8)} for number in range(64)]
    with ThreadPoolExecutor(8) as threads:
        kept = list(threads.map(keep, given))
    assert made == [BLOCK]
    assert all(torch.equal(copy["image"], batch["image"]) for copy, batch in zip(kept, given, strict=True))


def test_images_that_are_read_ahead_are_copied_into_pinned_memory() -> None:
    made: list[torch.Tensor] = []

    def allocate(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        made.append(torch.empty(shape, dtype=dtype))
        return made[-1]

    batch: Batch = {"image": torch.arange(210).reshape(5, 7, 6)[..., ::2], "mask": torch.rand(5, 7, 1) > 0.5, "name": 3}
    found = PinnedCopies(allocate)(batch)
    assert [found["image"], found["mask"]] == made
    assert torch.equal(found["image"], batch["image"])
    assert torch.equal(found["mask"], batch["mask"])
    assert found["name"] == 3


@pytest.mark.gpu
def test_copies_on_a_side_stream() -> None:
    copies = SideCopies(torch.device("cuda"))
    batch = PinnedCopies()({"image": torch.arange(3 * 2**20, dtype=torch.int32), "image_idx": 4})
    copies.start({3: batch})
    copies.start({4: batch, 6: batch})
    assert (3 in copies, 4 in copies) == (False, True)
    assert copies.take(5) is None
    assert copies.take(3) is None, "it has been dropped"
    found = copies.take(4)
    assert found is not None
    assert found["image"].is_cuda
    assert torch.equal(found["image"].cpu(), batch["image"])
    assert found["image_idx"] == 4
    assert 4 not in copies
    assert copies.take(4) is None
    assert copies.take(6) is not None
