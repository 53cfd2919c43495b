"""Seed points without open3d: the bits that nerfstudio reads with it, of files that others write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import plyfile
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio

from splatkit_ns.plugin.data.seed_points import NerfstudioWithoutOpen3d, quick_seed_points, read_vertices
from tests.plugin.data.broken_data import XYZ
from tests.plugin.helpers import make_pipeline, make_trainer, run_config

TRANSFORM, SCALE = torch.randn(3, 4), 1.7
RGB = "property uchar red\nproperty uchar green\nproperty uchar blue\n"
ROWS = "1 2 3 4 5 6\n" * 3


def assert_as_with_open3d(path: Path, own: bool) -> None:
    """Check that both read the same, and whether the file is one that needs no open3d."""
    assert (read_vertices(path) is not None) == own
    parser: Any = object.__new__(NerfstudioWithoutOpen3d)
    expected: Any = Nerfstudio._load_3D_points(parser, path, TRANSFORM, SCALE)
    found = parser._load_3D_points(path, TRANSFORM, SCALE)
    if expected is None:
        assert found is None
        return
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        assert found[name].numpy().tobytes() == value.numpy().tobytes()


@pytest.mark.parametrize("order", ["text", "<", ">"])
@pytest.mark.parametrize("color", ["u1", "u2", "f4", None])
@pytest.mark.parametrize("position", ["f4", "f8"])
def test_points_are_read_to_the_bit(tmp_path: Path, position: str, color: str | None, order: Any) -> None:
    """Colours of other types than bytes mean what open3d takes them for, which divides all of them by 255."""
    rng = np.random.default_rng(0)
    types = [("nx", "f4"), ("x", position), ("y", position), ("z", position)]
    if color is not None:
        types += [("red", color), ("confidence", "i2"), ("green", color), ("blue", color)]
    rows = np.zeros(300, types)
    for axis in "xyz":
        rows[axis] = rng.normal(size=300) * 100
    for name in ("red", "green", "blue") if color is not None else ():
        rows[name] = rng.random(300) if color == "f4" else rng.permutation(300) % 256
    elements = [
        plyfile.PlyElement.describe(rows, "vertex"),
        plyfile.PlyElement.describe(np.zeros(2, [("width", "i4")]), "camera"),
    ]
    path = tmp_path / "points.ply"
    plyfile.PlyData(elements, text=order == "text", byte_order="=" if order == "text" else order).write(str(path))
    assert_as_with_open3d(path, own=color == "u1")


@pytest.mark.parametrize(
    ("rows", "own"),
    [
        (ROWS + "0.1 -2e-50 16777217 +1 007 255\n", True),
        (ROWS + "0.123456789012345678901 1.00000005960464477539062500001 3\t 1 2 3 ", True),
        (ROWS + "1 2 3 4 5 6\n" * 2, True),
        ((ROWS + "1 2 3 4 5 6\n").replace("\n", "\r\n"), True),
        (ROWS + "1 2 3\n4 5 6\n", False),
        (ROWS + "1 2 3 4 5 6 7\n", False),
        (ROWS + "nan 2 3 4 5 6\n", False),
    ],
    ids=["numbers", "digits", "longer", "crlf", "split", "wide", "nan"],
)
def test_points_as_text(tmp_path: Path, rows: str, own: bool) -> None:
    assert_as_with_open3d(write_text(tmp_path, rows), own)


@pytest.mark.parametrize("last", ["1e39 2 3 4 5 6\n", "word 2 3 4 5 6\n", "1 2", ""])
def test_damaged_text_is_left_to_open3d(tmp_path: Path, last: str) -> None:
    """What that makes of it is no constant: it shows memory that nobody has written."""
    assert read_vertices(write_text(tmp_path, ROWS + last)) is None


def write_text(folder: Path, rows: str) -> Path:
    path = folder / "points.ply"
    path.write_bytes(f"ply\nformat ascii 1.0\nelement vertex 4\n{XYZ}{RGB}end_header\n{rows}".encode())
    return path


def test_a_cut_or_empty_binary_file_is_left_to_open3d(tmp_path: Path) -> None:
    path = tmp_path / "points.ply"
    header = "ply\nformat binary_little_endian 1.0\nelement vertex {}\n" + XYZ + RGB + "end_header\n"
    for count, rows in ((3, 2), (0, 0)):
        path.write_bytes(header.format(count).encode() + bytes(15 * rows))
        assert read_vertices(path) is None
    assert read_vertices(tmp_path / "none.ply") is None


def test_training_data_are_read_without_open3d(tiny_scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("open3d is imported")

    expected = make_pipeline(tiny_scene).model.seed_points
    monkeypatch.setattr(Nerfstudio, "_load_3D_points", refuse)
    found = make_pipeline(tiny_scene).model.seed_points
    assert all(map(torch.equal, found, expected))


def test_configs_name_nerfstudios_own_class(tiny_scene: Path, tmp_path: Path) -> None:
    config: Any = run_config(tiny_scene, tmp_path, steps=1)
    trainer = make_trainer(config)
    assert isinstance(trainer.pipeline.datamanager.dataparser, NerfstudioWithoutOpen3d)
    assert config.pipeline.datamanager.dataparser._target is Nerfstudio
    config.save_config()
    text = (trainer.base_dir / "config.yml").read_text()
    assert "nerfstudio_dataparser.Nerfstudio ''" in text
    assert "Open3d" not in text


def test_somebodys_own_dataparser_is_left_alone() -> None:
    class Own(Nerfstudio):
        pass

    config: Any = run_config(Path()).pipeline.datamanager.dataparser
    config._target = Own
    with quick_seed_points(config):
        assert config._target is Own
    assert config._target is Own
