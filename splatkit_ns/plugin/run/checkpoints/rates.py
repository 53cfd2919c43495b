"""The learning rates, schedules and moments of a run that goes on from a checkpoint."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from splatkit_ns.plugin.run.checkpoints.batch_scale import moments_of
from splatkit_ns.plugin.run.checkpoints.state import RunState
from splatkit_ns.plugin.step.updates import set_rates

logger = logging.getLogger("splatkit_ns")


def restore_schedules(schedules: dict[str, Any], states: dict[str, Any], steps: int) -> None:
    """Set each schedule to its step.

    Args:
        schedules: the schedules of the run, by the name of their optimizers.
        states: the schedules' states in the checkpoint; a schedule without one goes on as if its state were there.
        steps: the number of steps that the checkpoint's run had trained.
    """
    for name, schedule in schedules.items():
        if name in states:
            schedule.load_state_dict(states[name])
        else:
            schedule.last_epoch = steps
            schedule.base_lrs = [group.get("initial_lr", group["lr"]) for group in schedule.optimizer.param_groups]


def use_changed_rates(run: RunState, theirs: Mapping[str, float]) -> None:
    """Set the learning rates that differ between this run's config and that of the checkpoint's run.

    The other rates stay as in the checkpoint: a hook may have changed them. If the checkpoint does not tell its run's
    rate, because no trainer of ours wrote it, a rate that the user has stated is set.

    Args:
        run: the state of the run.
        theirs: the rates in the config of the checkpoint's run, by parameter group.
    """
    for name, ours in run.configured_rates.items():
        if math.isclose(ours, theirs[name], rel_tol=1e-6) if name in theirs else name not in run.stated_rates:
            continue
        had = f"the checkpoint's run had {theirs[name]:g}" if name in theirs else "the checkpoint does not tell its own"
        logger.info("The learning rate of %s is now %g; %s.", name, ours, had)
        for group in run.optimizers.optimizers[name].param_groups:
            group["lr"] = ours
            if "initial_lr" in group:
                group["initial_lr"] = ours
        if name in run.optimizers.schedulers:
            schedule: Any = run.optimizers.schedulers[name]
            schedule.base_lrs = [ours for _ in schedule.base_lrs]


def use_changed_moments(run: RunState, theirs: Mapping[str, Any]) -> None:
    """Set decay rates and eps to those of this run's config, and tell which differ from the checkpoint's.

    Args:
        run: the state of the run; the defaults of its optimizers are for one image a step.
        theirs: the optimizers' states in the checkpoint, which are of one image a step, by parameter group.
    """
    for name, settings in run.configured_moments.items():
        optimizer = run.optimizers.optimizers[name]
        optimizer.param_groups[0].update(settings)
        had = theirs[name]["param_groups"][0] if name in theirs else {}
        for key, now in moments_of(optimizer.defaults).items():
            if key in had and not _is_close(now, had[key]):
                logger.info("Adam's %s of %s are now %s; the checkpoint's run had %s.", key, name, now, had[key])


def _is_close(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, (tuple, list)):
        return len(ours) == len(theirs) and all(map(_is_close, ours, theirs))
    return math.isclose(ours, theirs, rel_tol=1e-9)


def apply_rate(schedule: Any) -> None:
    """Compute a schedule's rate again: it differs from the checkpoint's if the run has become longer, or if the
    schedule began anew."""
    if isinstance(schedule, LambdaLR):
        set_rates(schedule)
