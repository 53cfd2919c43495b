"""PLY files: what is written comes back, also in other readers; what is wrong is said in one sentence."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib.recfunctions import repack_fields
from plyfile import PlyData, PlyElement

from splatkit_ns.formats.ply import PlyFormat, property_names, read_ply, write_ply
from splatkit_ns.splat import PlyError, SplatModel
from splatkit_ns.splat.discs import LOG_THICKNESS
from tests.formats.helpers import make_gaussians
from tests.splat.helpers import make_tensors

FORMATS: tuple[PlyFormat, ...] = ("binary_little_endian", "binary_big_endian", "ascii")


def make_model(num: int = 5, sh_degree: int = 1) -> SplatModel:
    return SplatModel(**make_tensors(num, sh_degree))


def assert_equal(first: SplatModel, second: SplatModel) -> None:
    for key, value in first.tensors().items():
        assert torch.equal(value, second.tensors()[key]), key


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
def test_round_trip(tmp_path: Path, format: PlyFormat, sh_degree: int) -> None:
    model = make_model(20, sh_degree)
    model.save_ply(tmp_path / "new folder" / "a.ply", format=format)
    again = SplatModel.load_ply(str(tmp_path / "new folder" / "a.ply"))
    assert_equal(again, model)
    assert (len(again), again.sh_degree) == (20, sh_degree)


def test_more_rows_than_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splatkit_ns.formats.ply._CHUNK_ROWS", 7)
    for num in (6, 7, 8, 20):
        model = make_model(num)
        model.save_ply(tmp_path / "a.ply")
        assert_equal(SplatModel.load_ply(tmp_path / "a.ply"), model)


def test_the_layout_is_that_of_3dgs(tmp_path: Path) -> None:
    model = make_model(4, sh_degree=3)
    model.save_ply(tmp_path / "a.ply")
    vertex = PlyData.read(tmp_path / "a.ply")["vertex"]
    assert [p.name for p in vertex.properties] == [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(45)),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]
    assert {p.val_dtype for p in vertex.properties} == {"f4"}
    for axis, name in enumerate("xyz"):
        assert np.array_equal(vertex[name], model.means[:, axis])
        assert not vertex["n" + name].any()
    assert np.array_equal(vertex["opacity"], model.opacities)
    for channel in range(3):
        assert np.array_equal(vertex[f"f_dc_{channel}"], model.sh0[:, 0, channel])
        for coefficient in range(15):  # channel by channel
            assert np.array_equal(vertex[f"f_rest_{channel * 15 + coefficient}"], model.shN[:, coefficient, channel])
    for i in range(4):
        assert np.array_equal(vertex[f"rot_{i}"], model.quats[:, i])


@pytest.mark.parametrize(("text", "byte_order"), [(True, "="), (False, "<"), (False, ">")])
@pytest.mark.parametrize("type_name", ["f4", "f8"])
def test_reads_what_plyfile_writes(tmp_path: Path, text: bool, byte_order: str, type_name: str) -> None:
    """In any order, as float or double, without normals, among unknown properties and elements."""
    model = make_model(9, sh_degree=2)
    names = property_names(24, normals=False)
    write_ply(tmp_path / "ours.ply", model.to_gaussians())
    ours = PlyData.read(tmp_path / "ours.ply")["vertex"]
    shuffled = [*names[::-1][:10], "unknown", *names[: len(names) - 10]]
    rows = np.zeros(9, dtype=[(name, "u1" if name == "unknown" else type_name) for name in shuffled])
    for name in names:
        rows[name] = ours[name]
    other = PlyElement.describe(np.zeros(3, dtype=[("a", "i2"), ("b", "f8")]), "other")
    faces = np.empty(1, dtype=[("vertex_indices", object)])
    faces["vertex_indices"][0] = np.arange(3, dtype=np.int32)
    elements = [other, PlyElement.describe(rows, "vertex"), PlyElement.describe(faces, "face")]
    PlyData(elements, text=text, byte_order=byte_order, comments=["made by another tool"]).write(tmp_path / "a.ply")
    assert_equal(SplatModel.load_ply(tmp_path / "a.ply"), model)


@pytest.mark.parametrize("text", [True, False])
def test_discs_have_two_scales(tmp_path: Path, text: bool) -> None:
    """As the authors of 2DGS write them."""
    model = make_model(4, sh_degree=1)
    model.save_ply(tmp_path / "three.ply")
    rows = PlyData.read(tmp_path / "three.ply")["vertex"].data
    rows = repack_fields(rows[[name for name in rows.dtype.names if name != "scale_2"]])
    PlyData([PlyElement.describe(rows, "vertex")], text=text).write(tmp_path / "two.ply")
    model.scales[:, 2] = LOG_THICKNESS
    assert_equal(SplatModel.load_ply(tmp_path / "two.ply"), model)


@pytest.mark.skipif(find_spec("pymeshlab") is None, reason="nerfstudio installs pymeshlab on x86 only")
def test_meshlab_opens_it(tmp_path: Path) -> None:
    make_model(30, sh_degree=3).save_ply(tmp_path / "a.ply")
    # in a process of its own: its Qt and OpenGL libraries are no guests for the other tests
    script = (
        "import sys, pymeshlab, numpy; meshes = pymeshlab.MeshSet(); meshes.load_new_mesh(sys.argv[1]);"
        "numpy.save(sys.argv[2], meshes.current_mesh().vertex_matrix())"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "a.ply", tmp_path / "points.npy"], check=True)
    assert np.array_equal(np.load(tmp_path / "points.npy").astype(np.float32), make_model(30, 3).means.numpy())


@pytest.mark.parametrize("key", ["means", "scales", "quats", "opacities", "sh0", "shN"])
def test_rows_that_are_not_finite_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str) -> None:
    tensors = make_tensors(6)
    tensors[key].view(6, -1)[1, 0] = float("nan")
    tensors[key].view(6, -1)[4, -1] = float({"opacities": "nan", "scales": "inf"}.get(key, "-inf"))
    with caplog.at_level(logging.WARNING):
        SplatModel(**tensors).save_ply(tmp_path / "a.ply")
    assert [record.getMessage()[:32] for record in caplog.records] == ["2 of 6 Gaussians are not finite "]
    again = SplatModel.load_ply(tmp_path / "a.ply")
    assert_equal(again, SplatModel(**{name: value[[0, 2, 3, 5]] for name, value in tensors.items()}))


def test_infinite_opacities_are_those_of_opaque_and_invisible_gaussians(tmp_path: Path) -> None:
    """Converters write the logits of 1 and 0 as they are."""
    write_ply(tmp_path / "finite.ply", make_gaussians(6, 0))
    data = bytearray((tmp_path / "finite.ply").read_bytes())
    row = 17 * 4  # x y z, three normals, three f_dc, opacity, three scales, four rotations
    for number, value in ((1, np.inf), (4, -np.inf)):
        at = len(data) - (6 - number) * row + 9 * 4
        data[at : at + 4] = np.float32(value).tobytes()
    (tmp_path / "infinite.ply").write_bytes(data)
    found = SplatModel.load(tmp_path / "infinite.ply")
    expected = make_gaussians(6, 0).opacities
    expected[[1, 4]] = np.log(1e7), -np.log(1e7)
    assert np.allclose(found.opacities, expected)
    assert 0.999999 < found.opacities[1].sigmoid() < 1
    assert found.opacities[4].sigmoid() < 1e-6


@pytest.mark.parametrize("name", ["a.ply", "a.spz", "a.splat", "a.glb"])
def test_infinite_opacities_are_written(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    gaussians = make_gaussians(6, 0)
    opacities = torch.from_numpy(gaussians.opacities)
    opacities[1], opacities[4] = torch.inf, -torch.inf
    SplatModel.from_gaussians(gaussians).save(tmp_path / name)
    found = SplatModel.load(tmp_path / name).opacities.sigmoid().sort().values
    assert not caplog.records
    assert len(found) == 6
    assert found[0] < 0.001
    assert found[-1] > 0.999


@pytest.mark.parametrize("name", ["a.ply", "a.spz", "a.splat", "a.glb"])
def test_the_logs_of_sizes_of_zero_are_read_and_written(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Converters write minus infinity for a Gaussian without thickness, and SuperSplat keeps it."""
    flat = make_gaussians(6, 0)
    flat.scales[:, 2] = -3.0
    write_ply(tmp_path / "finite.ply", flat)
    thickness = np.float32(-3.0).tobytes()
    data = (tmp_path / "finite.ply").read_bytes()
    assert data.count(thickness) == 6
    (tmp_path / "flat.ply").write_bytes(data.replace(thickness, np.float32(-np.inf).tobytes()))
    found = SplatModel.load(tmp_path / "flat.ply")
    assert torch.allclose(found.scales[:, 2], torch.tensor(np.log(1e-13), dtype=torch.float32))
    assert np.array_equal(found.scales[:, :2], flat.scales[:, :2])

    flat.scales[:, 2] = -np.inf
    SplatModel.from_gaussians(flat).save(tmp_path / name)
    again = SplatModel.load(tmp_path / name)
    assert not caplog.records
    assert len(again) == 6
    assert again.scales[:, 2].max() <= -10  # SPZ goes no farther
    assert again.scales[:, :2].min() > -10


