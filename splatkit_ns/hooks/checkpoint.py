"""A hook that keeps checkpoints."""

from __future__ import annotations

import logging

from splatkit_ns.errors import OptionsError
from splatkit_ns.hooks.base import HOOK_REGISTRY, Hook
from splatkit_ns.hooks.view import TrainerView
from splatkit_ns.parts.files import told_of_checkpoint
from splatkit_ns.parts.steps import is_due

logger = logging.getLogger("splatkit_ns")


@HOOK_REGISTRY.register()
class CheckPointHook(Hook):
    """Writes ``ckpts/step_001000.ckpt`` into the run's folder every n-th step and after the last, and keeps them all.

    These come in addition to the checkpoints that the trainer itself writes (``--steps-per-save``), of which it keeps
    the newest only.

    Args:
        every: steps between two checkpoints.

    Raises:
        OptionsError: `every` is less than 1.
    """

    def __init__(self, every: int = 5000) -> None:
        if every < 1:
            raise OptionsError([f"CheckPointHook's every is {every}, expected at least 1"])
        self.every = every

    def after_train_iter(self, trainer: TrainerView) -> None:
        """Write a checkpoint if one is due."""
        step = trainer.global_step
        if step == trainer.cfg.max_steps or is_due(step, self.every, trainer.context.images_per_step):
            path = trainer.exp_dir / "ckpts" / f"step_{step:06d}.ckpt"
            what = f"CheckPointHook's checkpoint of step {step}"
            trainer.save_checkpoint(path, then=told_of_checkpoint(logger, what, path))
