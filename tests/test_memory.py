"""The main memory that is free, in a container, too, and the growth of blocks of GPU memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from splatkit_ns.memory import ALLOCATOR_VARIABLES, free_host_memory, let_gpu_memory_grow


def test_the_memory_of_a_container_counts(tmp_path: Path) -> None:
    machine = free_host_memory(tmp_path)
    assert machine > 2**20
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5000\n")
    assert free_host_memory(tmp_path) > 2**20
    (tmp_path / "memory.max").write_text("9000\n")
    (tmp_path / "memory.stat").write_text("anon 3000\nfile 1500\ninactive_file 1000\n")
    assert free_host_memory(tmp_path) == 5000
    old = tmp_path / "old" / "memory"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("700\n")
    (old / "memory.usage_in_bytes").write_text("600\n")
    (old / "memory.stat").write_text("total_inactive_file 50\ninactive_file 1\n")
    assert free_host_memory(old.parent) == 150


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The settings of PyTorch's memory that have been made; a GPU grants memory."""
    made: list[str] = []
    for name in ALLOCATOR_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", made.append, raising=False)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    return made


def test_blocks_of_gpu_memory_grow(settings: list[str]) -> None:
    let_gpu_memory_grow(torch.device("cpu"))
    assert settings == []
    let_gpu_memory_grow(torch.device("cuda:1"))
    assert settings == ["expandable_segments:True"]


@pytest.mark.parametrize("name", ALLOCATOR_VARIABLES)
def test_settings_of_users_count(settings: list[str], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "max_split_size_mb:512")
    let_gpu_memory_grow(torch.device("cuda"))
    assert settings == []


def test_where_the_driver_cannot_do_it_blocks_stay(settings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA driver error: operation not supported")

    monkeypatch.setattr(torch, "empty", fails)
    let_gpu_memory_grow(torch.device("cuda"))
    assert settings == ["expandable_segments:True", "expandable_segments:False"]


def test_a_version_of_pytorch_that_does_not_know_it(settings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(setting: str) -> None:
        raise RuntimeError("Unrecognized CachingAllocator option: expandable_segments")

    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", unknown, raising=False)
    let_gpu_memory_grow(torch.device("cuda"))
    assert settings == []


@pytest.mark.gpu
def test_tensors_that_grow_take_little_more_than_the_largest_ones() -> None:
    script = """
import torch
from splatkit_ns.memory import let_gpu_memory_grow
let_gpu_memory_grow(torch.device("cuda"))
kept = None
for number in range(40):
    kept = torch.empty(int(2**25 * 1.05**number), dtype=torch.uint8, device="cuda")
print(torch.cuda.max_memory_reserved() / len(kept))
"""
    found = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True, text=True)
    assert 1.9 < float(found.stdout) < 4, "18 with blocks of fixed size"
