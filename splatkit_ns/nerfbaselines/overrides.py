"""The config of a run of NerfBaselines: a method's, with the options that the program passes."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.data_provider import NerfstudioDataProvider
from splatkit_ns.errors import SplatkitError
from splatkit_ns.methods import find_method
from splatkit_ns.nerfbaselines.dataset import colour
from splatkit_ns.plugin.options.setting import OptionError, set_option
from splatkit_ns.plugin.trainer import SplatkitTrainerConfig


def by_place(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their place in a config, such as ``pipeline.model.sh_degree``.

    Args:
        overrides: options as ``ns-train`` names them -> values; text is read as a Python literal if it is one.
    """
    return {name.removeprefix("--").replace("-", "_"): _value(value) for name, value in overrides.items()}


def _value(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def method_config(name: str, overrides: Mapping[str, Any]) -> SplatkitTrainerConfig:
    """A copy of a method's config, with other values of options.

    Args:
        name: of the method.
        overrides: see `by_place`.

    Raises:
        SplatkitError: there is no such method or option.
    """
    config: Any = deepcopy(find_method(name).config)
    for place, value in overrides.items():
        try:
            set_option(config, place, value)
        except OptionError as error:
            raise SplatkitError(f"{place}{error}") from error
    return config


def use_folder(config: Any, folder: Path, data: Path, background: Any) -> None:
    """Let a run train on files, in a folder that is to be deleted, and leave all that NerfBaselines does to it.

    Args:
        config: of the run; changed.
        folder: for the run's own folder.
        data: the folder that `write_dataset` has filled.
        background: the colour of the data set; see `colour`.

    Raises:
        SplatkitError: the background is neither black nor white.
    """
    manager = NerfstudioDataProvider(data, eval_mode="all").datamanager_config()
    config.pipeline.datamanager.dataparser, config.pipeline.datamanager.data = manager.dataparser, data
    config.pipeline.model.background_color = _named(colour(background))
    config.output_dir, config.experiment_name, config.timestamp = folder, "run", "run"
    config.vis, config.held_out, config.save_only_latest_checkpoint = "none", False, True
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    config.steps_per_save = 0
    config.logging.local_writer.enable, config.logging.profiler = False, "none"


def _named(background: NDArray[np.float64]) -> Literal["black", "white"]:
    if np.allclose(background, 0):
        return "black"
    if np.allclose(background, 1):
        return "white"
    raise SplatkitError(f"The data set's background colour is {background.tolist()}, expected black or white.")
