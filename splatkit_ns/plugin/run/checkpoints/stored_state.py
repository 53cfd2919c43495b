"""The state of a run as checkpoints hold it: collecting it, and restoring a run from it."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nerfstudio.pipelines.base_pipeline import VanillaPipeline

from splatkit_ns.errors import HookFailedError, ModuleError, SplatkitError, describe_error
from splatkit_ns.parts.dispatch import ModuleDispatcher
from splatkit_ns.plugin.run.checkpoints.batch_scale import of_images, of_one_image, snap_rates
from splatkit_ns.plugin.run.checkpoints.rates import (
    apply_rate,
    restore_schedules,
    use_changed_moments,
    use_changed_rates,
)
from splatkit_ns.plugin.run.checkpoints.state import RunState
from splatkit_ns.plugin.run.checkpoints.weights import PARTS, unknown_parts
from splatkit_ns.ranks import Ranks
from splatkit_ns.splat import CheckpointError
from splatkit_ns.splat.checkpoint import plain
from splatkit_ns.splat.rng import set_rng_state
from splatkit_ns.splat.schema import KEYS
from splatkit_ns.splat.state_checkpoint import PARAM_PREFIX, load_optimizers, splatkit_entry

_ADVICE = (
    "Resume with the config.yml that lies beside it (--load-config), or start a new run from its Gaussians "
    "(--pipeline.model.init-ply)."
)

logger = logging.getLogger("splatkit_ns")


def collect(run: RunState, step: int) -> dict[str, Any]:
    """Everything a run needs to go on.

    Args:
        run: the state of the run.
        step: the last step that was trained, 0-based.
    """
    optimizers, images = run.optimizers, run.images_per_step
    entry = splatkit_entry(run.model.parts.dispatcher.state_dict())
    entry["sampler"] = run.data.sampler_state()
    entry["camera_optimizer"] = run.model.camera_optimizer.config.mode
    entry["renderer"] = type(run.model.parts.renderer).__name__
    entry["learning_rates"] = dict(run.configured_rates)
    entry["gradients"] = {
        name: param.grad
        for name, param in run.parameters().items()
        if param.grad is not None and (step + 1) // images % run.accumulation[name] != 0
    }
    checkpoint = {
        "step": step,
        "pipeline": run.pipeline.state_dict(),
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.optimizers.items()},
        "schedulers": {name: schedule.state_dict() for name, schedule in optimizers.schedulers.items()},
        "scalers": run.grad_scaler.state_dict(),
        "splatkit": entry,
    }
    return of_one_image(checkpoint, optimizers.optimizers, images) if images > 1 else checkpoint


def restore(run: RunState, checkpoint: dict[str, Any], path: Path, load_schedules: bool = True) -> int:
    """Put a run into the state of a checkpoint, except for weights and random number generators.

    See `restore_weights` and `restore_rng` for these.

    Args:
        run: the state of the run, which has the weights already.
        checkpoint: the result of `collect`, or a checkpoint of nerfstudio's own trainer with a splatkit model.
        path: the file of the checkpoint, for messages.
        load_schedules: whether schedules go on as in the checkpoint; False begins them anew.

    Returns:
        The step to go on with, 0-based.

    Raises:
        SplatkitError: the checkpoint does not fit this run.
    """
    optimizers, images = run.optimizers, run.images_per_step
    with _explained(path):
        named, states_of_one = run.parameters(), checkpoint["optimizers"]
        if images > 1:
            checkpoint = of_images(checkpoint, optimizers.optimizers, images)
        load_optimizers(named, optimizers.optimizers, checkpoint, path)
        if load_schedules:
            restore_schedules(optimizers.schedulers, checkpoint.get("schedulers", {}), checkpoint["step"] + 1)
        if images > 1:
            snap_rates(optimizers.optimizers, optimizers.schedulers, run.configured_rates)
        entry = checkpoint.get("splatkit", {})
        use_changed_moments(run, states_of_one)
        use_changed_rates(run, entry.get("learning_rates", {}))
        for schedule in optimizers.schedulers.values():
            apply_rate(schedule)
        _compare_renderers(entry.get("renderer"), type(run.model.parts.renderer).__name__, path)
        run.model.parts.dispatcher.load_state_dict(entry.get("modules", {}), run.model.training_state.device)
        run.model.parts.densification.forget_gathered(Ranks.current())
        for name, grad in entry.get("gradients", {}).items():  # those that are being accumulated over several steps
            named[name].grad = grad.to(named[name].device)
        if "sampler" in entry:
            run.data.load_sampler_state(entry["sampler"])
        restore_rng(rng_entry(checkpoint), path)  # an error is found now, not after images have been loaded
    return int(checkpoint["step"]) + 1


def _compare_renderers(theirs: Any, ours: str, path: Path) -> None:
    """Warn if the Gaussians were trained with another renderer; a user's own renderer may be meant for them."""
    if theirs not in (None, ours):
        logger.warning(
            "The Gaussians of checkpoint %s were trained with %s, this run has %s. To start from them, converted "
            "for this renderer: export them, and name the file with --pipeline.model.init-ply.",
            path,
            theirs,
            ours,
        )


