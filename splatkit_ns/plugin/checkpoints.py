"""The one checkpoint format: what goes in, and how a run takes it up again."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splatkit_ns.errors import SplatkitError
from splatkit_ns.splat import CheckpointError, read_checkpoint, write_checkpoint
from splatkit_ns.splat.rng import set_rng_state
from splatkit_ns.splat.state_checkpoint import load_optimizers, splatkit_entry

if TYPE_CHECKING:
    from splatkit_ns.plugin.trainer import SplatkitTrainer

FILE_NAME = re.compile(r"step-(\d+)\.ckpt")
KEPT = 2
"""How many checkpoints stay when only the latest is wanted: one more than it says, in case the newest is damaged."""

logger = logging.getLogger("splatkit_ns")


def collect(trainer: SplatkitTrainer, step: int) -> dict[str, Any]:
    """Everything a run needs to go on.

    Args:
        trainer: set up.
        step: the last that was trained, 0-based.
    """
    pipeline = trainer.pipeline
    entry = splatkit_entry(pipeline.model.dispatcher.state_dict())
    entry["sampler"] = pipeline.datamanager.sampler_state()
    return {
        "step": step,
        "pipeline": pipeline.state_dict(),
        "optimizers": {name: optimizer.state_dict() for name, optimizer in trainer.optimizers.optimizers.items()},
        "schedulers": {name: schedule.state_dict() for name, schedule in trainer.optimizers.schedulers.items()},
        "scalers": trainer.grad_scaler.state_dict(),
        "splatkit": entry,
    }


def restore(trainer: SplatkitTrainer, checkpoint: dict[str, Any], path: Path) -> int:
    """Put a run into the state of a checkpoint.

    Args:
        trainer: with pipeline and optimizers made.
        checkpoint: what `collect` returned.
        path: where it came from, for messages.

    Returns:
        The step to go on with, 0-based.

    Raises:
        SplatkitError: the checkpoint does not fit this run.
    """
    pipeline, optimizers = trainer.pipeline, trainer.optimizers
    try:
        pipeline.load_pipeline(checkpoint["pipeline"], checkpoint["step"])
    except SplatkitError as error:
        raise SplatkitError(f"{path}: {error}") from error
    named = {name: groups[0] for name, groups in pipeline.get_param_groups().items()}
    load_optimizers(named, optimizers.optimizers, checkpoint, path)
    if trainer.config.load_scheduler:
        known = {name: state for name, state in checkpoint["schedulers"].items() if name in optimizers.schedulers}
        optimizers.load_schedulers(known)
    entry = checkpoint.get("splatkit", {})
    pipeline.model.dispatcher.load_state_dict(entry.get("modules", {}))
    if "sampler" in entry:
        pipeline.datamanager.load_sampler_state(entry["sampler"])
    if "rng" in entry:
        set_rng_state(entry["rng"])
    return int(checkpoint["step"]) + 1


def read(path: Path) -> dict[str, Any]:
    """Read one checkpoint.

    Raises:
        SplatkitError: it cannot be used; says why.
    """
    return read_checkpoint(path)


def newest_readable(folder: Path, step: int | None) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint of a folder that is whole, or that of one step.

    Raises:
        SplatkitError: there is none.
    """
    paths = sorted(path for path in folder.glob("step-*.ckpt") if FILE_NAME.fullmatch(path.name))
    if step is not None:
        paths = [path for path in paths if step_of(path) == step]
    for path in reversed(paths):
        try:
            return path, read(path)
        except CheckpointError as error:
            logger.warning("%s It is skipped.", error)
    which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
    raise SplatkitError(f"There is {which} that can be read in {folder} (files named step-000001999.ckpt).")


def step_of(path: Path) -> int:
    """The step in a checkpoint's file name."""
    match = FILE_NAME.fullmatch(path.name)
    assert match is not None, path
    return int(match.group(1))


def save(folder: Path, checkpoint: dict[str, Any], only_latest: bool) -> None:
    """Write a checkpoint, then delete older ones.

    Args:
        folder: made where it does not exist.
        checkpoint: what `collect` returned.
        only_latest: keep only the last two.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(folder / f"step-{checkpoint['step']:09d}.ckpt", checkpoint)
    if only_latest:
        paths = [path for path in folder.glob("step-*.ckpt") if FILE_NAME.fullmatch(path.name)]
        for path in sorted(paths, key=step_of)[:-KEPT]:
            path.unlink()