@pytest.mark.parametrize("text", [False, True])
def test_colours_may_be_bytes(tmp_path: Path, text: bool) -> None:
    """``ns-export gaussian-splat --ply-color-mode rgb`` writes them so."""
    gaussians = make_gaussians(5, 0)
    colours = np.array([[0, 128, 255], [255, 0, 1], [7, 8, 9], [100, 200, 50], [254, 3, 30]], np.uint8)
    write_ply(tmp_path / "coefficients.ply", gaussians)
    rows = PlyData.read(tmp_path / "coefficients.ply")["vertex"].data
    kept = [name for name in rows.dtype.names if not name.startswith("f_dc_")]
    table = np.empty(
        len(rows), [*((name, "f4") for name in kept), *((name, "u1") for name in ("red", "green", "blue"))]
    )
    for name in kept:
        table[name] = rows[name]
    for column, name in enumerate(("red", "green", "blue")):
        table[name] = colours[:, column]
    PlyData([PlyElement.describe(table, "vertex")], text=text).write(tmp_path / "bytes.ply")
    found = read_ply(tmp_path / "bytes.ply")
    assert np.allclose(found.sh0[:, 0] * 0.28209479 + 0.5, colours / 255, atol=1e-6)
    assert np.allclose(found.quats, gaussians.quats)
    assert np.allclose(found.scales, gaussians.scales)


