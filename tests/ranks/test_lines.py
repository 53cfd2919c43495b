"""The connections over which ranks of one machine tell each other numbers."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import distributed

from splatkit_ns.plugin.run.checkpoints import saving
from splatkit_ns.plugin.run.processes.together import Together
from splatkit_ns.plugin.step.rank_gradients import RankGradients
from splatkit_ns.rank_lines import LineClosed, RankLines
from splatkit_ns.ranks import RankLost, Ranks
from tests.plugin.helpers import forget_writers, make_trainer, run_config


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
    assert not ranks.is_lost
    theirs.close()
    assert ranks.is_lost
    with pytest.raises(RankLost):
        wait()
    with pytest.raises(RankLost):
        ranks.gather([1])
    with pytest.raises(LineClosed):
        RankLines(0, {1: ours}).gather_later([1])()


def test_a_rank_that_is_lost_in_an_exchange_is_noticed_while_the_device_is_slow(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    ranks = Ranks(0, 2, _lines=RankLines(0, {1: ours}))
    monkeypatch.setattr(Together, "gradients", lambda self, parts: RankGradients(ranks))
    step = make_trainer(run_config(scene, tmp_path)).training_step
    forget_writers()
    step._forward_backward[0].when_slow()
    theirs.close()
    with pytest.raises(RankLost):
        step._forward_backward[0].when_slow()


@pytest.mark.parametrize("answers", [True, False])
def test_nothing_is_saved_if_the_device_waits_for_a_lost_rank(
    answers: bool, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(run_config(scene, tmp_path, steps=8))
    train_step = trainer._train_step

    def failing(step: int, last: int) -> None:
        if step == 5:
            raise RankLost("gone")
        train_step(step, last)

    monkeypatch.setattr(trainer, "_train_step", failing)
    monkeypatch.setattr(saving, "device_answers", lambda device: answers)
    with pytest.raises(RankLost):
        trainer.train()
    forget_writers()
    assert [path.name for path in tmp_path.rglob("*.ckpt")] == (["step-000000004.ckpt"] if answers else [])


def test_a_device_answers_when_its_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    stream = SimpleNamespace(query=lambda: asked.append(True) or len(asked) > 3)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    assert saving.device_answers(torch.device("cpu"))
    assert not asked
    assert saving.device_answers(torch.device("cuda"))
    stream.query = lambda: False
    assert not saving.device_answers(torch.device("cuda"), seconds=0.05)

    def fails() -> bool:
        raise RuntimeError("CUDA error: unspecified launch failure")

    stream.query = fails
    assert not saving.device_answers(torch.device("cuda"))
