"""Runs of earlier releases still load: the paths of config classes are frozen from the first release on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.scripts import train
from nerfstudio.utils.eval_utils import eval_setup

from splatkit_ns.plugin.model import SplatkitModel
from splatkit_ns.splat import SplatTrainingState

RUNS = sorted(path for path in (Path(__file__).parents[1] / "data").glob("v*") if path.is_dir())


@pytest.fixture(params=RUNS, ids=lambda path: path.name)
def old_run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is expected of the run; its copy is the current folder."""
    shutil.copytree(request.param, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return json.loads(Path("expected.json").read_text())


def test_there_is_a_run_of_the_first_release() -> None:
    assert [path.name for path in RUNS][:1] == ["v0.1.0"]


def test_it_evaluates_as_it_did(old_run: dict[str, Any]) -> None:
    _, pipeline, _, step = eval_setup(Path(old_run["config"]))
    assert isinstance(pipeline.model, SplatkitModel)
    assert step == old_run["step"]
    assert pipeline.model.num_points == old_run["num_gaussians"]
    metrics = pipeline.get_average_eval_image_metrics()
    assert metrics["psnr"] == pytest.approx(old_run["psnr"], abs=0.05)
    assert metrics["ssim"] == pytest.approx(old_run["ssim"], abs=0.005)


def test_it_trains_on(old_run: dict[str, Any]) -> None:
    config = yaml.load(Path(old_run["config"]).read_text(), Loader=yaml.Loader)
    config.load_dir = config.get_checkpoint_dir()
    config.max_num_iterations = old_run["step"] + 3
    config.timestamp = "resumed"
    train.main(config)
    (saved,) = config.get_checkpoint_dir().glob("*.ckpt")
    assert torch.load(saved, weights_only=True)["step"] == old_run["step"] + 2


def test_its_checkpoint_is_a_training_state(old_run: dict[str, Any]) -> None:
    (path,) = Path(old_run["config"]).parent.rglob("*.ckpt")
    state = SplatTrainingState.from_ckpt(path)
    assert len(state) == old_run["num_gaussians"]
    moments = state.optimizers["means"].state[state.params["means"]]
    assert int(moments["step"]) == old_run["step"] + 1
