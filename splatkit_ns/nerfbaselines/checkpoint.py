"""The checkpoint of a method in NerfBaselines: a folder with the Gaussians and what else a render needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splatkit_ns.cameras import View
from splatkit_ns.errors import SplatkitError
from splatkit_ns.nerfbaselines.dataset import PINHOLE
from splatkit_ns.plugin.run.checkpoints.weights import PARTS, without_unknown_parts
from splatkit_ns.plugin.run.opaque_parts import instance
from splatkit_ns.plugin.trainer import SplatkitTrainerConfig
from splatkit_ns.splat import read_checkpoint

DESCRIPTION, CHECKPOINT = "splatkit.json", "model.ckpt"
"""The files of the folder."""


@dataclass(frozen=True)
class Description:
    """The content of ``splatkit.json``."""

    method: str
    overrides: dict[str, Any]
    """The options that differ from the method's: place in the config -> value."""
    step: int
    """The number of steps that have been trained."""
    num_iterations: int
    sh_degree: int
    """The degree up to which spherical harmonics are used after this step."""
    background: list[float]
    transform: list[list[float]]
    """(3, 4), from the data set's frame to that of training, before `scale`."""
    scale: float


def read_description(folder: Path, method: str) -> Description:
    """Read the description of a checkpoint.

    Args:
        folder: of the checkpoint.
        method: the name of the method that opens it.

    Raises:
        SplatkitError: there is none that can be read, or it is of another method.
    """
    path = folder / DESCRIPTION
    try:
        found = Description(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise SplatkitError(f"{path} cannot be read: {error}. Expected a checkpoint of a splatkit method.") from error
    if found.method != method:
        raise SplatkitError(f"{path} is of the method {found.method}, expected one of {method}.")
    return found


def view_of(camera: Any, description: Description) -> View:
    """A camera of the data set's frame in that of training.

    Raises:
        SplatkitError: it is no pinhole camera.
    """
    if int(camera.camera_models) != PINHOLE:
        raise SplatkitError("The camera is no pinhole camera, and only those are drawn.")
    pose, transform = np.eye(4), np.eye(4)
    pose[:3] = np.asarray(camera.poses, np.float64)[:3, :4]
    transform[:3] = description.transform
    pose = transform @ pose
    pose[:3, 3] *= description.scale
    fl_x, fl_y, cx, cy = (float(value) for value in camera.intrinsics)
    width, height = (int(size) for size in camera.image_sizes)
    K = torch.tensor([[[fl_x, 0, cx], [0, fl_y, cy], [0, 0, 1]]])
    return View(torch.from_numpy(pose).float()[None], K, width, height)


def trained_renderer(config: SplatkitTrainerConfig, checkpoint: Path, device: str) -> Any:
    """The renderer of a run with its parameters as they have been trained, such as a sky.

    Args:
        config: of the run.
        checkpoint: the file ``model.ckpt``.
        device: for the parameters.

    Raises:
        SplatkitError: a parameter has another shape than the run's options give it.
    """
    renderer: Any = instance(config.pipeline.model.renderer)
    own = {f"{renderer.module_name}.{name}": found.parameter for name, found in renderer.trainables().items()}
    if own:
        stored = read_checkpoint(checkpoint)["pipeline"]
        weights = {key.removeprefix("_model."): value for key, value in stored.items()}
        fitting = without_unknown_parts(weights, own, {})
        for name, parameter in own.items():
            parameter.data = fitting[PARTS + name].to(device)
    return renderer
