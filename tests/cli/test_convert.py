"""``splatkit convert`` as people call it, in this process."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from splatkit_ns import formats
from splatkit_ns.cli import COMMANDS
from splatkit_ns.formats import Gaussians, usable_format_names
from splatkit_ns.formats.offset_files import read_offset
from tests.cli.helpers import refused, run
from tests.formats.helpers import errors, make_discs, make_gaussians


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A PLY file of 500 Gaussians, alone in its folder."""
    path = tmp_path / "in" / "scene.ply"
    formats.write(path, make_gaussians(500))
    return path


def test_every_format_to_every_other_one(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = [tmp_path / f"a.{name}" for name in usable_format_names()]
    status, text = run(capsys, "convert", scene, *first)
    assert status == 0, text
    base = scene.stat().st_size
    for path in first:
        assert f"{path}: " in text
        assert len(formats.read(path)) == 500
    ratio = base / (tmp_path / "a.spz").stat().st_size
    assert f"500 Gaussians, 1 / {ratio:.3g} the size of scene.ply" in text
    assert "500 Gaussians, the size of scene.ply" in text
    assert "times the size" not in text
    for path in first:
        to = [tmp_path / "to" / path.name / f"b.{name}" for name in usable_format_names()]
        status, text = run(capsys, "convert", path, *to)
        assert status == 0, text
        found = errors(formats.read(to[0]), make_gaussians(500))
        assert found["means"] < 0.01
        assert found["opacities"] < 0.005
        assert found["degrees"] < (10 if path.name == "a.spz.glb" else 2), "SPZ of version 2 has coarse rotations"
    assert scene.stat().st_size == base
    assert errors(formats.read(tmp_path / "to" / "a.glb" / "b.ply"), make_gaussians(500))["shN"] < 1e-6


def test_folders_of_sog(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sog"
    status, text = run(capsys, "convert", scene, folder / "meta.json")
    assert status == 0, text
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert f"{size / 1000:.3g} KB" in text, "all files of the folder count"
    assert f"{size / 1000:.3g} KB" in run(capsys, "convert", scene, tmp_path / "other" / "META.JSON")[1]
    status, text = run(capsys, "convert", folder, tmp_path / "b.ply")
    assert status == 0, text
    assert "times the size of sog" in text


def test_turning_scaling_and_less_sh(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def converted(*options: str, source: Path = scene) -> Gaussians:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.ply"
        status, text = run(capsys, "convert", source, path, *options)
        assert status == 0, text
        return formats.read(path)

    original = make_gaussians(500)
    x, y, z = original.means.T
    assert np.allclose(converted("--up", "y").means, np.stack([x, z, -y], axis=1))
    assert np.allclose(converted("--up", "minus-y").means, np.stack([x, -z, y], axis=1))
    assert np.allclose(converted("--up", "z").means, np.stack([x, -z, y], axis=1)), "y was up"
    large = converted("--scale", "2")
    assert np.allclose(large.means, 2 * original.means)
    assert np.allclose(large.scales, original.scales + np.log(2))
    assert np.array_equal(large.shN, original.shN)
    fewer = converted("--sh-degree", "1")
    assert np.array_equal(fewer.shN, original.shN[:, :3])
    assert np.array_equal(fewer.means, original.means)
    y_up = tmp_path / "y_up.ply"
    formats.write(y_up, converted("--up", "y"))
    back = errors(converted("--up", "z", source=y_up), original)
    assert max(back[key] for key in ("means", "shN", "scales")) < 1e-5


def test_rotating_and_translating(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In this order, after --up and --scale."""
    x, y, z = make_gaussians(500).means.T
    options = ["--up", "y", "--scale", "2", "--rotate", "90", "0", "90", "--translate", "1", "-2", "3.5"]
    status, text = run(capsys, "convert", scene, tmp_path / "a.ply", *options)
    assert status == 0, text
    # --up: (x, z, -y); about x: (x, y, z); about z: (-y, x, z)
    moved = np.stack([-2 * y + 1, 2 * x - 2, 2 * z + 3.5], axis=1)
    assert np.allclose(formats.read(tmp_path / "a.ply").means, moved, atol=1e-5)
    assert not (tmp_path / "a.ply.offset.json").exists()
    status, text = run(capsys, "convert", tmp_path / "a.ply", tmp_path / "b.ply", "--rotate", "0", "0", "-90")
    assert status == 0, text
    back = ["--scale", "0.5", "--translate", "1", "0.5", "-1.75"]
    status, text = run(capsys, "convert", tmp_path / "b.ply", tmp_path / "c.ply", *back)
    assert status == 0, text
    found = errors(formats.read(tmp_path / "c.ply"), make_gaussians(500))
    assert max(found[key] for key in ("means", "shN", "scales")) < 1e-5
    text = refused(
        capsys, "convert", scene, tmp_path / "d.ply", "--rotate", "nan", "0", "0", "--translate", "0", "0", "inf"
    )
    assert "2 option(s) cannot be used" in text
    assert "expected three finite numbers" in text


def test_a_large_translation_goes_beside_the_file(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Added to an offset that is there already, and rounding no centre."""
    first, second = tmp_path / "a.ply", tmp_path / "b.ply"
    status, text = run(capsys, "convert", scene, first, "--translate", "500000", "4000000", "7.25")
    assert status == 0, text
    assert "a.ply.offset.json: the offset of its coordinates" in text
    status, text = run(capsys, "convert", first, second, "--scale", "2", "--translate", "1", "2", "3")
    assert status == 0, text
    offset, _ = read_offset(second)
    assert offset is not None
    wanted = 2 * (make_gaussians(500).means + np.array([500000, 4000000, 7.25])) + [1, 2, 3]
    assert np.allclose(formats.read(second).means + offset, wanted, rtol=0, atol=1e-5)


def test_discs_stay_discs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    formats.write(tmp_path / "a.ply", make_discs(100))
    status, text = run(capsys, "convert", tmp_path / "a.ply", tmp_path / "b.sog", tmp_path / "c.glb", "--up", "y")
    assert status == 0, text
    assert {formats.read(tmp_path / name).render_mode for name in ("b.sog", "c.glb")} == {"2dgs"}


def test_nothing_is_overwritten_unless_told(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.spz"
    mine.write_text("mine")
    text = refused(capsys, "convert", scene, tmp_path / "new.spz", mine)
    assert f"{mine} exists; name another file, or add --overwrite" in text
    assert mine.read_text() == "mine"
    assert not (tmp_path / "new.spz").exists(), "the other output is not written either"
    status, text = run(capsys, "convert", scene, mine, "--overwrite")
    assert status == 0, text
    assert len(formats.read(mine)) == 500


def test_the_input_is_never_overwritten(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = scene.read_bytes()
    link = tmp_path / "link.ply"
    link.symlink_to(scene)
    for path in (scene, link, scene.parent / ".." / "in" / "scene.ply"):
        text = refused(capsys, "convert", scene, path, "--overwrite", "--sh-degree", "0")
        assert "is the file that is read; name another one" in text
    assert scene.read_bytes() == content


def test_all_mistakes_are_told_together(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder.spz").mkdir()
    text = refused(
        capsys, "convert", scene, tmp_path / "a.xyz", tmp_path / "a.spz", tmp_path / "a.spz", tmp_path / "folder.spz",
        scene / "below.ply", tmp_path / f"{'a' * 300}.ply",
    )  # fmt: skip
    assert "5 option(s) cannot be used" in text
    assert "a.xyz: no splat format has this suffix, expected a name that ends in one of: .ply, " in text
    assert "a.spz is named twice" in text
    assert "folder.spz is a folder; expected a file" in text
    assert f"{scene} is a file, not a folder" in text

    assert "File name too long" in text
    assert not (tmp_path / "a.spz").exists()
    text = refused(capsys, "convert", scene, tmp_path / "a.spz", "--scale", "0", "--sh-degree", "4")
    assert "--scale is 0.0, expected a number above 0" in text
    assert "--sh-degree is 4" in text
    assert "OUTPUT names no file" in refused(capsys, "convert", scene)


@pytest.mark.parametrize("command", ["export", "clean", "prune"])
def test_a_folder_that_cannot_be_written_is_found_before_a_run_is_opened(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    """Nobody can make files in /proc."""
    to = ["--to", "50%"] if command == "prune" else []
    arguments = ["--load-config", tmp_path / "missing.yml", "--output", "/proc/new/a.ply", *to]
    assert "--output: the folder /proc/new cannot be written: " in refused(capsys, command, *arguments)


def test_inputs_that_cannot_be_read(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out" / "a.spz"
    assert "No such file" in refused(capsys, "convert", tmp_path / "none.ply", output)
    wrong = tmp_path / "wrong.spz"
    wrong.write_bytes(scene.read_bytes())
    assert "is not an SPZ file" in refused(capsys, "convert", wrong, output)
    bad = make_gaussians(50)
    bad.means[3] = np.nan
    torn = tmp_path / "torn.ply"
    torn.write_bytes(scene.read_bytes()[:-7])
    assert "is truncated" in refused(capsys, "convert", torn, output)
    assert "no splat format has this suffix" in refused(capsys, "convert", tmp_path, output)
    assert not output.parent.exists()


def test_no_space(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second file does not fit: its old one stays, and so does the first."""
    old = tmp_path / "b.spz"
    old.write_text("old")
    real, count = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count > 5:  # the checks of three folders, the first file and its folder
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    text = refused(capsys, "convert", scene, tmp_path / "a.ply", old, tmp_path / "c.ply", "--overwrite")
    assert f"{old}: cannot write the file: No space left on device" in text
    assert old.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ply", "b.spz", "in"]
    assert len(formats.read(tmp_path / "a.ply")) == 500


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_there_at_once(command: str) -> None:
    """It imports neither the formats nor what takes longer."""
    code = (
        f"import sys; sys.argv = ['splatkit', *'{command}'.split(), '--help']\n"
        "from splatkit_ns.cli import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'nerfstudio', 'numpy', 'PIL', 'splatkit_ns.formats'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout


def test_a_checkpoint_whose_data_are_gone(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same file as splatkit export writes, which needs the data."""
    status, text = run(
        capsys, "export", "--load-config", made_run, "--output", tmp_path / "e.ply", "--device", "cpu", "--measure", "0"
    )
    assert status == 0, text
    copy = tmp_path / "copy"
    shutil.copytree(made_run.parent, copy)
    config = copy / "config.yml"
    gone = ["--load-config", config, "--output", tmp_path / "f.ply", "--device", "cpu", "--data", tmp_path / "gone"]
    text = refused(capsys, "export", *gone)
    assert "gone does not exist" in text
    assert "Without data: splatkit convert CHECKPOINT.ckpt" in text
    checkpoint = sorted((copy / "nerfstudio_models").glob("*.ckpt"))[-1]
    status, text = run(capsys, "convert", checkpoint, tmp_path / "c.ply")
    assert status == 0, text
    assert "sky" not in text
    assert (tmp_path / "c.ply").read_bytes() == (tmp_path / "e.ply").read_bytes()

    config.write_text(config.read_text().replace("rasterize_mode: classic", "rasterize_mode: antialiased"))
    assert run(capsys, "convert", checkpoint, tmp_path / "d.ply")[0] == 0
    assert formats.read(tmp_path / "d.ply").render_mode == "mip"
    config.unlink()
    status, text = run(capsys, "convert", checkpoint, tmp_path / "g.ply")
    assert (status, formats.read(tmp_path / "g.ply").render_mode) == (0, "default"), text
    assert "There is no" in text
    assert "written as 3D Gaussians, not as the discs of splatkit-2dgs" in text


def test_a_sky_stays_in_the_checkpoint(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(made_run.parent, tmp_path / "copy")
    config = tmp_path / "copy" / "config.yml"
    config.write_text(re.sub(r"sky_degree: null", "sky_degree: 1", config.read_text()))
    checkpoint = sorted((tmp_path / "copy/nerfstudio_models").glob("*.ckpt"))[-1]
    status, text = run(capsys, "convert", checkpoint, tmp_path / "c.ply")
    assert status == 0, text
    assert "The run has learnt a sky, which is left out" in text
