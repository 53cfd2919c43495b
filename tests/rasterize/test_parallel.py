"""How many threads kernels and torch get."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from splatkit_ns.rasterize.cpu.parallel import PIECES_PER_THREAD, cores_for_kernels, run_parallel


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def pieces_of(count: int) -> list[tuple[int, int]]:
    pieces: list[tuple[int, int]] = []
    run_parallel(lambda first, last: pieces.append((first, last)), count)
    return sorted(pieces)


def test_pieces_make_up_the_range() -> None:
    torch.set_num_threads(2)
    pieces = pieces_of(100)
    assert [first for first, _ in pieces] == [0, *(last for _, last in pieces[:-1])]
    assert pieces[-1][1] == 100


def test_of_few_threads_torch_keeps_one_and_kernels_all() -> None:
    torch.set_num_threads(2)
    with cores_for_kernels():
        assert torch.get_num_threads() == 1
        assert len(pieces_of(100)) == 2 * PIECES_PER_THREAD
        with cores_for_kernels():
            assert len(pieces_of(100)) == 2 * PIECES_PER_THREAD
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("threads", [1, 5])
def test_one_thread_and_many_stay_as_they_are(threads: int) -> None:
    torch.set_num_threads(threads)
    before = pieces_of(100)
    with cores_for_kernels():
        assert torch.get_num_threads() == threads
        assert pieces_of(100) == before


def test_threads_come_back_after_an_error() -> None:
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError), cores_for_kernels():
        _ = 1 / 0
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert pieces_of(100) == [(0, 100)]
