"""The connections over which ranks of one machine tell each other numbers."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from torch import distributed

from splatkit_ns.rank_lines import LineClosed, RankLines
from splatkit_ns.ranks import RankLost, Ranks


def on_all(size: int, body: Callable[[RankLines, int], Any]) -> list[Any]:
    """The results of a function that each of so many ranks runs in a thread, with its lines and its number."""
    store = getattr(distributed, "HashStore")()  # noqa: B009  # documented, but not in __all__
    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(lambda rank: body(RankLines.connect(rank, size, store), rank), range(size)))


@pytest.mark.parametrize("size", [2, 5])
def test_each_rank_gets_the_numbers_of_all_in_order(size: int) -> None:
    def body(lines: RankLines, rank: int) -> Any:
        return [lines.gather_later([rank, step, -(2**40)])() for step in range(20)]

    for found in on_all(size, body):
        assert found == [[[rank, step, -(2**40)] for rank in range(size)] for step in range(20)]


def test_what_is_not_waited_for_and_other_lengths_do_not_mix() -> None:
    def body(lines: RankLines, rank: int) -> Any:
        first = lines.gather_later([rank])
        lines.gather_later(list(range(1000)))  # an error came in between, say
        last = lines.gather_later([7, rank])
        return last(), first()

    assert on_all(2, body) == [([[7, 0], [7, 1]], [[0], [1]])] * 2


def test_a_rank_that_has_ended_is_noticed_while_waiting_and_when_telling() -> None:
    ours, theirs = socket.socketpair()
    ranks = Ranks(0, 2, _lines=RankLines(0, {1: ours}))
    wait = ranks.gather_later([1])
    theirs.close()
    with pytest.raises(RankLost):
        wait()
    with pytest.raises(RankLost):
        ranks.gather([1])
    with pytest.raises(LineClosed):
        RankLines(0, {1: ours}).gather_later([1])()
