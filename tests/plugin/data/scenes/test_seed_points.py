"""Seed points of files that others write: as nerfstudio reads them where it does so rightly, and where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import plyfile
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio

from splatkit_ns.errors import SplatkitError
from splatkit_ns.formats.gaussians import SH_C0
from splatkit_ns.methods import find_method
from splatkit_ns.plugin.data.scenes.seed_points import bytes_of, read_points, seed_points
from tests.formats.test_las import write_las
from tests.plugin.data.broken_data import XYZ, changed_copy, in_json
from tests.plugin.helpers import make_pipeline, make_trainer, run_config

TRANSFORM, SCALE = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), 1.7
RGB = "property uchar red\nproperty uchar green\nproperty uchar blue\n"
ROWS = "1 2 3 4 5 6\n" * 3


def read(path: Path, offset: Any = None, limit: int = 10**6) -> dict[str, torch.Tensor]:
    return seed_points(path, offset, TRANSFORM, SCALE, limit)


def write_ply(path: Path, order: Any = "<", before: Any = (), **columns: Any) -> Path:
    """A PLY file with a vertex for each row of the columns, after other elements."""
    count = len(next(iter(columns.values())))
    rows = np.zeros(count, [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    elements = [*before, plyfile.PlyElement.describe(rows, "vertex")]
    plyfile.PlyData(elements, text=order == "text", byte_order="=" if order == "text" else order).write(str(path))
    return path


def columns(count: int = 300, color: str | None = "u1", position: str = "f4") -> dict[str, Any]:
    rng = np.random.default_rng(0)
    found = {name: (rng.normal(size=count) * 100).astype(position) for name in "xyz"}
    if color is not None:
        found |= {name: rng.integers(0, 256, count).astype(color) for name in ("red", "green", "blue")}
    return found


def assert_as_with_open3d(path: Path) -> None:
    parser: Any = object.__new__(Nerfstudio)
    expected = parser._load_3D_points(path, TRANSFORM, SCALE)
    found = read(path)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert found[name].numpy().tobytes() == value.numpy().tobytes()


@pytest.mark.parametrize("order", ["text", "<", ">"])
@pytest.mark.parametrize("position", ["f4", "f8"])
def test_coloured_points_are_read_to_the_bit(tmp_path: Path, position: str, order: Any) -> None:
    given = columns(position=position)
    given = {"nx": np.zeros(300, "f4"), **given, "confidence": np.zeros(300, "i2")}
    assert_as_with_open3d(write_ply(tmp_path / "points.ply", order, **given))


@pytest.mark.parametrize(
    "rows",
    [
        ROWS + "0.1 -2e-50 16777217 +1 007 255\n",
        ROWS + "0.123456789012345678901 1.00000005960464477539062500001 3\t 1 2 3 ",
        ROWS + "1 2 3 4 5 6\n" * 2,
        (ROWS + "1 2 3 4 5 6\n").replace("\n", "\r\n"),
    ],
    ids=["numbers", "digits", "longer", "crlf"],
)
def test_points_as_text(tmp_path: Path, rows: str) -> None:
    assert_as_with_open3d(write_text(tmp_path, rows))


@pytest.mark.parametrize("last", ["1 2 3\n4 5 6\n", "1 2 3 4 5 6 7\n", "word 2 3 4 5 6\n", "1 2", ""])
def test_damaged_text_is_told(tmp_path: Path, last: str) -> None:
    with pytest.raises(SplatkitError, match=r"points.ply cannot be read: .* start from random points"):
        read_points(write_text(tmp_path, ROWS + last))


def write_text(folder: Path, rows: str) -> Path:
    path = folder / "points.ply"
    path.write_bytes(f"ply\nformat ascii 1.0\nelement vertex 4\n{XYZ}{RGB}end_header\n{rows}".encode())
    return path


@pytest.mark.parametrize("order", ["text", "<", ">"])
@pytest.mark.parametrize("position", ["f4", "f8", "i4"])
def test_positions_count_without_colours_and_after_other_elements(tmp_path: Path, order: Any, position: str) -> None:
    given = columns(color=None, position=position)
    camera = plyfile.PlyElement.describe(np.zeros(2, [("width", "i4")]), "camera")
    faces = np.empty(2, [("indices", object)])
    faces["indices"] = [np.arange(3, dtype="i4"), np.arange(4, dtype="i4")]
    lists = plyfile.PlyElement.describe(faces, "face", val_types={"indices": "i4"})
    found = read_points(write_ply(tmp_path / "points.ply", order, before=(camera, lists), **given))
    assert np.array_equal(found.positions, np.stack([given[name].astype("f8") for name in "xyz"], 1))
    assert found.colors is None
    metadata = read(tmp_path / "points.ply")
    rgb = metadata["points3D_rgb"].float()
    assert rgb.shape == (300, 3)
    assert 100 < float(rgb.mean()) < 155
    assert 60 < float(rgb.std()) < 90, "by chance"
    assert torch.equal(metadata["points3D_rgb"], read(tmp_path / "points.ply")["points3D_rgb"]), "always the same"


COLORS = np.array([[0, 51, 255], [102, 204, 1]])


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (("red", "green", "blue"), COLORS.astype("u1")),
        (("red", "green", "blue"), COLORS.astype("u2")),
        (("red", "green", "blue"), (COLORS * 257).astype("u2")),
        (("red", "green", "blue"), (COLORS / 255).astype("f4")),
        (("red", "green", "blue"), COLORS.astype("f8")),
        (("diffuse_red", "diffuse_green", "diffuse_blue"), COLORS.astype("u1")),
        (("r", "g", "b"), COLORS.astype("i4")),
        (("f_dc_0", "f_dc_1", "f_dc_2"), ((COLORS / 255 - 0.5) / SH_C0).astype("f4")),
    ],
    ids=["bytes", "bytes in 16 bits", "16 bits", "0 … 1", "0 … 255", "diffuse", "rgb", "Gaussians"],
)
def test_colours_of_all_types(tmp_path: Path, names: Any, values: Any) -> None:
    given = columns(2, color=None) | {name: values[:, i] for i, name in enumerate(names)}
    found = read(write_ply(tmp_path / "points.ply", **given))
    assert found["points3D_rgb"].tolist() == COLORS.tolist()


def test_colours_out_of_range_are_clipped() -> None:
    assert bytes_of(np.array([[-0.5, 0.5, np.nan]])).tolist() == [[0, 128, 0]]


def test_an_offset_is_taken_off_in_double_precision(tmp_path: Path) -> None:
    shift, given = np.array([452310.25, 5411230.5, 210.0]), columns(position="f8")
    near = read(write_ply(tmp_path / "near.ply", **given))
    moved = given | {name: given[name] + shift[i] for i, name in enumerate("xyz")}
    far = read(write_ply(tmp_path / "far.ply", **moved), offset=shift)
    torch.testing.assert_close(far["points3D_xyz"], near["points3D_xyz"], atol=1e-4, rtol=1e-6)


def test_coordinates_that_a_file_has_rounded_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = columns(color=None)
    rounded = given | {name: (values / 100 + 5e6).astype("f4") for name, values in given.items()}
    read(write_ply(tmp_path / "far.ply", **rounded), offset=np.full(3, 5e6))
    assert "in single precision, which rounds them by 0.3" in " ".join(capsys.readouterr().out.split())


def test_points_of_a_laser_scan(tmp_path: Path) -> None:
    positions = np.array([[452310.25, 5411230.5, 210.0], [452311.0, 5411231.75, 211.5]])
    write_las(tmp_path / "scan.las", positions, COLORS * 257)
    found = read(tmp_path / "scan.las", offset=positions[0])
    expected = torch.tensor([[0.0, 0, 0, 1], [0.75, 1.25, 1.5, 1]]) @ TRANSFORM.T * SCALE
    torch.testing.assert_close(found["points3D_xyz"], expected, atol=1e-5, rtol=1e-5)
    assert found["points3D_rgb"].tolist() == COLORS.tolist()


def test_so_many_are_drawn_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = columns()
    write_ply(tmp_path / "points.ply", **given)
    few, everything = read(tmp_path / "points.ply", limit=50), read(tmp_path / "points.ply")
    rows = [row.tolist() for row in everything["points3D_xyz"]]
    indices = [rows.index(row.tolist()) for row in few["points3D_xyz"]]
    assert indices == sorted(set(indices))
    assert len(indices) == 50
    assert torch.equal(few["points3D_rgb"], everything["points3D_rgb"][indices])
    text = " ".join(capsys.readouterr().out.split())
    assert "points.ply has 300 points: 50 of them are drawn" in text
    assert "--pipeline.datamanager.max-seed-points" in text


def test_training_starts_at_positions_without_colours(tiny_scene: Path, tmp_path: Path) -> None:
    def without_colours(folder: Path) -> None:
        vertex = plyfile.PlyData.read(str(folder / "sparse_pc.ply"))["vertex"]
        write_ply(folder / "scan.ply", **{name: np.array(vertex[name]) for name in "xyz"})
        in_json(lambda meta: meta.update(ply_file_path="scan.ply"))(folder)

    trainer = make_trainer(run_config(changed_copy(tiny_scene, tmp_path, without_colours), tmp_path / "out"))
    expected = make_pipeline(tiny_scene).model.seed_points
    assert expected is not None
    assert torch.equal(trainer.pipeline.model.means.detach(), expected[0])


def test_the_limit_is_an_option(tiny_scene: Path, tmp_path: Path) -> None:
    config = run_config(tiny_scene, tmp_path)
    config.pipeline.datamanager.max_seed_points = 7
    assert len(make_trainer(config).pipeline.model.means) == 7


def test_training_data_are_read_without_open3d(tiny_scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("open3d is imported")

    expected = make_pipeline(tiny_scene).model.seed_points
    monkeypatch.setattr(Nerfstudio, "_load_3D_points", refuse)
    found = make_pipeline(tiny_scene).model.seed_points
    assert found is not None
    assert expected is not None
    assert all(map(torch.equal, found, expected))


def test_methods_whose_gaussians_follow_the_points_draw_from_dense_clouds(tiny_scene: Path, tmp_path: Path) -> None:
    def with_a_scan(folder: Path) -> None:
        x, y, z = np.random.default_rng(0).uniform(-1, 1, (3, 100_100)).astype(np.float32)
        write_ply(folder / "scan.ply", x=x, y=y, z=z)
        in_json(lambda meta: meta.update(ply_file_path="scan.ply"))(folder)

    scene = changed_copy(tiny_scene, tmp_path, with_a_scan)
    numbers = {
        name: len(make_trainer(run_config(scene, tmp_path / name, method=find_method(name))).pipeline.model.means)
        for name in ("splatkit-3dgs", "splatkit-3dgs-small", "splatkit-3dgs-adc")
    }
    assert numbers == {"splatkit-3dgs": 100_000, "splatkit-3dgs-small": 100_000, "splatkit-3dgs-adc": 100_100}
