"""Every format brings back what was written, within what its bits allow; and the registry finds them."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splatkit_ns import formats
from splatkit_ns.formats import FormatError, Gaussians, SplatFormat
from splatkit_ns.formats import registry as registry_module
from splatkit_ns.splat import SplatModel
from tests.formats.helpers import errors, make_discs, make_gaussians
from tests.splat.helpers import make_tensors

LIMITS: dict[str, dict[str, float]] = {
    "ply": {},
    "glb": {"scales": 2e-6, "degrees": 0.05, "opacities": 1e-6},
    "compressed.ply": {
        "means": 7e-3, "scales": 4e-3, "degrees": 0.3, "opacities": 2.1e-3, "sh0": 0.012, "shN": 0.0161,
    },
    "spz": {"means": 1e-5, "scales": 0.032, "degrees": 0.3, "opacities": 2.1e-3, "sh0": 0.0135, "shN": 0.0322},
    "spz.glb": {"means": 1e-5, "scales": 0.032, "degrees": 8.0, "opacities": 2.1e-3, "sh0": 0.0135, "shN": 0.0322},
    "sog": {"means": 4e-4, "scales": 0.05, "degrees": 1.0, "opacities": 2.1e-3, "sh0": 0.08, "shN": 0.06},
    "splat": {"scales": 2e-6, "degrees": 1.5, "opacities": 2.1e-3, "sh0": 0.0071},
}  # fmt: skip
"""Largest errors; what is missing must come back to the bit."""


@pytest.fixture
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"palette_size": 1 << 16} if request.node.callspec.params["name"] == "sog" else {}


@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
@pytest.mark.parametrize("name", LIMITS)
def test_round_trip(tmp_path: Path, name: str, sh_degree: int, options: dict[str, Any]) -> None:
    original = make_gaussians(700, sh_degree)  # two whole chunks of a compressed PLY, and a part
    if name == "splat":
        original.sh0[:] = original.sh0.clip(-1.77, 1.77)  # its colours are from 0 to 1
    path = tmp_path / "new folder" / f"a.{name}"
    formats.write(path, original, **options)
    found = formats.read(path)
    assert found.sh_degree == (0 if name == "splat" else sh_degree)
    assert found.render_mode == "default"
    assert all(value.dtype == np.float32 for value in found.arrays().values())
    worst = errors(found, original)
    limits = dict.fromkeys(worst, 0.0) | {"degrees": 0.02} | LIMITS[name]
    if name == "splat" and sh_degree:
        limits["shN"] = 9.0
    if name == "sog" and sh_degree == 0:
        assert not any(file.startswith("shN") for file in os.listdir(tmp_path))
    assert {key: value for key, value in worst.items() if value > limits[key]} == {}
    assert os.listdir(path.parent) == [path.name], "no temporary file is left"


def test_spz_in_gltf_is_the_same_as_spz(tmp_path: Path) -> None:
    """In the axes of both, so that nothing is turned; with the order of the Gaussians, and whether antialiased."""
    original = make_gaussians(300, 1, render_mode="mip")
    formats.write(tmp_path / "a.spz", original, version=2)
    formats.write(tmp_path / "a.spz.glb", original)
    one, other = formats.read(tmp_path / "a.spz"), formats.read(tmp_path / "a.spz.glb")
    assert all(np.allclose(one.arrays()[key], value, atol=1e-6) for key, value in other.arrays().items())
    assert other.render_mode == "mip"


@pytest.mark.parametrize("name", LIMITS)
def test_one_gaussian(tmp_path: Path, name: str) -> None:
    """Ranges without extent, and images and chunks that are nearly empty."""
    original = make_gaussians(1)
    formats.write(tmp_path / f"a.{name}", original)
    found = formats.read(tmp_path / f"a.{name}")
    assert len(found) == 1
    assert np.allclose(found.means, original.means, atol=1e-3)


@pytest.mark.parametrize("name", LIMITS)
def test_writing_twice_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    for file in ("a", "b"):
        formats.write(tmp_path / f"{file}.{name}", make_gaussians(3000, 1))
    assert (tmp_path / f"a.{name}").read_bytes() == (tmp_path / f"b.{name}").read_bytes()


@pytest.mark.parametrize("name", ["ply", "compressed.ply", "sog", "glb"])
def test_discs_stay_discs(tmp_path: Path, name: str) -> None:
    formats.write(tmp_path / f"a.{name}", make_discs(500))
    found = formats.read(tmp_path / f"a.{name}")
    assert found.render_mode == "2dgs"
    assert np.allclose(found.scales[:, 2], make_discs(1).scales[0, 2], atol=1e-5)


def test_formats_that_know_no_discs_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    formats.write(tmp_path / "a.spz", make_discs(500))
    assert "cannot say that Gaussians are discs" in caplog.text
    assert formats.read(tmp_path / "a.spz").scales[:, 2].max() == -10


@pytest.mark.parametrize("name", ["ply", "compressed.ply", "spz", "sog", "glb"])
def test_antialiased_gaussians_are_marked(tmp_path: Path, name: str) -> None:
    formats.write(tmp_path / f"a.{name}", make_gaussians(30, render_mode="mip"))
    assert formats.read(tmp_path / f"a.{name}").render_mode == "mip"
    if name.endswith("ply"):
        assert b"\ncomment SplatRenderMode: mip\n" in (tmp_path / f"a.{name}").read_bytes()


def test_a_sog_of_gaussians_with_the_same_sh_is_written(tmp_path: Path) -> None:
    """As after a few steps of training, when no SH of a higher degree has been used."""
    gaussians = make_gaussians(2500)
    gaussians.shN[:] = 0.125
    gaussians.shN[0] = 0.25
    formats.write(tmp_path / "a.sog", gaussians)
    found = formats.read(tmp_path / "a.sog").shN
    counts = {float(value): int(count) for value, count in zip(*np.unique(found, return_counts=True), strict=True)}
    assert counts == {0.125: 2499 * 45, 0.25: 45}


@pytest.mark.parametrize("name", LIMITS)
def test_gaussians_that_are_not_finite_are_left_out(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    gaussians = make_gaussians(20, 0)
    gaussians.means[3, 1] = np.nan
    gaussians.opacities[7] = np.nan
    with caplog.at_level(logging.WARNING):
        formats.write(tmp_path / f"a.{name}", gaussians)
    assert "2 of 20 Gaussians are not finite" in caplog.text
    assert len(formats.read(tmp_path / f"a.{name}")) == 18
    gaussians.sh0[:] = np.nan
    with pytest.raises(FormatError, match="no \\(finite\\) Gaussians"):
        formats.write(tmp_path / f"b.{name}", gaussians)
    assert not (tmp_path / f"b.{name}").exists()


@pytest.mark.parametrize("name", LIMITS)
def test_extreme_values_stay_finite(tmp_path: Path, name: str) -> None:
    gaussians = make_gaussians(600, 1)
    gaussians.means[:200] *= 1e5
    gaussians.scales[::3] = [-60, 0, 12]
    gaussians.opacities[:2] = [100, -100]
    gaussians.quats[5] = 0
    gaussians.shN[::7] = 50
    formats.write(tmp_path / f"a.{name}", gaussians)
    found = formats.read(tmp_path / f"a.{name}")
    assert len(found) == 600
    assert all(np.isfinite(value).all() for value in found.arrays().values())


@pytest.mark.parametrize("num", [280, 1500], ids=["nearly one chunk", "a palette"])
@pytest.mark.parametrize("name", LIMITS)
def test_the_largest_numbers_of_float32(tmp_path: Path, name: str, num: int) -> None:
    """As of a few Gaussians of a training that has diverged."""
    gaussians, largest = make_gaussians(num, 1), np.finfo(np.float32).max
    for row, values in enumerate((gaussians.scales, gaussians.sh0, gaussians.shN, gaussians.quats)):
        values[40 * row : 40 * row + 20] = largest
        values[40 * row + 20 : 40 * row + 40] = -largest
    if not name.startswith("spz"):  # which says that it has no room for such centres
        gaussians.means[200:240] = largest
        gaussians.means[240:280] = -largest
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        formats.write(tmp_path / f"a.{name}", gaussians)
        found = formats.read(tmp_path / f"a.{name}")
    assert len(found) == num
    assert found.means.min() == pytest.approx(float(gaussians.means.min()), rel=1e-4)


@pytest.mark.parametrize("name", ["glb", "splat"])
def test_the_smallest_sizes_come_back(tmp_path: Path, name: str) -> None:
    """Formats with standard deviations, the logarithms of which no format bounds; that of zero is made up."""
    gaussians = make_gaussians(9, 0)
    gaussians.scales[:] = np.linspace(-80, 80, 27).reshape(9, 3)
    formats.write(tmp_path / f"a.{name}", gaussians)
    found = formats.read(tmp_path / f"a.{name}")
    assert np.allclose(np.sort(found.scales.ravel()), gaussians.scales.ravel(), rtol=1e-5)


@pytest.mark.parametrize("name", LIMITS)
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"a.{name}"
    formats.write(path, make_gaussians(50, 1))
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        formats.write(path, make_gaussians(60, 1))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


# --------------------------------------------------------------------------------------------------------- registry


def test_the_longest_suffix_decides(tmp_path: Path) -> None:
    found = [formats.find_format(name).name for name in ("A.PLY", "a.compressed.ply", "b.Sog", "x/meta.json", "c.spz")]
    assert found == ["ply", "compressed.ply", "sog", "sog", "spz"]
    with pytest.raises(FormatError, match=r"a\.txt: no splat format has this suffix.*\.ply, \.compressed\.ply, "):
        formats.find_format("a.txt")
    with pytest.raises(FormatError, match=r"no splat format 'obj', expected one of: ply, compressed\.ply"):
        formats.find_format("a.ply", "obj")


def test_the_name_of_a_format_goes_before_the_suffix(tmp_path: Path) -> None:
    formats.write(tmp_path / "odd.bin", make_gaussians(5), "spz")
    assert len(formats.read(tmp_path / "odd.bin", "spz")) == 5
    with pytest.raises(FormatError, match="is not a PLY file"):
        formats.read(tmp_path / "odd.bin", "ply")


def test_unknown_options(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="'spz' has no option colour; it has version, axes"):
        formats.write(tmp_path / "a.spz", make_gaussians(5), colour=1)
    with pytest.raises(FormatError, match="version of SPZ is 5, expected one of: 2, 3"):
        formats.write(tmp_path / "a.spz", make_gaussians(5), version=5)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", LIMITS)
def test_missing_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match=r"none.*cannot be read: No such file"):
        formats.read(tmp_path / f"none.{name}")


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("written", LIMITS)
def test_the_wrong_content_for_the_suffix(tmp_path: Path, name: str, written: str) -> None:
    """One message; only ordinary PLY files may be compressed ones as well, and GLB files have SPZ in them or not."""
    if name == written or (name, written) == ("ply", "compressed.ply") or {name, written} == {"glb", "spz.glb"}:
        return
    formats.write(tmp_path / f"a.{written}", make_gaussians(31, 1))
    (tmp_path / f"a.{written}").rename(tmp_path / f"b.{name}")
    with pytest.raises(FormatError, match=r"b\."):
        formats.read(tmp_path / f"b.{name}")


def test_a_format_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    formats.all_formats()
    monkeypatch.setattr(registry_module, "_FORMATS", dict(registry_module._FORMATS))

    def write(path: Path, gaussians: Gaussians, options: Any) -> None:
        np.save(path.open("wb"), gaussians.means)

    def read(path: Path) -> Gaussians:
        means = np.load(path)
        return make_gaussians(len(means), 0)

    formats.register(SplatFormat("mine", (".mine",), "For us alone.", read, write))
    model = SplatModel(**make_tensors(4))
    model.save(tmp_path / "a.mine")
    assert len(SplatModel.load(tmp_path / "a.mine")) == 4
    assert "mine" in formats.format_names()
    with pytest.raises(ValueError, match="lower case"):
        formats.register(SplatFormat("mine", (".MINE",), "", read, write))
    with pytest.raises(ValueError, match=r"^the suffixes of the format 'mine' are '\.mine', expected \('\.mine',\)\.$"):
        formats.register(SplatFormat("mine", (".mine"), "", read, write))  # type: ignore[arg-type]


def test_models_keep_their_mode(tmp_path: Path) -> None:
    model = SplatModel(**make_tensors(4), render_mode="mip")
    model.save(tmp_path / "a.spz", version=2)
    assert SplatModel.load(tmp_path / "a.spz").render_mode == "mip"
