"""The main memory that is free, in a container, too."""

from __future__ import annotations

from pathlib import Path

from splatkit_ns.memory import free_host_memory


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
