"""A trainer that another program asks for one step at a time."""

from __future__ import annotations

from contextlib import ExitStack

from splatkit_ns.plugin.run.checkpoints import stored_state
from splatkit_ns.plugin.trainer import SplatkitTrainer


class SteppedTrainer(SplatkitTrainer):
    """Trains as `SplatkitTrainer.train` does, without a viewer, and leaves the loop over the steps to its owner."""

    def begin(self) -> None:
        """Prepare for the first step; after `setup`."""
        model = self.pipeline.model
        with ExitStack() as stack:
            stack.callback(self._folder.release)
            stack.callback(self.pipeline.datamanager.close)
            stack.callback(self.training_step.close)
            stack.enter_context(self.run_hooks.running(model.dispatcher))
            model.parts.set_up()
            stored_state.check_modules(model.dispatcher)
            self.begin_steps()
            self._open = stack.pop_all()

    def train_one(self, step: int) -> None:
        """Train a step; after the last one modules are told that the training ends.

        Args:
            step: its number, 0-based.

        Raises:
            SplatkitError: see `SplatkitTrainer.train`.
        """
        self.step = step
        with self._saver.explaining_errors():
            self._train_step(step, last=step)
        if step + 1 == self.config.max_num_iterations:
            with self.train_lock:
                self.pipeline.model.dispatcher.run("post_train")

    def end(self) -> None:
        """Let modules clean up, and end the threads that read images."""
        self._open.close()
