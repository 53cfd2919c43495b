"""The data's part of a checkpoint: the order in which images are drawn, their number, and where the scene lies."""

from __future__ import annotations

from typing import Any

import numpy as np

from splatkit_ns.plugin.data.checks.placement import is_same_placement, placement
from splatkit_ns.plugin.reporting.console import report_once


def sampler_state(manager: Any) -> dict[str, Any]:
    """The state of a datamanager's image sampler, as numbers that a checkpoint can hold."""
    state: dict[str, Any] = {
        "train_unseen_cameras": [int(i) for i in manager.train_unseen_cameras],
        "eval_unseen_cameras": [int(i) for i in manager.eval_unseen_cameras],
        "num_images": len(manager.train_dataset),
        "image_names": _image_names(manager),
        "placement": placement(manager),
        **manager.work.state(),
    }
    if hasattr(manager, "random_generator"):
        version, numbers, gauss = manager.random_generator.getstate()
        state["random_generator"] = [version, list(numbers), gauss]
    if hasattr(manager, "train_unsampled_epoch_count"):  # of the strategy "fps", which also uses numpy's generator
        state["train_unsampled_epoch_count"] = [float(count) for count in manager.train_unsampled_epoch_count]
    return state


def load_sampler_state(manager: Any, state: dict[str, Any]) -> None:
    """Let a datamanager go on drawing from a state of `sampler_state`.

    With another number of images they are drawn anew, with a note. There is also a note if as many images have other
    names, and if the scene is placed otherwise than in the run of the state, so that its Gaussians do not lie where the
    cameras look.

    Raises:
        ValueError: the state is not one of `sampler_state`.
    """
    train, evaluation = list(state["train_unseen_cameras"]), list(state["eval_unseen_cameras"])
    if not train or not all(isinstance(i, int) and i >= 0 for i in [*train, *evaluation]):
        raise ValueError(f"the sampler's images must be a list of indices, found {train!r:.60}")
    _note_if_placed_otherwise(manager, state)
    num, counts = len(manager.train_dataset), state.get("train_unsampled_epoch_count")
    if state.get("num_images", num) != num or max(train) >= num or (counts is not None and len(counts) != num):
        report_once("The checkpoint was trained on another number of images than there are now: they are drawn anew.")
        return
    _note_if_named_otherwise(manager, state)
    manager.train_unseen_cameras = train
    manager.work.load_state(state)
    if evaluation and max(evaluation) < len(manager.eval_dataset):
        manager.eval_unseen_cameras = evaluation
    if "random_generator" in state and hasattr(manager, "random_generator"):
        version, numbers, gauss = state["random_generator"]
        manager.random_generator.setstate((version, tuple(numbers), gauss))
    if counts is not None and hasattr(manager, "train_unsampled_epoch_count"):
        manager.train_unsampled_epoch_count = np.array(counts, dtype=np.float64)


def _note_if_placed_otherwise(manager: Any, state: dict[str, Any]) -> None:
    theirs = state.get("placement")  # checkpoints of earlier versions have neither this nor the number of images
    if theirs is not None and not is_same_placement(placement(manager), theirs):
        report_once(
            "The scene is turned, moved or scaled otherwise than in the run of the checkpoint, so its Gaussians may "
            "lie elsewhere. This is another data set, or it has other images, or other options of the dataparser."
        )


def _note_if_named_otherwise(manager: Any, state: dict[str, Any]) -> None:
    names = _image_names(manager)
    changed = [pair for pair in zip(state.get("image_names", names), names, strict=False) if len(set(pair)) == 2]
    if changed:
        report_once(
            f"Of the images that the checkpoint was trained on, {len(changed)} of {len(names)} have other names now, "
            f"such as {changed[0][1]} in place of {changed[0][0]}. If they are other photographs, what was learnt for "
            "each, as its exposure or its camera's correction, is now that of another: start a new run."
        )


def _image_names(manager: Any) -> list[str]:
    return [path.name for path in manager.train_dataset.image_filenames]
