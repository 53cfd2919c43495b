"""The cameras of a run's data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from splatkit_ns.cameras import View
from splatkit_ns.plugin.data.cameras import lens_views


def data_cameras(pipeline: Any, split: Literal["train", "test"]) -> tuple[list[View], list[Path]]:
    """The cameras of the photographs that were trained on or held out, and the photographs' files.

    Args:
        pipeline: of the run, set to evaluation.
        split: which ones.
    """
    manager = pipeline.datamanager
    dataset = manager.train_dataset if split == "train" else manager.eval_dataset
    cameras = dataset.cameras.to(pipeline.device)
    return list(lens_views(cameras)), list(dataset.image_filenames)
