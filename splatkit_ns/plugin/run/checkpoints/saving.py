"""Saving a run's checkpoints, and the messages and checkpoints if saving or a step fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial

import torch
from nerfstudio.engine.trainer import TrainerConfig

from splatkit_ns.errors import SplatkitError, describe_os_error
from splatkit_ns.parts.steps import reaches
from splatkit_ns.plugin.run.checkpoints.resuming import say_how_to_go_on
from splatkit_ns.plugin.run.checkpoints.run_checkpoints import RunCheckpoints
from splatkit_ns.plugin.run.checkpoints.state import RunState
from splatkit_ns.plugin.run.ending import out_of_memory
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.plugin.run.processes.rank_failures import end_at_once, is_lost
from splatkit_ns.plugin.run.processes.together import Together
from splatkit_ns.plugin.step.finite import NotFiniteError, check_parameters, stop_message
from splatkit_ns.plugin.step.training_step import TrainingStep

logger = logging.getLogger("splatkit_ns")

ANSWER = 3.0
"""Seconds in which a GPU has done what is left of a step, unless it waits for something that never comes."""


class Saver:
    """Saves checkpoints while a run trains and when it ends.

    Args:
        run_checkpoints: writes the checkpoints.
        run: the state of the run.
        training_step: knows how many complete steps the state is the result of.
        config: the config of the run; out-of-memory messages name its options.
        start_step: the first step of this process, 0-based.
        together: the ranks of this run.
    """

    def __init__(
        self,
        run_checkpoints: RunCheckpoints,
        run: RunState,
        training_step: TrainingStep,
        config: TrainerConfig,
        start_step: int,
        together: Together,
    ) -> None:
        self._together = together
        self._checkpoints, self._run = run_checkpoints, run
        self._training_step, self._config, self._start_step = training_step, config, start_step
        self._saved_step: int | None = None
        self._fails = False
        self.in_background = run.model.training_state.device.type != "cpu"
        """Whether training goes on while a checkpoint is written; on the CPU, the writer would take a core from it."""
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="splatkit-checkpoint")
        self._pending: tuple[int, Future[None]] | None = None

    def together(self) -> AbstractContextManager[None]:
        """A block for a save at which all ranks arrive; see `Together.saving`."""
        step = self._training_step
        return self._together.saving(self._run.model.parts.densification, step.watch, step.last_works)

    def _save(self, step: int, announce: bool = True) -> None:
        """Save a step (0-based); see `RunCheckpoints.save`."""
        self.settle()
        self._checkpoints.save(step, announce)
        self._saved_step = step

    def save_if_due(self, step: int) -> None:
        """Save after a step (0-based) if its checkpoint is due."""
        self.settle(waits=False)
        if reaches(step, self._config.steps_per_save, self._together.images_per_step):
            with self.together():
                self.try_to_save(step)

    def try_to_save(self, step: int) -> None:
        """Save; if the disk is full, warn and go on training: the next save tries again.

        On a GPU the file is written in a thread, and a warning comes after a later step.
        """
        self.settle()
        if self.in_background:
            self._pending = step, self._writer.submit(self._checkpoints.save_later(step))
        else:
            self._note(step, partial(self._checkpoints.save, step))

    def settle(self, waits: bool = True) -> None:
        """Take up the end of a write in the background; without waiting only if there is one."""
        if self._pending is not None and (waits or self._pending[1].done()):
            (step, written), self._pending = self._pending, None
            self._note(step, written.result)

    def _note(self, step: int, written: Callable[[], None]) -> None:
        """Note the outcome of a save, and warn if it failed for want of space or the like."""
        try:
            written()
        except OSError as error:
            if not self._fails:
                logger.warning(
                    "No checkpoint of step %d: %s. %s", step, describe_os_error(error), self._last_checkpoint()
                )
            self._fails = True
            return
        if self._fails:
            logger.warning("Checkpoints can be written again: step %d is saved.", step)
        self._fails = False
        self._saved_step = step

    def save_last(self, step: int, stopped: bool) -> None:
        """Save the state at the end of training, and say how to go on if it was stopped.

        Args:
            step: the last step that was trained, 0-based.
            stopped: whether a signal or the viewer ended the run.

        Raises:
            SplatkitError: the state cannot be saved.
        """
        self.settle()
        trained = step >= self._start_step
        path = checkpoint_files.path_of(self._checkpoints.folder, step)
        if step >= 0 and self._saved_step != step and (trained or not (stopped or path.exists())):
            self._save_end(step)
        if stopped and step >= 0 and self._together.ranks.is_first:
            say_how_to_go_on(self._config, step + 1)

    def _save_end(self, step: int) -> None:
        try:
            self._save(step)
        except NotFiniteError as error:
            raise stop_message(error, self._checkpoint_in_error()) from error
        except OSError as error:
            self._fails = True
            then = "resume" if checkpoint_files.checkpoint_paths(self._checkpoints.folder) else "begin anew"
            raise SplatkitError(
                f"The last checkpoint, of step {step}, could not be saved: {describe_os_error(error)}. "
                f"{self._last_checkpoint()} Free some space, or check permissions, and {then}."
            ) from error

    @contextmanager
    def saving_before_errors(self) -> Generator[None]:
        """Save the steps before an error in the block, which is the training, or before a `SystemExit`.

        The saved state does not include a step that was under way. Nothing is saved if the state itself is the cause of
        the error, has been saved already, is that of an incomplete step, or if the GPU waits for a rank that is lost.
        """
        try:
            yield
        except (NotFiniteError, out_of_memory.OutOfMemory):
            self.settle()
            raise
        except (Exception, SystemExit) as error:
            self.settle()
            if is_lost(error) and not device_answers(self._run.model.training_state.device):
                # it waits for that rank in the exchange of the last step, which will never be over
                end_at_once(error)
                raise
            complete = self._training_step.complete_steps
            step = -1 if complete is None else complete - 1
            if step >= self._start_step and step != self._saved_step and not self._fails:
                self._save_before_error(step, "SystemExit" if isinstance(error, SystemExit) else "an error")
            raise

    def _save_before_error(self, step: int, cause: str) -> None:
        try:
            self._save(step, announce=False)
        except Exception as error:
            logger.error("Training ends by %s, and its state could not be saved: %s", cause, error)
        else:
            logger.warning("Training ends by %s. %s", cause, self._last_checkpoint())

    def _explain_spoilt_parameters(self, error: Exception) -> None:
        """Raise the cause of an error in a step if it is that parameters are NaN or infinite.

        Raises:
            NotFiniteError: a parameter is not finite.
        """
        complete = self._training_step.complete_steps
        step = self._run.model.context.step if complete is None else complete
        try:
            check_parameters(self._run.parameters(), step)
        except NotFiniteError as cause:
            raise stop_message(cause, self._checkpoint_in_error()) from error
        except RuntimeError:  # a lost GPU fails every call from now on: the first error says why
            return

    @contextmanager
    def explaining_errors(self) -> Generator[None]:
        """Explain errors of a step and the work after it: values that are not finite, and too little memory.

        Raises:
            NotFiniteError: a value is not finite; the message says which checkpoint there is.
            OutOfMemory: the device's memory did not suffice; the state has been saved if it is that of a whole step.
        """
        try:
            yield
        except NotFiniteError as error:
            raise stop_message(error, self._checkpoint_in_error()) from error
        except Exception as error:
            if is_lost(error):  # explained by the process that started the ranks; the GPU may never answer
                raise
            self._explain_out_of_memory(error)
            self._explain_spoilt_parameters(error)
            raise

    def _last_checkpoint(self) -> str:
        """A sentence that says which checkpoint there is."""
        self.settle()
        return checkpoint_files.describe_last_checkpoint(self._checkpoints.folder)

    def _checkpoint_in_error(self) -> str:
        """The same for the message of an error; nothing on several ranks, where it is added when all have ended."""
        return self._last_checkpoint() if self._together.ranks.size == 1 else ""

    def _explain_out_of_memory(self, error: Exception) -> None:
        """If memory did not suffice, save the state if it is that of a whole step, and raise an error with advice.

        Raises:
            OutOfMemory: memory did not suffice.
        """
        cause = out_of_memory.find(error)
        if cause is None:
            return
        in_use = out_of_memory.usage(str(self._run.model.training_state.device))
        self._training_step.release_memory()
        out_of_memory.free(error)
        complete = self._training_step.complete_steps
        if complete is not None and complete > self._start_step:
            self.try_to_save(complete - 1)
            self.settle()
        context = self._run.model.context
        message = out_of_memory.message(
            cause,
            context.step,
            len(context.training_state),
            in_use,
            self._checkpoint_in_error(),
            self._config,
            context.batch_size,
        )
        raise out_of_memory.OutOfMemory(message) from error


def device_answers(device: torch.device, seconds: float = ANSWER) -> bool:
    """Whether a GPU has done its work within some seconds; on the CPU it always has."""
    end = time.monotonic() + seconds
    with suppress(RuntimeError):  # the GPU's own error
        while device.type == "cuda" and not torch.cuda.current_stream(device).query():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True
    return False
