"""A learnt sky in runs: resumed with the same bits, the same in evaluations, and in exported files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from splatkit_ns import formats
from splatkit_ns.cli import main
from splatkit_ns.renderer import Splat3DGSRenderer
from tests.plugin.step.part_runs import opened_is_the_same, resumed_is_the_same


def test_a_run_with_a_sky_is_resumed_opened_evaluated_and_exported(
    tiny_scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = resumed_is_the_same(tiny_scene, tmp_path, renderer=Splat3DGSRenderer(sky_degree=1))
    model = whole.pipeline.model
    assert float(model.renderer.sky.detach().abs().max()) > 0
    assert torch.equal(opened_is_the_same(whole).renderer.sky, model.renderer.sky)
    config = whole.base_dir / "config.yml"
    files = {number: tmp_path / f"{number}.ply" for number in (0, 500)}
    for number, path in files.items():
        arguments = ["--load-config", config, "--output", path, "--sky", number, "--measure", "0"]
        assert main(["export", *map(str, arguments)]) == 0
    without, with_sky = formats.read(files[0]), formats.read(files[500])
    assert len(with_sky) == len(without) + 500
    assert (with_sky.means[: len(without)] == without.means).all()
    distances = torch.from_numpy(with_sky.means[len(without) :]).norm(dim=1)
    assert float(distances.min()) > 5 * float(torch.from_numpy(without.means).norm(dim=1).median())
    for source, is_told in (([], True), (["--input", files[500]], False)):
        capsys.readouterr()
        arguments = ["--load-config", config, "--output", tmp_path / f"{is_told}.ply", "--to", "50%", *source]
        assert main(["prune", *map(str, arguments)]) == 0
        assert ("The sky of the run is left out" in capsys.readouterr().out) is is_told
