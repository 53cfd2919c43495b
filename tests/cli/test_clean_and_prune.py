"""``splatkit clean`` and ``splatkit prune`` as people call them, in this process."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splatkit_ns import formats
from splatkit_ns.cleaning.weights import Seen
from splatkit_ns.cli import _cleaning, _pruning
from splatkit_ns.formats import Gaussians
from splatkit_ns.plugin.loading import load_run
from splatkit_ns.splat import read_checkpoint, write_checkpoint
from tests.cli.helpers import refused, run
from tests.formats.helpers import make_gaussians


def number(pattern: str, text: str) -> float:
    """The number that a pattern finds in a report."""
    found = re.search(pattern, text)
    assert found is not None, text
    return float(found[1].replace(",", ""))


def run_file(made_run: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> Gaussians:
    """The Gaussians of a run, also written as a file."""
    status, text = run(capsys, "export", "--load-config", made_run, "--output", path, "--measure", "0")
    assert status == 0, text
    return formats.read(path)


@pytest.fixture
def dirty_run(made_run: Path, tmp_path: Path) -> Path:
    """A copy of the run with 1 NaN, 300 Gaussians above the cameras, and 100 too faint to be drawn."""
    shutil.copytree(made_run.parent, tmp_path / "run")
    (path,) = (tmp_path / "run" / "nerfstudio_models").glob("*59.ckpt")
    checkpoint = read_checkpoint(path)
    weights = checkpoint["pipeline"]
    key = "_model.gauss_params.{}".format
    weights[key("means")][0, 0] = np.nan
    weights[key("means")][1:301, 2] = 50  # above all cameras, which look down
    weights[key("opacities")][301:401] = -8
    write_checkpoint(path, checkpoint)
    return tmp_path / "run" / "config.yml"


def test_a_run_is_cleaned_of_what_no_photograph_needs(
    dirty_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in dirty_run.parent.rglob("*") if path.is_file()}
    outputs = tmp_path / "a.ply", tmp_path / "a.spz"
    status, text = run(
        capsys, "clean", "--load-config", dirty_run, "--output", *outputs, "--min-cluster", "0", "--min-opacity", "0",
        "--weight-share", "0",
    )  # fmt: skip
    assert status == 0, text
    assert "1 Gaussian(s) NaN or infinite" in text
    unseen = number(r"([\d,]+) Gaussian\(s\) of the least weight, 0 of all, in the photographs", text)
    assert 400 <= unseen < 1500, "the 300 and 100, and what else is hidden"
    left = number(r"([\d,]+) of 3,000 Gaussians are left", text)
    assert left == 3000 - 1 - unseen
    assert all(len(formats.read(path)) == left for path in outputs)
    assert number(r"after \(([-+][\d.]+)\)", text) == pytest.approx(0, abs=0.001), "nothing that was seen is gone"
    assert {path: path.read_bytes() for path in before} == before
    status, text = run(capsys, "clean", "--load-config", dirty_run, "--output", tmp_path / "b.ply")
    assert status == 0, text
    assert 5 < number(r"PSNR of 4 held-out photograph\(s\): ([\d.]+) dB before", text) < 50
    assert number(r"([\d,]+) Gaussian\(s\) of an opacity below 0.00392", text) == 100
    assert number(r"([\d,]+) of 3,000 Gaussians are left", text) < left
    assert abs(number(r"after \(([-+][\d.]+)\)", text)) < 0.05


@dataclass
class Priced:
    """Views for which each Gaussian is worth so many dB."""

    worth: float

    def psnr(self, gaussians: Gaussians) -> float:
        return 30 + self.worth * len(gaussians)


@pytest.mark.parametrize(
    ("worth", "share", "count"),
    [(0.0, 0.0003, 300), (1e-4, 0.0003, 300), (2e-4, 0.00015, 150), (2e-3, 0.0003 / 16, 18), (1e-2, 0.0, 0)],
)
def test_what_photographs_hardly_need_goes_as_far_as_it_costs_little(worth: float, share: float, count: int) -> None:
    """Half of a thousand Gaussians have a millionth of the weight each, and one of the others has gone."""
    weights = torch.full((1000,), (1 - 500e-6) / 500)
    weights[:500] = 1e-6
    gone = np.arange(1000) == 999
    seen = Seen(weights, torch.ones(1000, dtype=torch.bool))
    views: Any = Priced(worth)
    found, mask, after = _cleaning._unneeded(make_gaussians(1000), gone, seen, None, views)
    assert found == share
    assert mask.sum() == pytest.approx(count, abs=1)
    assert not mask[500:].any()
    assert after in (None, views.psnr(make_gaussians(int((~(gone | mask)).sum()))))
    found, mask, _ = _cleaning._unneeded(make_gaussians(1000), gone, seen, 0.0005, views)
    assert found == 0.0005
    assert mask.sum() == pytest.approx(500, abs=1), "what the user gives is done"


def test_a_file_is_cleaned_without_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dense ball, three floaters, one of them NaN, one a needle."""
    ball = make_gaussians(400)
    ball.means[:] = np.random.default_rng(0).normal(0, 0.1, (400, 3))
    ball.scales[:] = np.log(0.04)
    ball.means[:3] = [[3, 0, 0], [0, 3, 0], [0, 0, 3]]
    ball.scales[3] = np.log([0.5, 0.02, 0.02])
    ball.opacities[:] = 1
    ball.opacities[4] = -9
    path = tmp_path / "in.ply"
    formats.write(path, ball)
    content = bytearray(path.read_bytes())
    np.frombuffer(content, "<f4", offset=len(content) - 400 * 248).reshape(400, 62)[2, 6] = np.nan
    path.write_bytes(content)
    advice = "Leave them out with splatkit clean (--min-cluster 0 --min-opacity 0 keeps all others)"
    assert advice in refused(capsys, "convert", path, tmp_path / "x.spz")
    arguments = ["--input", path, "--output", tmp_path / "others.ply", "--min-cluster", "0", "--min-opacity", "0"]
    assert "399 of 400 Gaussians are left" in run(capsys, "clean", *arguments)[1]
    status, text = run(capsys, "clean", "--input", path, "--output", tmp_path / "a.ply", "--max-elongation", "20")
    assert status == 0, text
    assert "1 Gaussian(s) NaN or infinite" in text
    assert "1 Gaussian(s) of an opacity below 0.00392" in text
    assert "1 Gaussian(s) more than 20 times as long as wide" in text
    assert "PSNR" not in text
    kept = formats.read(tmp_path / "a.ply")
    assert np.abs(kept.means).max() < 1
    assert 380 < len(kept) <= 395
    assert path.read_bytes() == content
    status, text = run(
        capsys, "clean", "--input", path, "--output", tmp_path / "b.ply", "--min-cluster", "0", "--sphere", "0", "0",
        "3", "3.5", "--box", "-1", "-1", "-1", "1", "4", "1", "--max-size", "0.1",
    )  # fmt: skip
    assert status == 0, text
    assert "1 Gaussian(s) outside the box" in text
    assert "1 Gaussian(s) outside the sphere" in text
    assert "1 Gaussian(s) larger than 0.1" in text
    assert len(formats.read(tmp_path / "b.ply")) == 400 - 5


