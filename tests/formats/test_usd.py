"""USD files, which need the package usd-core; without it, one message says so."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import random
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splatkit_ns import formats, ranges
from splatkit_ns.cli import convert
from splatkit_ns.errors import OptionsError, SplatkitError
from splatkit_ns.formats import FormatError
from splatkit_ns.formats import usd as usd_module
from splatkit_ns.modules import SplatExporter
from tests.faults.reading import read_or_refused
from tests.formats.helpers import errors, make_discs, make_gaussians

HEADER = '#usda 1.0\n(\n    upAxis = "Y"\n)\n'
PRIM = """def Xform "Above" {{
    double3 xformOp:translate = (10, 0, 0)
    double xformOp:rotateX = 90
    uniform token[] xformOpOrder = ["xformOp:translate", "xformOp:rotateX"]
    def ParticleField3DGaussianSplat "Splats" {{
        {}
    }}
}}
"""
needs_usd = pytest.mark.skipif(usd_module.why_unavailable() is not None, reason="needs usd-core")


def write_text(path: Path, attributes: str) -> Path:
    path.write_text(HEADER + PRIM.format(attributes))
    return path


@needs_usd
@pytest.mark.parametrize(("suffix", "sh_degree"), [("usdc", 3), ("usda", 1), ("usdz", 0), ("usd", 2)])
def test_round_trip(tmp_path: Path, suffix: str, sh_degree: int) -> None:
    original = make_gaussians(300, sh_degree, render_mode="mip")
    original.quats[5] = 0
    original.scales[3] = [-60, 0, 12]
    path = tmp_path / "new" / f"a [1] ü.{suffix}"  # brackets mean something to OpenUSD
    formats.write(path, original)
    found = formats.read(path)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    original.quats[5] = [1, 0, 0, 0]
    worst = errors(found, original)
    assert found.sh_degree == sh_degree
    assert found.render_mode == "mip"
    assert {key: worst[key] for key in ("means", "sh0", "shN")} == {"means": 0, "sh0": 0, "shN": 0}
    assert worst["scales"] < 5e-6
    assert worst["degrees"] < 0.05
    assert worst["opacities"] < 1e-6


@needs_usd
@pytest.mark.parametrize("suffix", ["usdc", "usdz"])
def test_openusd_finds_no_fault(tmp_path: Path, suffix: str) -> None:
    """All validators that usd-core has."""
    pytest.importorskip("pxr.UsdValidation")
    usd, validation = (importlib.import_module(f"pxr.{name}") for name in ("Usd", "UsdValidation"))
    path = tmp_path / f"a.{suffix}"
    formats.write(path, make_gaussians(40, 3), up_axis="-y")
    validators = validation.ValidationRegistry().GetOrLoadAllValidators()
    assert len(validators) > 10
    found = validation.ValidationContext(validators).Validate(usd.Stage.Open(str(path)))
    assert [error.GetMessage() for error in found] == []


@needs_usd
def test_the_file_is_what_the_schema_says(tmp_path: Path) -> None:
    """Read by OpenUSD itself: activated values, coefficients of a Gaussian in turn, and the upward axis."""
    usd, geom, vol = (importlib.import_module(f"pxr.{name}") for name in ("Usd", "UsdGeom", "UsdVol"))
    original = make_discs(40, sh_degree=2)
    for up, axis in (("z", "Z"), ("y", "Y"), ("-y", "Y")):
        path = tmp_path / f"up{up}.usdc"
        formats.write(path, original, up_axis=up)
        stage: Any = usd.Stage.Open(str(path))
        prim = stage.GetDefaultPrim()
        field: Any = vol.ParticleField3DGaussianSplat(prim)
        assert geom.GetStageUpAxis(stage) == axis
        assert geom.GetStageMetersPerUnit(stage) == 1.0
        assert prim.GetTypeName() == "ParticleField3DGaussianSplat"
        means = np.array(field.GetPositionsAttr().Get())
        assert np.array_equal(means, original.means)
        turned = np.array(geom.XformCache().GetLocalToWorldTransform(prim)).T[:3, :3] @ means[0]
        assert np.allclose(turned, original.means[0] * ([1, -1, -1] if up == "-y" else [1, 1, 1]))
        assert np.allclose(np.array(field.GetScalesAttr().Get()), np.exp(original.scales))
        assert np.allclose(np.array(field.GetOpacitiesAttr().Get()), 1 / (1 + np.exp(-original.opacities)))
        quat = field.GetOrientationsAttr().Get()[0]
        unit = original.quats[0] / np.linalg.norm(original.quats[0])
        assert np.allclose([quat.GetReal(), *quat.GetImaginary()], unit, atol=1e-6)
        assert field.GetRadianceSphericalHarmonicsDegreeAttr().Get() == 2
        sh = np.array(field.GetRadianceSphericalHarmonicsCoefficientsAttr().Get())
        assert np.array_equal(sh[:9], np.concatenate([original.sh0, original.shN], axis=1)[0])
        low, high = np.array(field.GetExtentAttr().Get())
        assert np.all(low < means.min(axis=0))
        assert np.all(high > means.max(axis=0))


@needs_usd
def test_missing_values_are_those_of_the_schema_and_parents_move_them(tmp_path: Path) -> None:
    found = formats.read(write_text(tmp_path / "a.usda", "point3f[] positions = [(1, 2, 3), (4, 5, 6)]"))
    assert np.allclose(found.means, [[11, -3, 2], [14, -6, 5]], atol=1e-5)
    assert np.allclose(found.scales, 0)
    assert np.all(found.opacities > 15)
    assert found.sh_degree == 0
    assert np.all(found.sh0 == 0)  # grey, as the schema has it
    halves = "point3h[] positionsh = [(1, 2, 3)]\n half3[] scalesh = [(2, 2, 2)]\n half[] opacitiesh = [0.5, 0.25]"
    found = formats.read(write_text(tmp_path / "b.usda", halves))
    assert np.allclose(found.scales, np.log(2))
    assert np.allclose(found.opacities, 0)


@needs_usd
@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        ("usda", HEADER, "no Gaussians in it"),
        ("usda", HEADER + PRIM.format(""), "no Gaussians in it"),
        ("usda", "#usda 1.0\n( subLayers = [@/etc/passwd@] )\n", "refers to other files"),
        ("usda", HEADER + PRIM.format("point3f[] positions = [(1, 2"), "OpenUSD cannot read it"),
        ("usda", HEADER + PRIM.format("point3f[] positions = [(nan, 2, 3)]"), "NaN or infinite"),
        ("usda", HEADER + PRIM.format("float[] opacities = [2]\n point3f[] positions = [(1, 2, 3)]"), "from 0 to 1"),
        (
            "usda",
            HEADER
            + PRIM.format("point3f[] positions = [(1, 2, 3)]\n uniform int radiance:sphericalHarmonicsDegree = 9"),
            "SH degree from 0 to 3, found 9",
        ),
        ("usdc", "ply\nformat ascii 1.0\n", "OpenUSD cannot read it"),
        ("usdc", "PXR-USDC" + "\x7f" * 200, "damaged|cannot read it"),
        ("usdz", "PK\x03\x04", "cannot read it|cannot open it"),
        ("usd", "", "cannot read it|cannot open it"),
    ],
)
def test_bad_files_end_in_one_message(tmp_path: Path, suffix: str, content: str, message: str) -> None:
    path = tmp_path / f"bad.{suffix}"
    path.write_text(content, "latin-1")
    with pytest.raises(FormatError, match=message) as caught:
        formats.read(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600


@needs_usd
def test_a_file_that_fills_the_memory_is_refused(tmp_path: Path) -> None:
    """Prims that refer to another one of the same file cost next to nothing there, and its arrays here."""
    zeros = ", ".join(["(0, 0, 0)"] * 40_000)
    copies = "\n".join(f'def "c{number}" (references = </Above>) {{}}' for number in range(200))
    text = HEADER + PRIM.format(f"point3f[] positions = [{zeros}]") + copies
    (tmp_path / "bomb.usda").write_text(text)
    with pytest.raises(FormatError, match="out of all proportion"):
        formats.read(tmp_path / "bomb.usda")


@needs_usd
def test_damaged_files_are_refused_or_read(tmp_path: Path) -> None:
    """OpenUSD crashes on some of these; only its own process ends with it."""
    formats.write(tmp_path / "small.usdc", make_gaussians(5, 1))
    data = (tmp_path / "small.usdc").read_bytes()
    chance = random.Random(4)
    path = tmp_path / "damaged.usdc"
    for _ in range(3):
        damaged = bytearray(data)
        for _ in range(chance.choice([1, 4])):
            place = chance.randrange(len(data) - 8)
            damaged[place : place + 8] = chance.choice([0, 2**63 - 1, 2**40, chance.getrandbits(64)]).to_bytes(
                8, "little"
            )
        read_or_refused(bytes(damaged), path)


@needs_usd
def test_convert_says_which_axis_is_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    formats.write(tmp_path / "a.ply", make_gaussians(30, 0))
    with caplog.at_level(logging.WARNING):
        convert.run(convert.ConvertOptions(tmp_path / "a.ply", (tmp_path / "a.usda",), up="y"))
    text = (tmp_path / "a.usda").read_text()
    assert 'upAxis = "Y"' in text
    assert np.allclose(formats.read(tmp_path / "a.usda").means[:, 1], make_gaussians(30, 0).means[:, 2], atol=1e-5)


def test_without_the_package_one_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any work is done: no folder is made, and a run with such an exporter does not begin."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "pxr" else find_spec(name))
    formats.write(tmp_path / "a.ply", make_gaussians(3, 0))
    remedy = r'usd-core, which is not installed: pip install "splatkit-ns\[usd\]"'
    with pytest.raises(SplatkitError, match=remedy):
        convert.run(convert.ConvertOptions(tmp_path / "a.ply", (tmp_path / "new" / "a.usd",)))
    assert not (tmp_path / "new").exists()
    (tmp_path / "b.usdc").write_bytes(b"PXR-USDC")
    with pytest.raises(FormatError, match=remedy):
        formats.read(tmp_path / "b.usdc")
    with pytest.raises(OptionsError, match=remedy):
        ranges.check(SplatExporter(tmp_path, [1], splat_format="usd"))


@needs_usd
def test_a_package_that_is_too_old_or_cannot_be_imported_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The formats that can be used are asked for at each start of a training, which OpenUSD's import would hold up."""
    imported: list[str] = []

    def refuse(name: str) -> Any:
        imported.append(name)
        raise ImportError("no libpxr.so")

    monkeypatch.setattr(usd_module.importlib, "import_module", refuse)
    assert usd_module.why_unavailable() is None
    assert imported == []
    with pytest.raises(OSError, match=r"cannot be imported: no libpxr\.so"):
        usd_module.write_usd(tmp_path / "a.usda", make_gaussians(3, 0), usd_module.UsdOptions())
    monkeypatch.setattr(usd_module, "version", lambda name: "25.11")
    assert "usd-core of at least 26.3: pip" in str(usd_module.why_unavailable())

    def unknown(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(usd_module, "version", unknown)
    assert "cannot be imported: no libpxr.so" in str(usd_module.why_unavailable()), "built from source"
