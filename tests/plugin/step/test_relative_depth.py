"""Relative depth that is exact makes the surfaces of few photographs better, also where no photograph was taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from splatkit_ns.data_provider import NerfstudioDataProvider
from splatkit_ns.plugin.data.cameras import pinhole_view
from splatkit_ns.renderer import RenderOptions
from splatkit_ns.trainer import SplatTrainer, SplatTrainerConfig
from tests.made_scene import write_made_scene

DEPTH = {"depth_kind": "inverse", "depth_lambda": 1.0}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every second of twelve photographs for training, each with inverse depth of a scale and shift of its own."""
    folder = tmp_path_factory.mktemp("few") / "scene"
    write_made_scene(folder, num_views=12, width=64, height=48, num_points=150, depth=True)
    meta = json.loads((folder / "transforms.json").read_text())
    for number, frame in enumerate(meta["frames"]):
        depth = np.asarray(Image.open(folder / frame["depth_file_path"])).astype(float)
        known = depth > 0
        values = (5000 + 700 * number) + (2e7 - 1e6 * number) / np.where(known, depth, 1)
        frame["depth_file_path"] = f"inverse/{number}.png"
        (folder / "inverse").mkdir(exist_ok=True)
        Image.fromarray(np.where(known, values, 0).astype(np.uint16)).save(folder / frame["depth_file_path"])
    names = [frame["file_path"] for frame in meta["frames"]]
    meta |= {"train_filenames": names[::2], "val_filenames": names[1::2], "test_filenames": names[1::2]}
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


def wrong_depths(scene: Path, output: Path, settings: dict[str, Any]) -> float:
    """The share of the pixels of held-out photographs whose depth is wrong by more than a tenth."""
    config = SplatTrainerConfig(
        method="splatkit-3dgs-fast",
        max_steps=300,
        output_dir=output,
        device="cpu",
        lpips=False,
        settings={
            "pipeline.model.densification.pixels_per_gaussian": 15.0,
            **{f"pipeline.model.loss_fn.{name}": value for name, value in settings.items()},
        },
    )
    result = SplatTrainer(config, NerfstudioDataProvider(scene)).run()
    data: Any = result.run_model.context.data_provider
    data = data.datamanager
    scale, wrong = data.train_dataparser_outputs.dataparser_scale, list[float]()
    for number, path in enumerate(data.eval_dataset.image_filenames):
        true = np.asarray(Image.open(scene / "depth" / path.name)).astype(np.float32) / 1000
        view = pinhole_view(data.eval_dataset.cameras[number : number + 1])
        with torch.no_grad():
            out = result.run_model.renderer.render(result.training_state, view, RenderOptions(render_mode="RGB+ED"))
        found = out.depths_expected[0, ..., 0].numpy() / scale
        wrong.append(float((np.abs(found - true) > 0.1 * true)[true > 0].mean()))
    return float(np.mean(wrong))


def test_exact_relative_depth_makes_surfaces_better(scene: Path, tmp_path: Path) -> None:
    exact, none = wrong_depths(scene, tmp_path / "with", DEPTH), wrong_depths(scene, tmp_path / "without", {})
    assert exact < none / 2