def test_a_file_with_its_run(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run's cameras look at the file's Gaussians."""
    whole = run_file(made_run, tmp_path / "whole.ply", capsys)
    formats.write(tmp_path / "part.ply", whole.take(np.arange(2000)))
    status, text = run(
        capsys, "clean", "--load-config", made_run, "--input", tmp_path / "part.ply", "--output", tmp_path / "a.ply"
    )
    assert status == 0, text
    assert "of 2,000 Gaussians are left" in text
    assert len(formats.read(tmp_path / "a.ply")) < 2000
    (tmp_path / "part.ply.offset.json").write_text('{"offset": [1, 2, 3]}')
    text = refused(
        capsys, "clean", "--load-config", made_run, "--input", tmp_path / "part.ply", "--output", tmp_path / "b.ply"
    )
    assert "has an offset, so it is not in the run's frame" in text


def test_mistakes_of_clean(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "in.ply"
    formats.write(path, make_gaussians(50))
    content = path.read_bytes()
    output = tmp_path / "a.ply"
    text = refused(
        capsys, "clean", "--output", output, "--weight-share", "1", "--max-elongation", "1", "--box", "0", "0", "0",
        "1", "0", "1", "--sphere", "0", "0", "0", "-1",
    )  # fmt: skip
    assert "5 option(s) cannot be used" in text
    assert "neither --load-config nor --input is given" in text
    text = refused(
        capsys, "clean", "--input", path, "--output", output, "--box", "nan", "0", "0", "1", "1", "1", "--sphere", "0",
        "nan", "0", "1",
    )  # fmt: skip
    assert "2 option(s) cannot be used" in text
    text = refused(capsys, "clean", "--input", path, "--output", output, "--weight-share", "0.1", "--load-step", "3")
    assert "--weight-share is for a run: add --load-config" in text
    assert "--load-step is for a run: add --load-config" in text
    text = refused(capsys, "clean", "--input", path, "--output", path, "--overwrite")
    assert "is the file that is read" in text
    text = refused(capsys, "clean", "--input", path, "--output", output, "--sphere", "99", "0", "0", "1")
    assert "Nothing is left" in text
    bad = bytearray(content)
    np.frombuffer(bad, "<f4", offset=len(bad) - 50 * 248).reshape(50, 62)[:, 0] = np.nan
    (tmp_path / "bad.ply").write_bytes(bad)
    text = refused(capsys, "clean", "--input", tmp_path / "bad.ply", "--output", output)
    assert "Nothing is left: all Gaussians are NaN" in text
    assert path.read_bytes() == content
    assert not output.exists()


def test_photographs_that_were_trained_on_are_not_called_held_out(
    made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yml"
    path.write_text(made_run.read_text().replace("eval_mode: interval", "eval_mode: all"))
    (tmp_path / "nerfstudio_models").symlink_to(made_run.parent / "nerfstudio_models")
    status, text = run(capsys, "prune", "--load-config", path, "--to", "2,000", "--output", tmp_path / "a.ply")
    assert status == 0, text
    assert re.search(r"PSNR of \d+ training photograph\(s\): ", text)


def test_pruning_keeps_those_that_are_shown_most(
    made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run_file(made_run, tmp_path / "whole.ply", capsys)
    sizes = {"50%": 1500, "10%": 300, "2,000": 2000}
    losses: dict[str, float] = {}
    for to, count in sizes.items():
        path = tmp_path / f"{count}.ply"
        status, text = run(capsys, "prune", "--load-config", made_run, "--output", path, "--to", to)
        assert status == 0, text
        assert f"{count:,} of 3,000 Gaussians are kept" in text
        kept = formats.read(path)
        assert len(kept) == count
        losses[to] = number(r"after \(([-+][\d.]+)\)", text)
        rows = {row.tobytes() for row in whole.means}
        assert all(row.tobytes() in rows for row in kept.means), "the same Gaussians"
    assert losses["10%"] < losses["50%"] <= losses["2,000"] + 0.01
    pipeline = load_run(made_run, device="cpu").pipeline
    from splatkit_ns.cli._measuring import HeldOutViews

    views = HeldOutViews(pipeline, None)
    by_chance = whole.take(np.random.default_rng(0).permutation(3000)[:1500])
    assert views.psnr(by_chance) - views.psnr(whole) < losses["50%"] - 1


def test_mistakes_of_prune(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("prune", "--load-config", made_run, "--output", tmp_path / "a.ply", "--to")
    for to in ("0", "-3", "many", "101%", "2.5", "nan", "inf", "%"):
        text = refused(capsys, *arguments, to)
        assert f"--to is '{to}', expected a whole number above 0, or a share such as 25%" in text
    for size in ("10", "MB", "-1MB", "0MB", "10 litres"):
        text = refused(capsys, *arguments[:-1], "--size", size)
        assert f"--size is '{size}', expected a size such as 10MB or 500KB" in text
    assert "--to and --size: neither is given" in refused(capsys, *arguments[:-1])
    text = refused(capsys, *arguments, "5", "--size", "1MB", "--refine", "-1")
    assert "--to and --size: both are given" in text
    assert "--refine is -1" in text
    bad = make_gaussians(5)
    bad.scales[:] = 100
    formats.write(tmp_path / "bad.ply", bad)
    text = refused(capsys, *arguments[:-1], "--input", tmp_path / "bad.ply", "--size", "1MB")
    assert "Nothing is left: all Gaussians are NaN or infinite." in text
    assert not (tmp_path / "a.ply").exists()


def test_pruning_to_a_size(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All files are as large as they may be, nearly, and hold those that are shown most."""
    arguments = ("prune", "--load-config", made_run)
    status, text = run(capsys, *arguments, "--size", "200kB", "--output", tmp_path / "a.ply")
    assert status == 0, text
    count = number(r"([\d,]+) of 3,000 Gaussians are kept", text)
    size = (tmp_path / "a.ply").stat().st_size
    assert 0.98 * 200_000 < size <= 200_000
    run(capsys, *arguments, "--to", str(int(count)), "--output", tmp_path / "b.ply")
    assert (tmp_path / "b.ply").read_bytes() == (tmp_path / "a.ply").read_bytes()
    outputs = tmp_path / "a.spz", tmp_path / "a.splat"
    status, text = run(capsys, *arguments, "--size", "30 KiB", "--output", *outputs)
    assert status == 0, text
    sizes = [path.stat().st_size for path in outputs]
    assert 0.97 * 30 * 1024 < max(sizes) <= 30 * 1024
    assert len(formats.read(outputs[0])) == len(formats.read(outputs[1]))
    several = tmp_path / "d.ply", tmp_path / "d.compressed.ply", tmp_path / "sog" / "meta.json"
    status, text = run(capsys, *arguments, "--size", "150kB", "--output", *several)
    assert status == 0, text
    assert 0.98 * 150_000 < several[0].stat().st_size <= 150_000, "the largest file counts, whatever its name ends in"
    text = refused(capsys, *arguments, "--size", "100B", "--output", tmp_path / "c.ply")
    assert "--size is 100 bytes, and a file of 1 Gaussian(s) is larger" in text
    assert not (tmp_path / "c.ply").exists()


@pytest.mark.parametrize(
    ("limit", "told"),
    [(("--size", "1GB"), "--size is 1GB, and they fit"), (("--to", "4000"), "--to is 4000")],
)
def test_where_there_are_no_more_all_are_written(
    made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: tuple[str, str], told: str
) -> None:
    """A script that prunes many runs goes on at those that are small enough already."""
    whole = run_file(made_run, tmp_path / "whole.ply", capsys)
    status, text = run(capsys, "prune", "--load-config", made_run, *limit, "--output", tmp_path / "all.ply")
    assert status == 0, text
    assert f"All 3,000 Gaussians are kept: {told}" in text
    assert "(+0.000)" in text
    np.testing.assert_array_equal(formats.read(tmp_path / "all.ply").means, whole.means)


def test_refinement_makes_up_for_pruning(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in made_run.parent.rglob("*") if path.is_file()}
    arguments = ("prune", "--load-config", made_run, "--to", "20%", "--output")
    status, text = run(capsys, *arguments, tmp_path / "a.ply")
    assert status == 0, text
    plain = number(r"dB before, ([\d.]+) dB after", text)
    status, text = run(capsys, *arguments, tmp_path / "new" / "b.ply", "--refine", "40")
    assert status == 0, text
    assert number(r"dB before, ([\d.]+) dB after", text) == plain
    assert "Refining them for 40 step(s)" in text
    assert ".refinement" not in text, "a folder that will be deleted is no news"
    refined = number(r"([\d.]+) dB after 40 step\(s\) of refinement", text)
    assert refined > plain + 1
    pruned, trained = formats.read(tmp_path / "a.ply"), formats.read(tmp_path / "new" / "b.ply")
    assert len(trained) == len(pruned) == 600
    moved = np.linalg.norm(trained.means - pruned.means, axis=1)
    assert 0 < np.median(moved) < 0.05, "the same Gaussians, a little elsewhere"
    assert not np.allclose(trained.sh0, pruned.sh0)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["b.ply"], "nothing temporary is left"
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_that_trains_on_may_have_deleted_the_checkpoint(
    made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made_run.parent, tmp_path / "run")
    monkeypatch.setattr(
        _pruning, "leave_out_not_finite", lambda *_: shutil.rmtree(tmp_path / "run" / "nerfstudio_models")
    )
    status, text = run(
        capsys, "prune", "--load-config", tmp_path / "run" / "config.yml", "--to", "20%", "--refine", "2", "--output",
        tmp_path / "a.ply",
    )  # fmt: skip
    assert status == 0, text
    assert len(formats.read(tmp_path / "a.ply")) == 600


def test_refinement_imports_only_modules_that_are_trusted(
    made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_module.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copytree(made_run.parent, tmp_path / "run")
    config = tmp_path / "run" / "config.yml"
    text = config.read_text()
    assert text.count("own: !!python/tuple []") == 1
    config.write_text(text.replace("own: !!python/tuple []", "own: !!python/tuple ['evil_module:Part']"))
    arguments = ("prune", "--load-config", config, "--to", "20%", "--output", tmp_path / "a.ply", "--refine", "2")
    text = refused(capsys, *arguments)
    assert "with its module(s) evil_module:Part" in text
    assert "add --trust evil_module" in text
    assert not (tmp_path / "ran").exists()
    text = refused(capsys, *arguments, "--trust", "evil_module")
    assert "evil_module has no 'Part'" in text
    assert (tmp_path / "ran").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".refinement")]
