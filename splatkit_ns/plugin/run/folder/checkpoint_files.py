"""The checkpoint files of a folder: their names, the newest that is whole, and writing one."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from splatkit_ns.errors import SplatkitError
from splatkit_ns.files import quoted
from splatkit_ns.splat import CheckpointError, read_checkpoint, write_checkpoint

FILE_NAME = re.compile(r"step-(\d+)\.ckpt")
MODEL_DIR = "nerfstudio_models"
"""The name of nerfstudio's folder for checkpoints, within a run's folder."""
KEPT = 2
"""The number of checkpoints that stay if only the latest is wanted: one more, in case the newest is damaged."""

logger = logging.getLogger("splatkit_ns")


def newest_readable(folder: Path, step: int | None) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint of a folder that is whole, or that of one step.

    Raises:
        SplatkitError: there is none.
    """
    found = paths = checkpoint_paths(folder)
    if step is not None:
        paths = [path for path in found if step_of(path) == step]
    for path in reversed(paths):
        try:
            return path, read_checkpoint(path)
        except CheckpointError as error:
            logger.warning("%s It is skipped.", error)
    which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
    hint = f" Did you mean {folder / MODEL_DIR}?" if not paths and (folder / MODEL_DIR).is_dir() else ""
    if found and not paths:
        hint = f" It has those of step {', '.join(str(step_of(path)) for path in found)}: the first step is 0."
    raise SplatkitError(f"There is {which} that can be read in {folder} (files named step-000001999.ckpt).{hint}")


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints of a folder in the order of their steps, whatever their times; other files are ignored."""
    try:
        return sorted((path for path in folder.glob("step-*.ckpt") if FILE_NAME.fullmatch(path.name)), key=step_of)
    except OSError:  # no folder can have this name, such as one that is too long
        return []


def describe_last_checkpoint(folder: Path) -> str:
    """A sentence that says which checkpoint a folder holds."""
    paths = checkpoint_paths(folder)
    if not paths:
        return "There is no checkpoint yet."
    return f"The last checkpoint is {paths[-1]}; to go on from it: --load-dir {quoted(folder)}."


def path_of(folder: Path, step: int) -> Path:
    """The path of the checkpoint of a step (0-based)."""
    return folder / f"step-{step:09d}.ckpt"


def step_of(path: Path) -> int:
    """The step in a checkpoint's file name."""
    match = FILE_NAME.fullmatch(path.name)
    assert match is not None, path
    return int(match.group(1))


def save(folder: Path, checkpoint: dict[str, Any], only_latest: bool) -> None:
    """Write a checkpoint, then delete others.

    Args:
        folder: the folder for the checkpoint, made if it does not exist.
        checkpoint: the result of `collect`.
        only_latest: keep only this one and the one before it. Those of later steps are deleted, too: they are from
            before the run was resumed at an earlier step, and ``ns-eval`` would take them for the newest.

    Raises:
        OSError: the checkpoint could not be written; nothing was deleted.
    """
    path = path_of(folder, checkpoint["step"])
    write_checkpoint(path, checkpoint)
    if only_latest:
        paths = checkpoint_paths(folder)
        kept = paths[max(0, paths.index(path) + 1 - KEPT) : paths.index(path) + 1]
        for other in paths:
            if other not in kept:
                other.unlink(missing_ok=True)