def test_large_finite_values_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = make_tensors(3)
    tensors["means"][:] = 3e38
    SplatModel(**tensors).save_ply(tmp_path / "a.ply")
    assert len(SplatModel.load_ply(tmp_path / "a.ply")) == 3
    assert not caplog.records


def test_nothing_to_write_leaves_no_file(tmp_path: Path) -> None:
    tensors = make_tensors(2)
    tensors["opacities"][:] = float("nan")
    with pytest.raises(ValueError, match=r"no \(finite\) Gaussians"):
        SplatModel(**tensors).save_ply(tmp_path / "a.ply")
    with pytest.raises(ValueError, match="format must be one of"):
        make_model().save_ply(tmp_path / "a.ply", format="binary")  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


def test_comments(tmp_path: Path) -> None:
    gaussians = make_model(2).to_gaussians()
    write_ply(tmp_path / "a.ply", gaussians, comments=("SplatRenderMode: default",))
    assert PlyData.read(tmp_path / "a.ply").comments == ["SplatRenderMode: default"]
    assert len(SplatModel.load_ply(tmp_path / "a.ply")) == 2
    with pytest.raises(ValueError, match="one line"):
        write_ply(tmp_path / "a.ply", gaussians, comments=("a\nelement vertex 9",))


def test_a_model_becomes_a_training_state_and_back() -> None:
    model = make_model(7, sh_degree=2)
    state = model.to_training_state(learning_rates={"means": 0.5})
    assert state.optimizers["means"].param_groups[0]["lr"] == 0.5
    assert_equal(state.to_splat_model(), model)
    state.params["means"].data += 1
    assert_equal(model, make_model(7, sh_degree=2))


