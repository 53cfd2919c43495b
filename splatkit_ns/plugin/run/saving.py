"""Saving a run's checkpoints, and what is said and kept when that, or a step, fails."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from splatkit_ns.errors import SplatkitError, describe_os_error
from splatkit_ns.plugin.run import checkpoints, out_of_memory
from splatkit_ns.plugin.step.finite import NotFiniteError, check_parameters, stop_message
from splatkit_ns.splat import clear_gradients

if TYPE_CHECKING:
    from splatkit_ns.plugin.trainer import SplatkitTrainer

logger = logging.getLogger("splatkit_ns")


class Saver:
    """Saves while a run trains and when it ends.

    Args:
        trainer: whose `save_checkpoint` writes.
    """

    def __init__(self, trainer: SplatkitTrainer) -> None:
        self._trainer = trainer
        self.saved_step: int | None = None
        """The step (0-based) that was saved last."""
        self.steps_whole: int | None = 0
        """How many steps the present state is the outcome of; None in the middle of one."""
        self._fails = False

    def try_to_save(self, step: int) -> bool:
        """Save; a full disk is no reason to stop: a warning, and the next time it is tried again."""
        try:
            self._trainer.save_checkpoint(step)
        except OSError as error:
            if not self._fails:
                logger.warning(
                    "No checkpoint of step %d: %s. %s", step, describe_os_error(error), self.last_checkpoint()
                )
            self._fails = True
            return False
        if self._fails:
            logger.warning("Checkpoints can be written again: step %d is saved.", step)
        self._fails = False
        return True

    def save_last(self, start_step: int, stopped: bool) -> None:
        """Save where training ended.

        Raises:
            SplatkitError: it cannot be saved.
        """
        step = self._trainer.step
        trained = step >= start_step
        path = checkpoints.path_of(self._trainer.checkpoint_dir, step)
        if self.saved_step == step or (not trained and (stopped or path.exists())):
            return
        try:
            self._trainer.save_checkpoint(step)
        except NotFiniteError as error:
            raise stop_message(error, self.last_checkpoint()) from error
        except OSError as error:
            self._fails = True
            raise SplatkitError(
                f"The last checkpoint, of step {step}, could not be saved: {describe_os_error(error)}. "
                f"{self.last_checkpoint()} Free some space, or check permissions, and resume."
            ) from error

    @contextmanager
    def saving_before_errors(self, start_step: int) -> Generator[None]:
        """Around the training: an error in someone's code does not cost the steps before it.

        A step that was under way is not in what is saved. Where the state itself is at fault, or has been saved, or is
        that of half a step, nothing is.
        """
        try:
            yield
        except (NotFiniteError, out_of_memory.OutOfMemory):
            raise
        except Exception:
            step = -1 if self.steps_whole is None else self.steps_whole - 1
            if step >= start_step and step != self.saved_step and not self._fails:
                self._save_before_error(step)
            raise

    def _save_before_error(self, step: int) -> None:
        try:
            self._trainer.save_checkpoint(step, announce=False)
        except Exception as error:
            logger.error("Training ends by an error, and its state could not be saved: %s", error)
        else:
            logger.warning("Training ends by an error. %s", self.last_checkpoint())

    def explain_spoilt_parameters(self, error: Exception) -> None:
        """Raise what is behind an error in a step whose Gaussians are NaN or infinite.

        Raises:
            NotFiniteError: if they are.
        """
        step = self._trainer.step + 1 if self.steps_whole is None else self.steps_whole
        try:
            check_parameters(checkpoints.parameters(self._trainer), step)
        except NotFiniteError as cause:
            raise stop_message(cause, self.last_checkpoint()) from error
        except RuntimeError:  # a GPU that was lost answers nothing any more: the first error says why
            return

    def last_checkpoint(self) -> str:
        """Sentence that says which checkpoint there is."""
        paths = checkpoints.checkpoint_paths(self._trainer.checkpoint_dir)
        if not paths:
            return "There is no checkpoint yet."
        return f"The last checkpoint is {paths[-1]}; to go on from it: --load-dir {self._trainer.checkpoint_dir}."

    def explain_out_of_memory(self, error: Exception, start_step: int) -> None:
        """Save if the state is that after a whole step, and raise an error that tells what helps.

        Raises:
            OutOfMemory: if that is what the error is.
        """
        cause = out_of_memory.find(error)
        if cause is None:
            return
        in_use = out_of_memory.usage(self._trainer.device)
        self._trainer.pipeline.model.close_graphs()
        out_of_memory.free(error)
        context = self._trainer.pipeline.model.context
        step = context.step
        context.start_step(step)  # lets go of the step's images and graph
        for optimizer in self._trainer.optimizers.optimizers.values():
            clear_gradients(optimizer)
        if self.steps_whole is not None and self.steps_whole > start_step:
            self.try_to_save(self.steps_whole - 1)
        raise out_of_memory.OutOfMemory(
            out_of_memory.message(
                cause,
                step,
                self._trainer.pipeline.model.num_points,
                in_use,
                self.last_checkpoint(),
                self._trainer.config,
            )
        ) from error
