"""Tensors are exchanged only when the GPUs of the ranks are connected."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future
from typing import Any

import psutil
import pytest
import torch

from splatkit_ns.plugin.run.processes import rank_processes
from splatkit_ns.ranks import RankLost, Ranks, _talk_towards


class Group:
    """Notes whether the GPUs were connected at each exchange."""

    def __init__(self, connecting: Future[None]) -> None:
        self.connecting, self.exchanges = connecting, list[bool]()

    def _allgather_base(self, every: Any, tensor: Any, options: Any) -> Any:
        self.exchanges.append(self.connecting.done())
        every.copy_(tensor)
        return self

    def wait(self) -> None: ...


def test_the_first_exchange_waits_for_the_connection() -> None:
    connecting: Future[None] = Future()
    group = Group(connecting)
    threading.Timer(0.1, connecting.set_result, [None]).start()
    found = Ranks(0, 2, group, _connecting=connecting).gather_tensors(torch.arange(3))
    assert group.exchanges == [True]
    assert found.tolist() == [[0, 1, 2], [0, 1, 2]]


def test_a_rank_that_is_lost_while_connecting_is_noticed() -> None:
    connecting: Future[None] = Future()
    group = Group(connecting)
    connecting.set_exception(RuntimeError("NCCL error: remote process exited"))
    with pytest.raises(RankLost):
        Ranks(0, 2, group, _connecting=connecting).gather_tensors(torch.arange(3))
    assert group.exchanges == []


def test_gloo_talks_over_the_network_that_leads_to_the_first_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "chosen")
    _talk_towards("127.0.0.1", 29500)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "chosen"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    _talk_towards("127.0.0.1", 29500)
    found = os.environ.pop("GLOO_SOCKET_IFNAME")
    assert any(each.address == "127.0.0.1" for each in psutil.net_if_addrs()[found])


@pytest.mark.parametrize("can_copy", [True, False])
def test_ranks_of_gpus_are_copies_unless_cuda_has_been_used_which_is_told(
    can_copy: bool, monkeypatch: pytest.MonkeyPatch, messages: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rank_processes, "_copies_can_use_cuda", lambda: can_copy)
    assert rank_processes._context("cuda", forks=True).get_start_method() == ("fork" if can_copy else "spawn")
    assert ("imports everything again" in messages.text) != can_copy
    assert rank_processes._context("cuda", forks=False).get_start_method() == "spawn"


def test_a_copy_that_is_held_up_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: False)
    assert rank_processes._copies_can_use_cuda()
    monkeypatch.setattr(rank_processes, "COPY_PATIENCE", 0.1)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: time.sleep(1000))
    assert not rank_processes._copies_can_use_cuda()
    assert all(child.status() != psutil.STATUS_ZOMBIE for child in psutil.Process().children())
