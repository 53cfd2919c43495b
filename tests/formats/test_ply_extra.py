"""Extra rows of Gaussians: in PLY files and back, dropped with a warning elsewhere, refused if the header lies."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plyfile import PlyData

from splatkit_ns import formats
from splatkit_ns.formats import FormatError, Gaussians
from splatkit_ns.formats.frames import flip_yz, transform, up_axis
from splatkit_ns.formats.gaussians import NonFiniteError, drop_non_finite
from splatkit_ns.formats.ply import PlyError, PlyFormat, property_names, read_ply, write_ply
from tests.formats.helpers import make_gaussians

NAMES = property_names(0, normals=False)


def extra_of(num: int) -> dict[str, Any]:
    values = np.random.default_rng(1).normal(size=(num, 12)).astype(np.float32)
    return {
        "features": values[:, :8],
        "confidence": values[:, 8],
        "pairs_1": values[:, :6].reshape(num, 2, 3),
        "a name / %20 ü": values[:, 9:10],
    }


def gaussians_with_extra(num: int = 20, sh_degree: int = 1) -> Gaussians:
    return make_gaussians(num, sh_degree, extra=extra_of(num))


def assert_same(found: Gaussians, expected: Gaussians) -> None:
    assert list(found.extra) == list(expected.extra)
    for name, rows in expected.all_arrays().items():
        assert found.all_arrays()[name].dtype == np.float32
        assert np.array_equal(found.all_arrays()[name], rows), name


@pytest.mark.parametrize("format", ["binary_little_endian", "binary_big_endian", "ascii"])
def test_rows_come_back(tmp_path: Path, format: PlyFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splatkit_ns.formats.ply._CHUNK_ROWS", 7)  # several chunks
    formats.write(tmp_path / "a.ply", gaussians_with_extra(), encoding=format)
    assert_same(formats.read(tmp_path / "a.ply"), gaussians_with_extra())


def test_the_layout(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", gaussians_with_extra())
    file = PlyData.read(tmp_path / "a.ply")
    assert file.comments == ["extra features 8", "extra confidence", "extra pairs_1 2 3",
                             "extra a%20name%20%2F%20%2520%20%C3%BC 1"]  # fmt: skip
    names = [p.name for p in file["vertex"].properties]
    assert names[: len(property_names(9))] == property_names(9)
    assert names[-16:-7] == [*(f"extra_features_{i}" for i in range(8)), "extra_confidence_0"]
    assert np.array_equal(file["vertex"]["extra_pairs_1_4"], extra_of(20)["pairs_1"][:, 1, 1])


def test_discs_without_a_third_scale_keep_their_rows(tmp_path: Path) -> None:
    write_header(tmp_path / "a.ply", ["extra a 2"], ["extra_a_1", "extra_a_0"], without="scale_2")
    found = read_ply(tmp_path / "a.ply")
    assert found.render_mode == "2dgs"
    assert found.extra["a"].tolist() == [[14.0, 13.0]]
    assert found.quats.tolist() == [[9.0, 10.0, 11.0, 12.0]]


def test_a_file_without_such_comments_has_none(tmp_path: Path) -> None:
    write_header(tmp_path / "a.ply", ["extra fine work", "extra", "extra none 3"], ["extra_a_0", "extra_0", "b"])
    assert read_ply(tmp_path / "a.ply").extra == {}


@pytest.mark.parametrize("name", ["compressed.ply", "spz", "sog", "splat", "glb"])
def test_other_formats_drop_them_with_one_warning(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    original = gaussians_with_extra(300)
    original.extra["confidence"][3] = np.nan  # is not written, so the Gaussian stays
    with caplog.at_level(logging.WARNING):
        formats.write(tmp_path / f"a.{name}", original)
    warnings = [record.getMessage() for record in caplog.records if "extra" in record.getMessage()]
    assert len(warnings) == 1
    assert "'features', 'confidence', 'pairs_1'" in warnings[0]
    assert name in warnings[0]
    found = formats.read(tmp_path / f"a.{name}")
    assert (len(found), found.extra) == (300, {})
    formats.write(tmp_path / f"a.{name}", make_gaussians(300, 1))
    assert len([record for record in caplog.records if "extra" in record.getMessage()]) == 1


def test_frames_and_selections() -> None:
    original = gaussians_with_extra()
    for moved in (transform(original, up_axis("y")), flip_yz(original)):
        assert all(np.array_equal(moved.extra[name], rows) for name, rows in original.extra.items())
    some = original.take(np.array([4, 2]))
    assert np.array_equal(some.extra["features"], original.extra["features"][[4, 2]])


def test_rows_that_are_not_finite_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    original = gaussians_with_extra()
    original.extra["pairs_1"][5, 1, 2] = np.inf
    write_ply(tmp_path / "a.ply", original)
    assert "1 of 20 Gaussians are not finite" in caplog.text
    assert_same(read_ply(tmp_path / "a.ply"), original.take(np.delete(np.arange(20), 5)))
    assert len(drop_non_finite(replace(original, extra={}), "a")) == 20


def test_rows_that_do_not_fit_the_gaussians() -> None:
    with pytest.raises(FormatError, match=r"'a' must have shape \(5, \.\.\.\).*found \(4, 2\)"):
        make_gaussians(5, extra={"a": np.zeros((4, 2))})
    with pytest.raises(FormatError, match=r"a name other than means, .*found 'sh0'"):
        make_gaussians(5, extra={"sh0": np.zeros(5)})


def test_rows_too_long_for_a_header(tmp_path: Path) -> None:
    with pytest.raises(PlyError, match=r"the PLY header would have .* bytes, expected at most 1048576"):
        write_ply(tmp_path / "a.ply", make_gaussians(1, extra={"a": np.zeros((1, 50_000))}))
    assert list(tmp_path.iterdir()) == []
    write_ply(tmp_path / "a.ply", make_gaussians(1, 0, extra={"nothing": np.zeros((1, 0))}))
    assert read_ply(tmp_path / "a.ply").extra == {}


# ---------------------------------------------------------------------------------------------------------- hostile


def write_header(
    path: Path, comments: list[str], extra: list[str], without: str = "", last: float | None = None
) -> None:
    """Write one Gaussian of degree 0 whose properties have the values 0, 1, 2, …, with any header."""
    names = [name for name in NAMES if name != without] + extra
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {comment}" for comment in comments)]
    lines += ["element vertex 1", *(f"property float {name}" for name in names), "end_header", ""]
    row = np.arange(len(names), dtype="<f4")
    if last is not None:
        row[-1] = last
    path.write_bytes("\n".join(lines).encode() + row.tobytes())


TWO = ["extra_a_0", "extra_a_1"]


@pytest.mark.parametrize(
    ("comments", "properties", "message"),
    [
        (["extra a 3"], TWO, "'extra a 3' declares rows of 3 values, expected the properties extra_a_0 to extra_a_2"),
        (["extra a"], TWO, "rows of 1 values"),
        (["extra a 2"], ["extra_a_1", "extra_a_2"], "expected the properties extra_a_0 to extra_a_1"),
        (["extra a 2"], ["extra_a_0", "extra_a_01"], "expected the properties extra_a_0 to extra_a_1"),
        (["extra a 999999999 999999999"], TWO, "rows of 999999998000000001 values"),
        (["extra a " + "9" * 5000], TWO, "expected 'comment extra NAME' and the shape"),
        (["extra a -2"], TWO, "expected 'comment extra NAME' and the shape"),
        (["extra a 0"], TWO, "expected 'comment extra NAME' and the shape"),
        (["extra a two"], TWO, "expected 'comment extra NAME' and the shape"),
        (["extra a 2" + " 1" * 40], TWO, "expected 'comment extra NAME' and the shape"),
        (["extra means 1"], ["extra_means_0"], "expected 'comment extra NAME' and the shape"),
        (["extra a 2", "extra a 1 2"], TWO, r"two comments declare 'a' with the shapes \(2,\) and \(1, 2\)"),
    ],
)
def test_headers_that_lie(tmp_path: Path, comments: list[str], properties: list[str], message: str) -> None:
    path = tmp_path / "hostile.ply"
    write_header(path, comments, properties)
    with pytest.raises(PlyError, match=message) as caught:
        read_ply(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_a_comment_that_is_there_twice_is_harmless(tmp_path: Path) -> None:
    write_header(tmp_path / "a.ply", ["extra a 2", "extra a 2"], TWO)
    assert read_ply(tmp_path / "a.ply").extra["a"].tolist() == [[14.0, 15.0]]


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    write_header(tmp_path / "a.ply", ["extra a 2"], TWO, last=float("nan"))
    with pytest.raises(NonFiniteError, match="1 of 1 Gaussians have NaN"):
        read_ply(tmp_path / "a.ply")
    write_header(tmp_path / "b.ply", [], TWO, last=float("nan"))
    assert len(read_ply(tmp_path / "b.ply")) == 1, "properties without a comment are ignored"
