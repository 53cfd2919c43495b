"""The copy of a checkpoint that is written while training goes on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from splatkit_ns.splat import checkpoint as module
from splatkit_ns.splat.checkpoint import host_copy


def make_checkpoint(device: str = "cpu", rows: int = 5) -> dict[str, Any]:
    values = torch.arange(3.0 * rows, device=device).reshape(rows, 3)
    return {"step": 7, "pipeline": {"means": values}, "optimizers": {"means": {"state": [values + 1, (values.T, "x")]}}}


def tensors(checkpoint: dict[str, Any]) -> list[torch.Tensor]:
    first, (second, _) = checkpoint["optimizers"]["means"]["state"]
    return [checkpoint["pipeline"]["means"], first, second]


def assert_is_a_copy(copied: dict[str, Any], original: dict[str, Any]) -> None:
    assert copied["step"] == 7
    assert copied["optimizers"]["means"]["state"][1][1] == "x"
    for ours, theirs in zip(tensors(copied), tensors(original), strict=True):
        assert ours.device.type == "cpu"
        assert torch.equal(ours, theirs.cpu())


def test_later_changes_do_not_reach_the_copy() -> None:
    original = make_checkpoint()
    copied = host_copy(original)
    original["pipeline"]["means"].zero_()
    assert_is_a_copy(copied, make_checkpoint())


def test_memory_of_an_earlier_copy_is_used_where_shapes_are_the_same() -> None:
    earlier = host_copy(make_checkpoint())
    places = [tensor.data_ptr() for tensor in tensors(earlier)]
    later = make_checkpoint()
    later["pipeline"]["means"] += 1
    copied = host_copy(later, earlier)
    assert_is_a_copy(copied, later)
    assert [tensor.data_ptr() for tensor in tensors(copied)] == places
    assert_is_a_copy(host_copy(make_checkpoint(rows=6), copied), make_checkpoint(rows=6))


@pytest.mark.gpu
@pytest.mark.parametrize("most", [module.MOST_PINNED, 100])
def test_a_gpu_copies_into_page_locked_memory_unless_it_is_too_much(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PINNED", most)
    original = make_checkpoint("cuda")
    copied = host_copy(original)
    assert_is_a_copy(copied, original)
    assert {tensor.is_pinned() for tensor in tensors(copied)} == {most > 100}
    original["pipeline"]["means"] += 1
    assert_is_a_copy(host_copy(original, copied), original)


@pytest.mark.gpu
def test_without_page_locked_memory_other_memory_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    empty_like = torch.empty_like

    def refused(tensor: torch.Tensor, *, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        if pin_memory:
            raise RuntimeError("out of memory")
        return empty_like(tensor, **kwargs)

    monkeypatch.setattr(torch, "empty_like", refused)
    original = make_checkpoint("cuda")
    copied = host_copy(original)
    assert_is_a_copy(copied, original)
    assert not any(tensor.is_pinned() for tensor in tensors(copied))
