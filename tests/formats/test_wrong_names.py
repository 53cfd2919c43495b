"""Files whose names do not say what they are, and files of other programs: messages say what to do."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest

from splatkit_ns import formats
from splatkit_ns.formats import FormatError
from tests.formats.helpers import make_gaussians


def message(path: Path) -> str:
    """The message of the error that reading a file raises."""
    with pytest.raises(FormatError) as caught:
        formats.read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("true", "named", "suffix"),
    [("spz", "ply", "spz"), ("sog", "ply", "sog"), ("glb", "spz", "glb"), ("ply", "splat", "ply")],
)
def test_a_wrong_suffix_is_told(tmp_path: Path, true: str, named: str, suffix: str) -> None:
    path = tmp_path / f"a.{named}"
    formats.write(path, make_gaussians(20), true)
    assert message(path).endswith(f": should its name end in .{suffix}?")


def test_a_damaged_file_of_its_own_suffix_gets_no_advice(tmp_path: Path) -> None:
    for name in ("ply", "spz", "sog", "glb"):
        path = tmp_path / f"a.{name}"
        formats.write(path, make_gaussians(20), name)
        path.write_bytes(path.read_bytes()[:-40])
        assert "should its name" not in message(path)


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"", "It is empty"),
        (gzip.compress(b"ply\nformat ascii 1.0\n" + bytes(range(256)) * 9), "It is a PLY file that gzip has packed"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html></html>", "It is a web page"),
    ],
)
@pytest.mark.parametrize("suffix", ["ply", "spz"])
def test_what_is_no_file_of_gaussians_is_told(tmp_path: Path, content: bytes, advice: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    assert advice in message(path)


def test_names_of_other_programs(tmp_path: Path) -> None:
    assert "splat-transform" in message(tmp_path / "a.ksplat")
    assert "only binary files" in message(tmp_path / "a.gltf")
    assert "Unpack" in message(tmp_path / "a.ply.gz")
    assert "should end in .sog" in message(tmp_path / "a.ZIP")


def test_a_sog_folder_that_was_packed_whole(tmp_path: Path) -> None:
    """As macOS packs it, with a folder of its own beside it."""
    formats.write(tmp_path / "a" / "meta.json", make_gaussians(20))
    with zipfile.ZipFile(tmp_path / "a.sog", "w") as archive:
        archive.writestr("__MACOSX/scene/._meta.json", b"\0")
        for file in sorted((tmp_path / "a").iterdir()):
            archive.write(file, f"scene/{file.name}")
    whole = formats.read(tmp_path / "a.sog")
    assert (whole.means == formats.read(tmp_path / "a").means).all()
