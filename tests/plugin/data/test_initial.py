"""Gaussians that are made only to be replaced by a checkpoint's cost nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from splatkit_ns.errors import SplatkitError
from splatkit_ns.methods import splatkit_3dgs
from splatkit_ns.plugin.data.initial import initial_gaussians, one_gaussian
from splatkit_ns.plugin.loading import load_run
from splatkit_ns.splat import SplatModel, initialization
from splatkit_ns.splat.schema import KEYS
from tests.plugin.helpers import make_pipeline, make_trainer, run_config
from tests.splat.helpers import make_tensors
from tests.tiny_scene import tiny_gaussians

BOX: Any = SimpleNamespace(aabb=torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
SEEDS = (torch.randn(50, 3), torch.randint(0, 256, (50, 3)).byte())


@pytest.fixture
def no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks for neighbours fails, and so does who reads a PLY file."""
    monkeypatch.setattr(initialization, "cKDTree", None)
    monkeypatch.setattr(initialization, "formats", None)


@pytest.mark.parametrize("source", ["seed points", "random", "random, asked for", "ply"])
def test_the_stand_in_has_the_shapes_of_what_a_run_starts_with(source: str, tmp_path: Path) -> None:
    made = initial_gaussians(make_config(tmp_path, source), None if source == "random" else SEEDS, BOX)
    assert len(made["means"]) == {"ply": 5, "seed points": 50}.get(source, 200)
    before = torch.get_rng_state()
    stand_in = one_gaussian(sh_degree=3)
    assert torch.equal(torch.get_rng_state(), before), "it draws nothing from the global generator"
    assert len(stand_in["means"]) == 1
    assert [stand_in[name].shape[1:] for name in KEYS] == [made[name].shape[1:] for name in KEYS]


def make_config(tmp_path: Path, source: str) -> Any:
    config = run_config(tmp_path).pipeline.model
    config.num_random, config.random_init = 200, source == "random, asked for"
    if source == "ply":
        config.init_ply = tmp_path / "splat.ply"
        SplatModel(**make_tensors(5)).save_ply(config.init_ply)
    return config


@pytest.mark.parametrize("test_mode", ["test", "inference"])
@pytest.mark.usefixtures("no_search")
def test_a_pipeline_to_look_at_searches_for_no_neighbours(tiny_scene: Path, test_mode: str) -> None:
    model = make_pipeline(tiny_scene, test_mode).model
    assert model.num_points == 1
    assert model.is_stand_in


def test_a_pipeline_to_train_has_its_gaussians(tiny_scene: Path) -> None:
    model = make_pipeline(tiny_scene).model
    assert model.num_points == len(tiny_gaussians())
    assert not model.is_stand_in


def test_opened_and_resumed_runs_have_the_checkpoints_gaussians(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(tiny_scene, tmp_path, steps=2, method=splatkit_3dgs)
    config.save_config()
    first = make_trainer(config)
    first.train()
    monkeypatch.setattr(initialization, "cKDTree", None)
    run = load_run(first.base_dir / "config.yml", device="cpu")
    assert run.pipeline.model.num_points == first.pipeline.model.num_points
    again = run_config(tiny_scene, tmp_path / "again", steps=3, method=splatkit_3dgs)
    again.load_dir = first.checkpoint_dir
    trainer: Any = make_trainer(again)
    model = trainer.pipeline.model
    assert not model.is_stand_in
    assert all(torch.equal(model.gauss_params[name], first.pipeline.model.gauss_params[name]) for name in KEYS)
    trainer.train()
    counts = [each.pipeline.model.densification.number_at_start for each in (first, trainer)]
    assert counts == [len(tiny_gaussians())] * 2


def test_a_checkpoint_of_another_kind_is_refused_in_one_message(tiny_scene: Path, tmp_path: Path) -> None:
    first = make_trainer(run_config(tiny_scene, tmp_path, steps=1))
    first.train()
    config = run_config(tiny_scene, tmp_path / "again")
    config.load_dir = first.checkpoint_dir
    config.pipeline.model.sh_degree = 1
    with pytest.raises(SplatkitError, match="shN has shape"):
        make_trainer(config)
