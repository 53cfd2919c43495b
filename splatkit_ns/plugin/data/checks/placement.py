"""A data set's place in the frame of training, beside its place when a run was trained.

nerfstudio places a scene by its cameras, so other photographs in the folder also move those that are the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from splatkit_ns.plugin.reporting.console import report_once

_SAME_PLACE = 1e-3
"""The largest difference, relative and absolute, of numbers of the same placement that was computed twice."""


def placement(manager: Any) -> list[float]:
    """The turn and shift (3, 4) of the data set's poses into the frame of training, row by row, and then the scale."""
    outputs = manager.train_dataparser_outputs
    return [*outputs.dataparser_transform.flatten().tolist(), float(outputs.dataparser_scale)]


def is_same_placement(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Whether two results of `placement` differ by no more than rounding.

    Raises:
        ValueError: one of them is no such result.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"placements of other shapes: {len(ours)} numbers, found {len(theirs)}")
    return np.allclose(ours, theirs, rtol=_SAME_PLACE, atol=_SAME_PLACE)


def note_if_opened_elsewhere(manager: Any, folder: Path) -> None:
    """Print a note if the data set of a run that is opened lies elsewhere than when the run was trained.

    Args:
        manager: the datamanager of the opened run.
        folder: the run's folder; without a ``dataparser_transforms.json`` that can be read there is no note.
    """
    try:
        stored = json.loads((folder / "dataparser_transforms.json").read_text("utf-8"))
        theirs = [float(number) for row in stored["transform"] for number in row] + [float(stored["scale"])]
        is_same = is_same_placement(placement(manager), theirs)
    except (OSError, ValueError, TypeError, KeyError):
        return
    if not is_same:
        report_once(
            "The scene is turned, moved or scaled otherwise than when this run was trained, so the cameras do not see "
            "what the Gaussians show: metrics, renders of the data set's cameras and the place of exports are wrong. "
            "Photographs have been added to the data set or removed, or it is another one. Open the run with the data "
            "that it was trained on."
        )
