"""A run that is opened when its data set has other photographs than it was trained on."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from splatkit_ns.plugin.data.checks.placement import note_if_opened_elsewhere
from splatkit_ns.plugin.loading import load_run
from splatkit_ns.plugin.reporting.console import collected_notes
from tests.plugin.data.sampling.test_sampler_state import manager
from tests.plugin.step.part_runs import config_of, train

NOTE = "otherwise than when this run was trained"


@pytest.mark.parametrize(("moved", "told"), [({}, 0), ({"shift": 1e-5}, 0), ({"shift": 0.1}, 1), ({"scale": 0.6}, 1)])
def test_a_placement_that_differs_by_more_than_rounding_is_told(
    moved: dict[str, Any], told: int, tmp_path: Path
) -> None:
    outputs = manager().train_dataparser_outputs
    content = {"transform": outputs.dataparser_transform.tolist(), "scale": outputs.dataparser_scale}
    (tmp_path / "dataparser_transforms.json").write_text(json.dumps(content))
    with collected_notes() as notes:
        note_if_opened_elsewhere(manager(**moved), tmp_path)
    assert len([note for note in notes if NOTE in note]) == len(notes) == told


@pytest.mark.parametrize(
    "content", [None, "", "[]", "{}", '{"transform": 1, "scale": 1}', '{"transform": [], "scale": 1}']
)
def test_without_the_placement_of_the_run_nothing_is_told(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "dataparser_transforms.json").write_text(content)
    with collected_notes() as notes:
        note_if_opened_elsewhere(manager(), tmp_path)
    assert notes == []


def test_a_photograph_that_is_removed_after_training_is_told(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By our commands, and by nerfstudio's, which make the pipeline themselves: it moves all cameras."""
    data = Path(shutil.copytree(tiny_scene, tmp_path / "data"))
    trainer = train(config_of(data, tmp_path / "out"))
    path = trainer.base_dir / "config.yml"
    path.write_text(yaml.dump(trainer.config))
    for told in (False, True):
        monkeypatch.setattr(sys, "argv", ["/bin/splatkit", "export"])
        with collected_notes() as notes:
            load_run(path, device="cpu")
        assert any(NOTE in note for note in notes) == told
        monkeypatch.setattr(sys, "argv", ["/bin/ns-eval", "--load-config", str(path)])
        with collected_notes() as notes:
            trainer.config.pipeline.setup(device=torch.device("cpu"), test_mode="test")
        assert any(NOTE in note for note in notes) == told
        meta = json.loads((data / "transforms.json").read_text())
        del meta["frames"][1]
        (data / "transforms.json").write_text(json.dumps(meta))