def restore_weights(
    pipeline: VanillaPipeline, checkpoint: dict[str, Any], path: Path, for_training: bool = False
) -> None:
    """Give a pipeline the Gaussians, camera corrections and parameters of parts of a checkpoint.

    Args:
        pipeline: the pipeline of the run.
        checkpoint: the result of `collect`.
        path: the file of the checkpoint, for messages.
        for_training: refuse a checkpoint with parameters of parts that the run does not have.

    Raises:
        SplatkitError: the checkpoint holds no model that fits the pipeline.
    """
    with _explained(path):
        if for_training and all(f"{PARAM_PREFIX}{name}" in checkpoint["pipeline"] for name in KEYS):
            _refuse_unknown_parts(pipeline, checkpoint["pipeline"])
            _compare_poses(pipeline, checkpoint, path)
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


def _compare_poses(pipeline: VanillaPipeline, checkpoint: dict[str, Any], path: Path) -> None:
    """Warn if the Gaussians fit corrected camera poses, and this run corrects none, or reads the numbers otherwise.

    Raises:
        SplatkitError: the corrections are those of another number of photographs.
    """
    model: Any = pipeline.model
    corrections = checkpoint["pipeline"].get("_model.camera_optimizer.pose_adjustment")
    ours = model.camera_optimizer.config.mode
    theirs = checkpoint.get("splatkit", {}).get("camera_optimizer", ours)
    if corrections is None or not bool(corrections.any()):
        return
    if ours == "off":
        logger.warning(
            "Checkpoint %s has corrections of the camera poses, to which its Gaussians fit, and this run does not use "
            "them. To go on with them: --pipeline.model.camera-optimizer.mode, as its config.yml says.",
            path,
        )
    elif (found := len(corrections)) != (expected := len(model.camera_optimizer.pose_adjustment)):
        raise SplatkitError(
            f"it has corrections of the camera poses of {found} photographs, and this run trains on {expected}. Resume "
            "with the photographs that it was trained on, or start a new run from its Gaussians "
            "(--pipeline.model.init-ply)."
        )
    elif theirs != ours:
        logger.warning(
            "Checkpoint %s has corrections of the camera poses of the mode %s, and this run has %s, in which the same "
            "numbers are slightly other poses. To go on with those of the checkpoint: "
            "--pipeline.model.camera-optimizer.mode %s.",
            path, theirs, ours, theirs,
        )  # fmt: skip


def check_modules(dispatcher: ModuleDispatcher) -> None:
    """Check before training that checkpoints can hold the state of all modules, not when the first one is written.

    Raises:
        ModuleError: a state cannot be saved; the message names the module and the entry.
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
    """Set the random number generators to the state that they have in the checkpoint.

    Setting up draws random numbers, too (seed points, samplers, modules), so call this right before the first step.

    Args:
        state: see `rng_entry`; None changes nothing.
        path: the file of the checkpoint, for messages.

    Raises:
        SplatkitError: `state` is not a state of random number generators.
    """
    if state is not None:
        with _explained(path):
            set_rng_state(state)


def rng_entry(checkpoint: dict[str, Any]) -> Any:
    """The entry of a checkpoint for `restore_rng`; None if nerfstudio's own trainer wrote the checkpoint."""
    return checkpoint.get("splatkit", {}).get("rng")


def rng_only(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The part of a checkpoint that is needed after all else has been restored, without the memory of the rest."""
    return {"splatkit": {"rng": rng_entry(checkpoint)}}


@contextmanager
def _explained(path: Path) -> Generator[None, None, None]:
    """Name the file in every error; content of a wrong type can make code raise nearly any exception."""
    try:
        yield
    except CheckpointError:
        raise
    except SplatkitError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from error
    except HookFailedError as error:  # of a module's load_state_dict
        raise CheckpointError(f"checkpoint {path} does not fit this run: {error}. {_ADVICE}") from error
    except Exception as error:
        reason = describe_error(error)
        raise CheckpointError(f"checkpoint {path} does not fit this run ({reason}). {_ADVICE}") from error
