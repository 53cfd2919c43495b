"""A learnt sky in runs: resumed with the same bits, the same in evaluations, and in exported files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from splatkit_ns import formats
from splatkit_ns.cli import main
from splatkit_ns.plugin.loading import load_run
from splatkit_ns.renderer import Splat3DGSRenderer
from tests.plugin.step.test_trainables import resumed_is_the_same


def test_a_run_with_a_sky_is_resumed_opened_evaluated_and_exported(tiny_scene: Path, tmp_path: Path) -> None:
    whole = resumed_is_the_same(tiny_scene, tmp_path, renderer=Splat3DGSRenderer(sky_degree=1))
    model = whole.pipeline.model
    assert float(model.renderer.sky.detach().abs().max()) > 0
    config = whole.base_dir / "config.yml"
    config.write_text(yaml.dump(whole.config))
    opened: Any = load_run(config, device="cpu").pipeline.model
    assert torch.equal(opened.renderer.sky, model.renderer.sky)
    of_run = [image.metrics for image in model.context.data_provider.evaluate()]
    assert of_run == [image.metrics for image in opened.context.data_provider.evaluate()]
    files = {number: tmp_path / f"{number}.ply" for number in (0, 500)}
    for number, path in files.items():
        arguments = ["--load-config", config, "--output", path, "--sky", number, "--measure", "0"]
        assert main(["export", *map(str, arguments)]) == 0
    without, with_sky = formats.read(files[0]), formats.read(files[500])
    assert len(with_sky) == len(without) + 500
    assert (with_sky.means[: len(without)] == without.means).all()
    distances = torch.from_numpy(with_sky.means[len(without) :]).norm(dim=1)
    assert float(distances.min()) > 5 * float(torch.from_numpy(without.means).norm(dim=1).median())
