"""``splatkit info`` as people call it, in this process."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splatkit_ns import formats
from splatkit_ns.cli import main
from splatkit_ns.formats import usable_format_names
from splatkit_ns.formats.gaussians import LOG_THICKNESS
from tests.cli.helpers import refused, run
from tests.formats.helpers import make_discs, make_gaussians


def figures(capsys: pytest.CaptureFixture[str], *paths: Path) -> list[dict[str, Any]]:
    capsys.readouterr()  # warnings of those who wrote the files
    assert main(["info", *map(str, paths), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = make_gaussians(200, 2)
    names = list(usable_format_names())
    paths = [tmp_path / f"a.{name}" for name in names]
    for path in paths:
        formats.write(path, original)
    found = figures(capsys, *paths)
    assert [entry["format"] for entry in found] == names
    versions = {entry["format"]: entry["version"] for entry in found}
    assert versions.pop("usd", "crate") == "crate"  # needs usd-core
    assert versions == {
        "ply": "1.0, binary_little_endian", "compressed.ply": "1.0, binary_little_endian", "glb": "2.0", "sog": "2",
        "splat": "", "spz": "3", "spz.glb": "2.0, with SPZ",
    }  # fmt: skip
    for entry, path in zip(found, paths, strict=True):
        assert (entry["gaussians"], entry["non_finite"]) == (200, 0)
        assert entry["sh_degree"] == (0 if entry["format"] == "splat" else 2)
        assert entry["bytes"] == path.stat().st_size
        assert np.allclose(entry["bounding_box"]["min"], original.means.min(axis=0), atol=0.01)
        assert np.allclose(entry["bounding_box"]["max"], original.means.max(axis=0), atol=0.01)
    exact = found[0]
    opacities = 1 / (1 + np.exp(-original.opacities))
    assert exact["opacity"]["median"] == pytest.approx(np.median(opacities), rel=1e-6)
    assert exact["faint"] == pytest.approx((opacities < 1 / 255).mean())
    assert exact["scale"]["max"] == pytest.approx(np.exp(original.scales.max()), rel=1e-6)


def test_a_sog_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As its ``meta.json`` is described, and not taken for the folder of a run."""
    formats.write(tmp_path / "a.sog", make_gaussians(200, 1))
    with zipfile.ZipFile(tmp_path / "a.sog") as archive:
        archive.extractall(tmp_path / "scene")
    folder, meta = figures(capsys, tmp_path / "scene", tmp_path / "scene" / "meta.json")
    assert (folder["format"], folder["gaussians"]) == ("sog", 200)
    assert folder | {"file": meta["file"]} == meta


def test_rows_of_parts_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = {"features": np.zeros((5, 8), np.float32), "label": np.zeros(5, np.float32)}
    path = tmp_path / "a.ply"
    formats.write(path, dataclasses.replace(make_gaussians(5), extra=extra))
    assert figures(capsys, path)[0]["extra_rows"] == {"features": [8], "label": []}
    assert "extra rows features (8), label from" in run(capsys, "info", path)[1]
    formats.write(path, make_gaussians(5))
    assert figures(capsys, path)[0]["extra_rows"] == {}
    assert "extra rows" not in run(capsys, "info", path)[1]


def test_versions_and_encodings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    formats.write(tmp_path / "a.spz", make_gaussians(5), version=2)
    formats.write(tmp_path / "b.ply", make_gaussians(5), encoding="ascii")
    found = figures(capsys, tmp_path / "a.spz", tmp_path / "b.ply")
    assert [entry["version"] for entry in found] == [
        "2",
        "1.0, ascii",
    ]


def test_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    discs = make_discs(1234)
    discs.scales[:] = [-3, -3, LOG_THICKNESS]
    discs.scales[:617, 1] = -6
    formats.write(tmp_path / "a.ply", discs)
    status, text = run(capsys, "info", tmp_path / "a.ply")
    assert status == 0
    assert "1,234, discs (2D Gaussian Splatting)" in text
    assert "308 KB, 249 bytes a Gaussian" in text
    assert "50.0% needles" in text, "discs are no needles, but long ones are"
    assert "median 0.0498" in text


def test_values_that_are_not_finite_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Readers refuse such a file; here is where to see why."""
    whole = make_gaussians(50)
    formats.write(tmp_path / "a.ply", whole)
    content = bytearray((tmp_path / "a.ply").read_bytes())
    rows = np.frombuffer(content, "<f4", offset=len(content) - 50 * 248).reshape(50, 62)
    rows[7, 0], rows[9, 61] = np.nan, np.inf
    (tmp_path / "b.ply").write_bytes(content)
    (entry,) = figures(capsys, tmp_path / "b.ply")
    assert (entry["gaussians"], entry["non_finite"]) == (50, 2)
    kept = np.delete(whole.means, [7, 9], axis=0)
    assert np.allclose(entry["bounding_box"]["max"], kept.max(axis=0))
    rows[:, 3:] = np.nan
    (tmp_path / "b.ply").write_bytes(content)
    (entry,) = figures(capsys, tmp_path / "b.ply")
    assert entry["non_finite"] == 50
    assert entry["bounding_box"] is None
    status, text = run(capsys, "info", tmp_path / "b.ply")
    assert status == 0
    assert "not finite 50" in text


def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The others are described all the same."""
    formats.write(tmp_path / "a.ply", make_gaussians(5))
    (tmp_path / "b.spz").write_text("no")
    text = refused(capsys, "info", *(tmp_path / name for name in ("none.ply", "a.ply", "b.spz", "c.txt", "d.ckpt")))
    assert "5, 3D Gaussians" in text
    assert "No such file" in text
    assert "is not an SPZ file" in text
    assert "d.ckpt is a checkpoint, not a file of Gaussians" in text
    assert "c.txt: no splat format has this suffix" in text
    assert "Name at least one file" in refused(capsys, "info")
    assert "cannot be read: File name too long" in refused(capsys, "info", f"{'x' * 300}.ply")


def test_a_run(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, "info", made_run)
    assert status == 0
    for part in (
        "method splatkit-3dgs-adc, up to 60 steps",
        "of step 40, 59, as",
        "no objects but those of nerfstudio",
    ):
        assert part in text
    assert figures(capsys, made_run)[0]["checkpoint_steps"] == [40, 59]
    (tmp_path / "config.yml").write_text(made_run.read_text() + "x: !!python/object/apply:os.system [ls]\n")
    assert "it names 'os.system' (line" in refused(capsys, "info", tmp_path / "config.yml")
    text = refused(capsys, "info", made_run.parent).replace("\n", " ")
    assert f"Its config is {made_run}" in text
    assert "--load-config" not in text, "which this command has not"


def test_a_config_that_was_edited_by_hand(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, text = tmp_path / "config.yml", made_run.read_text()
    path.write_text(text.replace("    sh_degree: 3", "    sh_degree: three\n    sh_degre: 2"))
    status, printed = run(capsys, "info", path)
    assert status == 0
    assert "that do not exist, and so do not count: pipeline.model.sh_degre (did you mean sh_degree?)." in printed
    assert len(figures(capsys, path)[0]["notes"]) == 1
    (tmp_path / "nerfstudio_models").symlink_to(made_run.parent / "nerfstudio_models")
    message = refused(capsys, "export", "--load-config", path, "--output", tmp_path / "a.ply")
    assert f"{path} cannot be used: pipeline.model.sh_degree is 'three', expected 0, 1, 2 or 3" in message