# ---------------------------------------------------------------------------------------------------------- hostile


def header(*lines: str, format: str = "binary_little_endian 1.0") -> bytes:
    return "\n".join(["ply", f"format {format}", *lines, "end_header", ""]).encode()


def properties(names: list[str], type_name: str = "float") -> list[str]:
    return [f"property {type_name} {name}" for name in names]


NAMES = property_names(0, normals=False)
ONE_ROW = np.ones(len(NAMES), dtype="<f4").tobytes()
ASCII_ROW = b" ".join([b"1"] * len(NAMES)) + b"\n"
VERTEX = ["element vertex 1", *properties(NAMES)]


def vertices(count: int) -> list[str]:
    return [f"element vertex {count}", *properties(NAMES)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a PLY file"),
        (b"solid cube\n", "not a PLY file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a PLY file"),
        (b"ply\n", "no end"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\n", "no end"),
        (b"ply\n" + b"comment x" * 200_000, "no end"),
        (b"ply\n" + b"comment x\n" * 200_000, "no end"),
        (header(*VERTEX, format="binary_middle_endian 1.0"), r"line 2: expected format binary_little_endian \|"),
        (header(*VERTEX, format="ascii 2.0"), "line 2: expected format"),
        (b"ply\n" + "\n".join([*VERTEX, "end_header", ""]).encode(), "no 'format' line"),
        (header("elephant vertex 1"), "line 3: a PLY header has no line 'elephant vertex 1'"),
        (header("element vertex -1"), "line 3: expected 'element NAME COUNT'"),
        (header("element vertex 1e3"), "expected 'element NAME COUNT'"),
        (header("element vertex " + "9" * 5000), "expected 'element NAME COUNT'"),
        (header("property float x"), "a property before any element"),
        (header("element vertex 1", "property quaternion x"), "line 4: expected 'property TYPE NAME'"),
        (header(*VERTEX, *VERTEX), "element 'vertex' is declared twice"),
        (header(*VERTEX, "property float x"), "property 'x' of 'vertex' is declared twice"),
        (header("element face 1", "property int a"), r"expected an element 'vertex'.*found \['face'\]"),
        (header(), "found no elements"),
        (header(*vertices(0)), "no rows"),
        (header(*VERTEX, "property list uchar int f") + ONE_ROW, "list property 'f'"),
        (header("element face 1", "property list uchar int f", *VERTEX) + ONE_ROW, "element 'face' has the list"),
        (header(*vertices(2)) + ONE_ROW, r"truncated: its header declares 2 vertices.*room for 1 in"),
        (header(*VERTEX) + ONE_ROW[:-1], "room for 0 in"),
        (header(*vertices(10**12)) + ONE_ROW, "declares 1000000000000 vertices"),
        (header(*vertices(10**12), format="ascii 1.0") + ASCII_ROW, "declares 1000000000000 vertices"),
        (header("element a 999999999999999999", "property int a", *VERTEX) + ONE_ROW, "room for 0 in"),
        (header("element a 999999999999999999", *VERTEX, format="ascii 1.0") + ASCII_ROW, "room for 0 in"),
        (header("element vertex 999999999999999999"), "lack the properties x, y, z, f_dc_0"),
        (header("element vertex 1", *properties(NAMES[:-1])) + ONE_ROW, "lack the properties rot_3. Is"),
        (
            header("element vertex 1", *properties([n for n in NAMES if "scale_" not in n])) + ONE_ROW,
            "scale_0, scale_1. Is",
        ),
        (header(*VERTEX, *properties(["f_rest_0"])) + ONE_ROW + ONE_ROW, "n = 0, 9, 24 or 45.*found 1 of"),
        (
            header(*VERTEX, *properties([f"f_rest_{i}" for i in range(1, 10)])) + ONE_ROW * 2,
            r"f_rest_0 to f_rest_\(n-1\)",
        ),
        (header(*VERTEX) + ONE_ROW[:-4] + b"\x00\x00\xc0\x7f", "1 of 1 Gaussians have NaN.*first is number 0"),
        (header(*vertices(3), format="ascii 1.0") + ASCII_ROW * 2 + bytes(40), "vertex 2: expected 14 numbers"),
        (header(*vertices(2), format="ascii 1.0") + ASCII_ROW + b"1 " * 20, "vertex 1: expected 14 numbers.*found 20"),
        (header(*vertices(1), format="ascii 1.0") + b"1 " * 10**6, "vertex 0: expected 14 numbers"),
        (header(*vertices(2), format="ascii 1.0") + ASCII_ROW[:-1] * 2 + b"\n\n", "vertex 0: expected 14"),
        (header(*vertices(1), format="ascii 1.0") + ASCII_ROW.replace(b"1", b"one", 1), "vertex 0: expected numbers"),
        (header(*vertices(1), format="ascii 1.0") + ASCII_ROW.replace(b"1", b"nan", 1), "have NaN"),
        (header(*vertices(1), format="ascii 1.0") + ASCII_ROW.replace(b"1", b"1e99", 1), "have NaN or infinite"),
    ],
)
def test_hostile_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "hostile.ply"
    path.write_bytes(content)
    with pytest.raises(PlyError, match=message) as caught:
        SplatModel.load_ply(path)
    assert str(path) in str(caught.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(PlyError, match=r"none\.ply cannot be read: No such file"):
        SplatModel.load_ply(tmp_path / "none.ply")
    with pytest.raises(PlyError, match="cannot be read"):
        SplatModel.load_ply(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        header(*VERTEX) + ONE_ROW + b"trailing bytes",
        header(*VERTEX, format="ascii 1.0") + ASCII_ROW[:-1],
        header(*VERTEX, format="ascii 1.0") + ASCII_ROW.replace(b"\n", b"\r\n"),
        header(*VERTEX).replace(b"\n", b"\r\n") + ONE_ROW,
        header("comment anything", "", "obj_info x", *VERTEX) + ONE_ROW,
    ],
)
def test_harmless_oddities(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.ply").write_bytes(content)
    model = SplatModel.load_ply(tmp_path / "odd.ply")
    assert len(model) == 1
    assert model.means.tolist() == [[1.0, 1.0, 1.0]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[PlyFormat, bytes]:
    """A small file of each format."""
    folder, model = tmp_path_factory.mktemp("small"), make_model(3, sh_degree=0)
    for format in FORMATS:
        model.save_ply(folder / format, format=format)
    return {format: (folder / format).read_bytes() for format in FORMATS}


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), format=st.sampled_from(FORMATS))
def test_damaged_files_never_crash(
    tmp_path: Path, small: dict[PlyFormat, bytes], data: st.DataObject, format: PlyFormat
) -> None:
    path = tmp_path / "a.ply"
    content = bytearray(small[format])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        gaussians = read_ply(path)
    except PlyError:
        return
    assert all(np.isfinite(value).all() for value in gaussians.arrays().values())
