"""Row parameters beyond the six: from a training state into a model, a file, and back into training."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from splatkit_ns.splat import SplatModel, SplatTrainingState
from splatkit_ns.splat.initialization import gaussians_from_file
from splatkit_ns.splat.optimizers import EXTRA_LEARNING_RATE
from tests.splat.helpers import make_tensors


def extra_rows(num: int = 6) -> dict[str, Tensor]:
    values = torch.randn(num, 9, generator=torch.Generator().manual_seed(3))
    return {"features": values[:, :8], "weight": values[:, 8]}


def make_state(num: int = 6) -> SplatTrainingState:
    rates = {"features": 0.01, "weight": 0.1}
    return SplatTrainingState.from_tensors({**make_tensors(num), **extra_rows(num)}, learning_rates=rates)


def save(path: Path) -> Path:
    SplatModel(**make_tensors(6), extra=extra_rows()).save_ply(path)
    return path


def test_from_training_into_a_file_and_back(tmp_path: Path) -> None:
    state = make_state()
    model = state.to_splat_model("mip")
    state.params["features"].data += 1  # the model is a copy
    model.save(tmp_path / "a.ply")
    again = SplatModel.load(tmp_path / "a.ply")
    assert again.render_mode == "mip"
    assert list(again.extra) == ["features", "weight"]
    trained = again.to_training_state({"weight": 0.25, "means": 0.5})
    assert trained.params.keys() == state.params.keys()
    for name, rows in extra_rows().items():
        assert torch.equal(again.extra[name], rows)
        assert torch.equal(trained.params[name], rows)
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in trained.optimizers.items()}
    assert (rates["weight"], rates["means"], rates["features"]) == (0.25, 0.5, EXTRA_LEARNING_RATE)
    trained.duplicate(torch.tensor([True] + [False] * 5))
    assert torch.equal(trained.params["features"][6], extra_rows()["features"][0])


def test_a_state_for_rendering_has_them() -> None:
    shown = make_state().to_splat_model().for_rendering()
    assert torch.equal(shown.params["features"], extra_rows()["features"])
    assert not shown.params["features"].requires_grad


def test_rates_for_rows_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"learning_rates names \['depth'\]"):
        make_state().to_splat_model().to_training_state({"depth": 0.1})


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'a' must have shape \(6, \.\.\.\).*found \(5, 2\)"):
        SplatModel(**make_tensors(6), extra={"a": torch.zeros(5, 2)})
    with pytest.raises(ValueError, match="found 'quats'"):
        SplatModel(**make_tensors(6), extra={"quats": torch.zeros(6)})


def test_a_start_takes_the_rows_that_are_declared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "a.ply")
    with caplog.at_level(logging.WARNING):
        found = gaussians_from_file(path, 1, {"features": (8,), "weight": (), "another": (2,)})
    assert not caplog.records
    assert set(found) == {*make_tensors(1), *extra_rows()}
    assert all(torch.equal(found[name], rows) for name, rows in extra_rows().items())


def test_a_start_names_the_rows_that_it_ignores(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "a.ply")
    with caplog.at_level(logging.WARNING):
        found = gaussians_from_file(path, 1, {"features": (4,)})
    assert set(found) == set(make_tensors(1))
    assert len(caplog.records) == 1
    text = caplog.records[0].getMessage()
    assert "'features' of shape (8,), expected (4,); 'weight' of shape ()" in text
