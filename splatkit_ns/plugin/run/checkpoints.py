"""The one checkpoint format: what goes in, and how a run takes it up again."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from torch.optim.lr_scheduler import LambdaLR

from splatkit_ns.errors import HookFailedError, ModuleError, SplatkitError
from splatkit_ns.parts.dispatch import ModuleDispatcher
from splatkit_ns.plugin.run.state import RunState
from splatkit_ns.plugin.run.weights import PARTS, unknown_parts
from splatkit_ns.splat import CheckpointError, read_checkpoint, write_checkpoint
from splatkit_ns.splat.checkpoint import plain
from splatkit_ns.splat.rng import set_rng_state
from splatkit_ns.splat.state_checkpoint import PARAM_PREFIX, load_optimizers, splatkit_entry

FILE_NAME = re.compile(r"step-(\d+)\.ckpt")
MODEL_DIR = "nerfstudio_models"
"""Where nerfstudio puts checkpoints in a run's folder."""
KEPT = 2
"""How many checkpoints stay when only the latest is wanted: one more than it says, in case the newest is damaged."""

_ADVICE = (
    "Resume with the config.yml that lies beside it (--load-config), or start a new run from its Gaussians "
    "(--pipeline.model.init-ply)."
)

logger = logging.getLogger("splatkit_ns")


def collect(run: RunState, step: int) -> dict[str, Any]:
    """Everything a run needs to go on.

    Args:
        run: the state of the run.
        step: the last that was trained, 0-based.
    """
    optimizers = run.optimizers
    entry = splatkit_entry(run.model.parts.dispatcher.state_dict())
    entry["sampler"] = run.data.sampler_state()
    entry["renderer"] = type(run.model.parts.renderer).__name__
    entry["learning_rates"] = run.configured_rates
    entry["gradients"] = {
        name: param.grad
        for name, param in run.parameters().items()
        if param.grad is not None and (step + 1) % run.accumulation[name] != 0
    }
    return {
        "step": step,
        "pipeline": run.pipeline.state_dict(),
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.optimizers.items()},
        "schedulers": {name: schedule.state_dict() for name, schedule in optimizers.schedulers.items()},
        "scalers": run.grad_scaler.state_dict(),
        "splatkit": entry,
    }


def restore(run: RunState, checkpoint: dict[str, Any], path: Path, load_schedules: bool = True) -> int:
    """Put a run into the state of a checkpoint, except for weights and random number generators.

    See `restore_weights` and `restore_rng` for these.

    Args:
        run: the state of the run, which has the weights already.
        checkpoint: what `collect` returned, or nerfstudio's own trainer with a splatkit model.
        path: where it came from, for messages.
        load_schedules: whether schedules go on as in the checkpoint, or begin anew.

    Returns:
        The step to go on with, 0-based.

    Raises:
        SplatkitError: the checkpoint does not fit this run.
    """
    optimizers = run.optimizers
    with _explained(path):
        named = run.parameters()
        load_optimizers(named, optimizers.optimizers, checkpoint, path)
        if load_schedules:
            _restore_schedules(optimizers.schedulers, checkpoint.get("schedulers", {}), checkpoint["step"] + 1)
        entry = checkpoint.get("splatkit", {})
        _use_changed_rates(run, entry.get("learning_rates", {}))
        for schedule in optimizers.schedulers.values():
            _apply_rate(schedule)
        _compare_renderers(entry.get("renderer"), type(run.model.parts.renderer).__name__, path)
        run.model.parts.dispatcher.load_state_dict(entry.get("modules", {}), run.model.training_state.device)
        for name, grad in entry.get("gradients", {}).items():  # those that are being accumulated over several steps
            named[name].grad = grad.to(named[name].device)
        if "sampler" in entry:
            run.data.load_sampler_state(entry["sampler"])
        restore_rng(rng_entry(checkpoint), path)  # a broken one is found now, not after images have been loaded
    return int(checkpoint["step"]) + 1


def _compare_renderers(theirs: Any, ours: str, path: Path) -> None:
    """A note where Gaussians have been trained to be rendered otherwise; a renderer of one's own may be meant to."""
    if theirs not in (None, ours):
        logger.warning(
            "The Gaussians of checkpoint %s were trained with %s, this run has %s. To begin with such Gaussians, "
            "turned into what the renderer draws: export them, and --pipeline.model.init-ply.",
            path,
            theirs,
            ours,
        )


def restore_weights(
    pipeline: VanillaPipeline, checkpoint: dict[str, Any], path: Path, for_training: bool = False
) -> None:
    """Give a pipeline the Gaussians, camera corrections and parameters of parts of a checkpoint.

    Args:
        pipeline: of the run.
        checkpoint: what `collect` returned.
        path: where it came from, for messages.
        for_training: refuse a checkpoint with parameters of parts that the run does not have.

    Raises:
        SplatkitError: the checkpoint holds no model that fits the pipeline.
    """
    with _explained(path):
        if for_training:
            _refuse_unknown_parts(pipeline, checkpoint["pipeline"])
        pipeline.load_pipeline(checkpoint["pipeline"], checkpoint["step"])


def _refuse_unknown_parts(pipeline: VanillaPipeline, stored: dict[str, Any]) -> None:
    model: Any = pipeline.model
    unknown = unknown_parts(stored, model.part_params.state_dict(), prefix=f"_model.{PARTS}")
    rows = {key.removeprefix(PARAM_PREFIX) for key in stored if key.startswith(PARAM_PREFIX)}
    unknown += sorted(rows - {*model.gauss_params, *model.part_params.rows})
    if unknown:
        raise SplatkitError(
            f"it has trained parameters that no part of this run has: {', '.join(unknown)}. Resume with the config.yml "
            "that lies beside it (--load-config), or add the part again; training on would lose them."
        )


