"""The registered methods, as pyproject.toml names them."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.plugins.types import MethodSpecification

from splatkit_ns.densification import (
    SplatBudgetDensification,
    SplatDefaultDensification,
    SplatFittingDensification,
    SplatMCMCDensification,
)
from splatkit_ns.plugin.model import SplatkitModel

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
ENTRY_POINTS: dict[str, str] = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"][
    "nerfstudio.method_configs"
]


def method(name: str) -> MethodSpecification:
    module, attribute = ENTRY_POINTS[name].split(":")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_each_is_a_specification_of_its_name(name: str) -> None:
    specification = method(name)
    assert isinstance(specification, MethodSpecification)
    assert specification.config.method_name == name
    assert specification.description
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert specification.config.machine.device_type == expected


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_configs_survive_yaml_and_pickle(name: str) -> None:
    """nerfstudio stores the first, and its workers use the second."""
    config: Any = method(name).config
    for copy in (yaml.load(yaml.dump(config), Loader=yaml.Loader), pickle.loads(pickle.dumps(config))):
        assert copy == config


DENSIFICATIONS = {
    "splatkit-2dgs": SplatBudgetDensification,
    "splatkit-3dgs": SplatFittingDensification,
    "splatkit-3dgs-fast": SplatFittingDensification,
    "splatkit-3dgs-big": SplatFittingDensification,
    "splatkit-3dgs-small": SplatBudgetDensification,
    "splatkit-3dgs-adc": SplatDefaultDensification,
    "splatkit-3dgs-mcmc": SplatMCMCDensification,
}


def test_each_has_its_densification() -> None:
    configs: dict[str, Any] = {name: method(name).config for name in ENTRY_POINTS}
    found = {name: type(config.pipeline.model.densification) for name, config in configs.items()}
    assert found == DENSIFICATIONS


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_densification_ends_before_the_run_does(name: str) -> None:
    """What was added or moved last has to be trained, too."""
    config: Any = method(name).config
    assert config.pipeline.model.densification.refine_stop_iter <= 5 / 6 * config.max_num_iterations


def test_viewer_and_exporter_take_the_model_for_their_own() -> None:
    assert issubclass(SplatkitModel, SplatfactoModel)


def test_options_that_a_stored_config_lacks_get_their_defaults() -> None:
    config: Any = method("splatkit-3dgs-adc").config
    text = yaml.dump(config)
    lines = text.splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if line.startswith("    renderer:"))
    end = next(i for i, line in enumerate(lines) if i > start and not line.startswith("      "))
    old: Any = yaml.load("".join(lines[:start] + lines[end:]), Loader=yaml.Loader)
    assert "renderer" in text
    assert old.pipeline.model.renderer == config.pipeline.model.renderer
