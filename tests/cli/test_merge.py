"""``splatkit merge`` as people call it, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from splatkit_ns import formats
from splatkit_ns.formats.offset_files import read_offset, write_offset
from tests.cli.helpers import refused, run
from tests.formats.helpers import make_discs, make_gaussians


def test_files_of_several_formats_and_degrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = make_gaussians(30, 1), make_gaussians(20, 3, seed=1)
    formats.write(tmp_path / "a.ply", one)
    formats.write(tmp_path / "b.glb", two)
    output = [tmp_path / "c.ply", tmp_path / "c.spz"]
    status, text = run(capsys, "merge", tmp_path / "a.ply", tmp_path / "b.glb", "--output", *output)
    assert status == 0, text
    assert "a.ply: 30 Gaussians of SH degree 1" in text
    assert "c.spz: " in text
    assert text.count("50 Gaussians") == 2
    found = formats.read(output[0])
    assert np.array_equal(found.means[:30], one.means)
    assert np.allclose(found.means[30:], two.means)
    assert np.array_equal(found.shN[:30, :3], one.shN)
    assert not found.shN[:30, 3:].any(), "colours stay"
    assert np.allclose(found.shN[30:], two.shN)
    assert len(formats.read(output[1])) == 50


def test_offsets_become_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = {"a": np.array([5e5, 4e6, 100.0]), "b": np.array([5e5 + 30, 4e6, 90.0])}
    for number, (name, offset) in enumerate(places.items()):
        formats.write(tmp_path / f"{name}.ply", make_gaussians(10, 0, seed=number))
        write_offset(tmp_path / f"{name}.ply", offset, "world")
    formats.write(tmp_path / "d.ply", make_gaussians(10, 0))
    status, text = run(capsys, "merge", tmp_path / "a.ply", tmp_path / "b.ply", "--output", tmp_path / "c.ply")
    assert status == 0, text
    offset, frame = read_offset(tmp_path / "c.ply")
    assert offset is not None
    assert frame == "world"
    assert np.array_equal(offset, places["a"])
    found = formats.read(tmp_path / "c.ply").means
    assert np.allclose(found[10:] + offset, make_gaussians(10, 0, seed=1).means + places["b"], atol=1e-4)
    for pair in (("a", "d"), ("d", "a")):
        names = [tmp_path / f"{name}.ply" for name in pair]
        text = refused(capsys, "merge", *names, "--output", tmp_path / "e.ply")
        assert "are in different frames" in text
    side = tmp_path / "b.ply.offset.json"
    side.write_text(json.dumps({**json.loads(side.read_text()), "frame": "dataset"}))
    text = refused(capsys, "merge", tmp_path / "a.ply", tmp_path / "b.ply", "--output", tmp_path / "e.ply")
    assert "an offset in the frame world beside it, the second an offset in the frame dataset" in text
    side.write_text(json.dumps({**json.loads(side.read_text()), "frame": None}))
    text = refused(capsys, "merge", tmp_path / "a.ply", tmp_path / "b.ply", "--output", tmp_path / "e.ply")
    assert "the second an offset in a frame without a name" in text
    assert not (tmp_path / "e.ply").exists()


def test_what_the_result_cannot_keep_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"both": np.ones((10, 2)), "alone": np.zeros((10, 3)), "shape": np.zeros((10, 3))}
    formats.write(tmp_path / "a.ply", make_gaussians(10, extra=rows))
    rows = {"both": np.full((10, 2), 2.0), "shape": np.zeros((10, 4))}
    formats.write(tmp_path / "b.ply", make_discs(10, extra=rows))
    status, text = run(capsys, "merge", tmp_path / "a.ply", tmp_path / "b.ply", "--output", tmp_path / "c.ply")
    assert status == 0, text
    assert "The extra rows alone, shape are left out" in text
    assert "of the kind '2dgs'; the result is marked as 'default'" in text
    found = formats.read(tmp_path / "c.ply")
    assert list(found.extra) == ["both"]
    assert found.extra["both"].tolist() == [[1, 1]] * 10 + [[2, 2]] * 10


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        formats.write(tmp_path / f"{name}.ply", make_gaussians(10))
    a, b = tmp_path / "a.ply", tmp_path / "b.ply"
    before = b.read_bytes()
    assert "expected at least two files, found 1" in refused(capsys, "merge", a, "--output", tmp_path / "c.ply")
    text = refused(capsys, "merge", a, b, tmp_path / "." / "a.ply", "--output", tmp_path / "c.ply")
    assert "a.ply is named twice" in text
    text = refused(capsys, "merge", a, b, "--output", b, "--overwrite")
    assert "is the file that is read; name another one" in text
    (tmp_path / "c.ply").write_text("mine")
    assert "c.ply exists" in refused(capsys, "merge", a, b, "--output", tmp_path / "c.ply")
    assert (tmp_path / "c.ply").read_text() == "mine"
    assert b.read_bytes() == before