def check_modules(dispatcher: ModuleDispatcher) -> None:
    """See before training that checkpoints can hold what modules want them to, not when the first is written.

    Raises:
        ModuleError: names the module, and what of its state cannot be saved.
    """
    for name, module in dispatcher.modules.items():
        try:
            state = module.state_dict()
        except Exception:  # it may be complete only after a step
            logger.debug("%s.state_dict() fails before the first step.", name, exc_info=True)
            continue
        try:
            plain(state, f"{name}.state_dict()")
        except ValueError as error:
            raise ModuleError(str(error)) from error


def restore_rng(state: Any, path: Path) -> None:
    """Put the random number generators where they were when the checkpoint was taken.

    Setting up draws random numbers, too (seed points, samplers, modules): this comes last, right before the first step.

    Args:
        state: see `rng_entry`; None changes nothing.
        path: where it came from, for messages.

    Raises:
        SplatkitError: this is no such state.
    """
    if state is not None:
        with _explained(path):
            set_rng_state(state)


def rng_entry(checkpoint: dict[str, Any]) -> Any:
    """What `restore_rng` needs of a checkpoint; None where nerfstudio wrote it."""
    return checkpoint.get("splatkit", {}).get("rng")


def rng_only(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The part of a checkpoint that is needed after all else has been restored, without the memory of the rest."""
    return {"splatkit": {"rng": rng_entry(checkpoint)}}


@contextmanager
def _explained(path: Path) -> Generator[None, None, None]:
    """Name the file in every complaint; content of a wrong kind can make code complain in nearly any way."""
    try:
        yield
    except CheckpointError:
        raise
    except SplatkitError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from error
    except HookFailedError as error:  # of a module's load_state_dict
        raise CheckpointError(f"checkpoint {path} does not fit this run: {error}. {_ADVICE}") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:500]
        raise CheckpointError(
            f"checkpoint {path} does not fit this run ({type(error).__name__}: {reason}). {_ADVICE}"
        ) from error


def _restore_schedules(schedules: dict[str, Any], states: dict[str, Any], steps: int) -> None:
    """Put each schedule to its step.

    Args:
        schedules: by the name of their optimizers.
        states: those of the checkpoint; a schedule that its run did not have goes on as if it had.
        steps: done when the checkpoint was made.
    """
    for name, schedule in schedules.items():
        if name in states:
            schedule.load_state_dict(states[name])
        else:
            schedule.last_epoch = steps
            schedule.base_lrs = [group.get("initial_lr", group["lr"]) for group in schedule.optimizer.param_groups]


def _use_changed_rates(run: RunState, theirs: Mapping[str, float]) -> None:
    """Let learning rates count that this run's config has, and that of the checkpoint's run had not.

    Others are the checkpoint's: a hook may have changed them.

    Args:
        run: the state of the run.
        theirs: the rates that the config of the checkpoint's run had, by parameter group.
    """
    for name, ours in run.configured_rates.items():
        if name not in theirs or math.isclose(ours, theirs[name], rel_tol=1e-6):
            continue
        logger.info("The learning rate of %s is now %g; the checkpoint's run had %g.", name, ours, theirs[name])
        for group in run.optimizers.optimizers[name].param_groups:
            group["lr"] = ours
            if "initial_lr" in group:
                group["initial_lr"] = ours
        if name in run.optimizers.schedulers:
            schedule: Any = run.optimizers.schedulers[name]
            schedule.base_lrs = [ours for _ in schedule.base_lrs]


def _apply_rate(schedule: Any) -> None:
    """Compute a schedule's rate anew: it is not the checkpoint's if the run has become longer, or the schedule began
    anew."""
    if not isinstance(schedule, LambdaLR):
        return
    rates = [
        base * factor(schedule.last_epoch) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    ]
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = rates  # type: ignore[reportPrivateUsage]  # what get_last_lr() reports


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
    paths = checkpoint_paths(folder)
    if step is not None:
        paths = [path for path in paths if step_of(path) == step]
    for path in reversed(paths):
        try:
            return path, read(path)
        except CheckpointError as error:
            logger.warning("%s It is skipped.", error)
    which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
    hint = f" Did you mean {folder / MODEL_DIR}?" if not paths and (folder / MODEL_DIR).is_dir() else ""
    raise SplatkitError(f"There is {which} that can be read in {folder} (files named step-000001999.ckpt).{hint}")


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first, by their steps; clocks and other files do not matter."""
    return sorted((path for path in folder.glob("step-*.ckpt") if FILE_NAME.fullmatch(path.name)), key=step_of)


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step (0-based) is."""
    return folder / f"step-{step:09d}.ckpt"


def step_of(path: Path) -> int:
    """The step in a checkpoint's file name."""
    match = FILE_NAME.fullmatch(path.name)
    assert match is not None, path
    return int(match.group(1))


def save(folder: Path, checkpoint: dict[str, Any], only_latest: bool) -> None:
    """Write a checkpoint, then delete others.

    Args:
        folder: made where it does not exist.
        checkpoint: what `collect` returned.
        only_latest: keep only this one and the one before it. Those of later steps go, too: they are from before the
            run was resumed at an earlier step, and ``ns-eval`` would take them for the newest.

    Raises:
        OSError: it could not be written; nothing was deleted.
    """
    path = path_of(folder, checkpoint["step"])
    write_checkpoint(path, checkpoint)
    if only_latest:
        paths = checkpoint_paths(folder)
        kept = paths[max(0, paths.index(path) + 1 - KEPT) : paths.index(path) + 1]
        for other in paths:
            if other not in kept:
                other.unlink(missing_ok=True)
