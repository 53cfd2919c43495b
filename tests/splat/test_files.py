"""Atomic writing, and the check of a folder for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from splatkit_ns.errors import SplatkitError
from splatkit_ns.files import atomic_write, check_writable


def test_writes_the_file_and_makes_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    atomic_write(path, lambda file: file.write(b"content"))
    assert path.read_bytes() == b"content"
    assert os.listdir(path.parent) == ["file.bin"]


def test_new_files_are_as_readable_as_others(tmp_path: Path) -> None:
    atomic_write(tmp_path / "ours", lambda file: file.write(b""))
    (tmp_path / "usual").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("bug"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"half of the n")
        raise error

    with pytest.raises(type(error)) as caught:
        atomic_write(path, write)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]
    if isinstance(error, OSError):
        assert caught.value.errno == 28
        assert str(path) in str(caught.value)
        assert "No space left" in str(caught.value)


def test_the_old_file_is_there_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"

    atomic_write(path, write)
    assert path.read_bytes() == b"new"


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    atomic_write(tmp_path / "link", lambda file: file.write(b"content"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"content"


def test_a_folder_that_cannot_be_made_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="cannot write the file") as caught:
        atomic_write(tmp_path / "file" / "below", lambda file: file.write(b""))
    assert caught.value.filename == str(tmp_path / "file" / "below")


def test_a_full_disk_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SplatkitError, match=r"my part: the output folder .*new cannot be written: No space left"):
        check_writable(tmp_path / "new", "my part")


def test_the_check_of_a_folder_makes_it_and_leaves_nothing_in_it(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder", "my part")
    assert os.listdir(tmp_path / "new" / "folder") == []
