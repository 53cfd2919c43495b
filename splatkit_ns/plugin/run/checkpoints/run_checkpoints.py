"""The checkpoints of one run: restoring one, making them, and writing them for the trainer and for parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from nerfstudio.engine.trainer import TrainerConfig

from splatkit_ns.plugin.run.checkpoints import stored_state
from splatkit_ns.plugin.run.checkpoints.resuming import LoadedCheckpoint
from splatkit_ns.plugin.run.checkpoints.state import RunState
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.plugin.run.folder.run_folder import RunFolder
from splatkit_ns.plugin.step.finite import FiniteWatch, check_parameters
from splatkit_ns.splat import CheckpointRequests
from splatkit_ns.splat.checkpoint import host_copy


class RunCheckpoints:
    """Makes every checkpoint of a run, whatever file it is for.

    Args:
        run: the state of the run.
        watch: checks that the steps since its last check were finite.
        config: the config of the run.
        resumed: the checkpoint to go on from, whose weights have been loaded; None for a new run.
        writes: whether this process writes files, as rank 0 alone does.
    """

    def __init__(
        self,
        run: RunState,
        watch: FiniteWatch,
        config: TrainerConfig,
        resumed: LoadedCheckpoint | None,
        writes: bool = True,
    ) -> None:
        self._writes = writes
        self._copy: dict[str, Any] | None = None
        self._run, self._watch, self._resumed = run, watch, resumed
        self._run_folder = RunFolder(config)
        self._only_latest, self._load_schedules = config.save_only_latest_checkpoint, config.load_scheduler
        self.folder: Path = config.get_checkpoint_dir()
        """The folder of the trainer's own checkpoints."""
        self.requests = CheckpointRequests(self.make, writes)
        """The requests of parts for checkpoints of their own."""

    def take_up(self) -> Path | None:
        """Put the run into the state of the checkpoint to go on from, and tell the modules.

        Returns:
            The checkpoint's file; None for a new run.

        Raises:
            SplatkitError: the checkpoint does not fit this run.
        """
        if self._resumed is None:
            return None
        path, content = self._resumed
        context = self._run.model.context
        context.step = stored_state.restore(self._run, content, path, self._load_schedules)
        self._resumed = LoadedCheckpoint(path, stored_state.rng_only(content))
        self._run.model.parts.dispatcher.run("on_checkpoint_loaded")
        return path

    def restore_rng(self) -> None:
        """Set the random generators to the state that they have in the checkpoint; right before the first step."""
        if self._resumed is not None:
            stored_state.restore_rng(stored_state.rng_entry(self._resumed.content), self._resumed.path)

    def make(self, step: int | None = None, announce: bool = True) -> dict[str, Any]:
        """Everything a run needs to go on, for any file that is to hold it.

        Args:
            step: the last step that was trained, 0-based; None means the current one.
            announce: whether modules and hooks are told before.

        Raises:
            NotFiniteError: a step since the last check was not finite, or a parameter is not finite.
        """
        self._watch.check()
        model = self._run.model
        if announce:
            model.parts.dispatcher.run("pre_save_checkpoint")
        check_parameters(self._run.parameters(), model.context.step)
        return stored_state.collect(self._run, model.context.step - 1 if step is None else step)

    def save(self, step: int, announce: bool = True) -> None:
        """Write the trainer's checkpoint of a step (0-based), and only then delete older ones if no more are wanted.

        Raises:
            OSError: the checkpoint could not be written; older ones are untouched.
            SplatkitError: the run's folder was deleted, and another run writes into it now.
            NotFiniteError: see `make`.
        """
        if self._writes:
            self._write(self.make(step, announce))

    def save_later(self, step: int) -> Callable[[], None]:
        """Make the checkpoint of a step as `save` does; the function that is returned writes it, in any thread.

        Call it again only when that function has ended: the copy in main memory is used anew.

        Raises:
            NotFiniteError: see `make`.
        """
        if not self._writes:
            return lambda: None
        self._copy = host_copy(self.make(step), self._copy)
        return partial(self._write, self._copy)

    def _write(self, checkpoint: dict[str, Any]) -> None:
        self._run_folder.put_back()
        checkpoint_files.save(self.folder, checkpoint, self._only_latest)
