"""The coordinate frames of a scene: of training, of the data set's files, and of COLMAP before these were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.utils.io import load_from_json
from numpy.typing import NDArray

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.data.scenes.transforms import transforms_file

DoubleArray = NDArray[np.float64]

OLD_COLMAP = "colmap/sparse/0"
"""The COLMAP model that ``ns-process-data`` left beside transforms.json before it wrote seed points."""
OLD_APPLIED_TRANSFORM = [[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]]
"""The transform of ``ns-process-data`` before it wrote any into transforms.json."""


def frame_to_training(datamanager: Any, frame: Literal["dataset", "world"]) -> tuple[DoubleArray, float]:
    """The transform from another frame into that of training.

    nerfstudio's dataparser reports its own transform and that of ``ns-process-data`` as one. This function separates
    them: the file transforms.json has the second one, x_dataset = applied_scale (applied_transform x_world). Data sets
    of other formats have no second transform, so the two frames are the same.

    Args:
        datamanager: the datamanager of a run; its dataparser has been used.
        frame: dataset, the frame of the poses and points in the data set's files; or world, COLMAP's frame.

    Returns:
        A transform (3, 4) and a scale: x_training = scale (transform x_frame).

    Raises:
        SplatkitError: transforms.json has no such transform that can be undone.
    """
    outputs = datamanager.train_dataparser_outputs
    whole = outputs.dataparser_transform.double().cpu().numpy()
    scale = float(outputs.dataparser_scale)
    applied, applied_scale = _applied_move(datamanager.config.dataparser)
    # nerfstudio multiplies both scales, but transforms by the applied transform alone
    to_training = whole @ np.linalg.inv(applied)
    if frame == "dataset":
        return to_training, scale / applied_scale
    shift = to_training[:, :3] @ applied[:3, 3] + to_training[:, 3] / applied_scale
    return np.column_stack([to_training[:, :3] @ applied[:3, :3], shift]), scale


def _applied_move(parser: Any) -> tuple[DoubleArray, float]:
    """The transform of poses before they were written into transforms.json: a matrix (4, 4) and a scale."""
    whole = np.eye(4)
    if not isinstance(parser, NerfstudioDataParserConfig):
        return whole, 1.0
    path = Path(parser.data)
    meta: Any = load_from_json(transforms_file(path))
    default = OLD_APPLIED_TRANSFORM if (path / OLD_COLMAP).exists() else np.eye(4)[:3]
    try:
        whole[:3] = np.asarray(meta.get("applied_transform", default), np.float64)[:3]
        scale = float(meta.get("applied_scale", 1.0))
    except (TypeError, ValueError) as error:
        raise SplatkitError(f"{path}: applied_transform or applied_scale cannot be read: {error}.") from error
    if not (np.isfinite(whole).all() and abs(np.linalg.det(whole)) > 1e-9 and 0 < scale < np.inf):
        raise SplatkitError(
            f"{path}: applied_transform or applied_scale cannot be undone: {whole[:3].tolist()}, {scale}."
        )
    return whole, scale
