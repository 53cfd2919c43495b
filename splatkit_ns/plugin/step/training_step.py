"""The training step, from the photograph to the last hook."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from torch import Tensor
from torch.optim import Optimizer

from splatkit_ns.parts.context import StepContext
from splatkit_ns.plugin.step.batch_gradients import BatchGradients
from splatkit_ns.plugin.step.finite import FiniteWatch
from splatkit_ns.plugin.step.frame import TrainingFrame
from splatkit_ns.plugin.step.interfaces import ForwardBackward, FrameSource, StepModel
from splatkit_ns.plugin.step.motion import motion_of, note_done
from splatkit_ns.plugin.step.rank_gradients import GradientExchange, RankGradients
from splatkit_ns.plugin.step.update_graph import CapturedUpdate, SharedUpdateGraph, UpdateGraphs
from splatkit_ns.plugin.step.updates import ParameterUpdates, parameters_of
from splatkit_ns.ranks import RankLost
from splatkit_ns.splat import CheckpointRequests
from splatkit_ns.splat.schema import KEYS


@dataclass(frozen=True, eq=False)
class StepResult:
    """The values of a step for the log."""

    loss: Tensor
    """The mean over the images of this process, scalar."""
    loss_terms: dict[str, Tensor]
    """The named terms of the last image's loss."""
    metrics: dict[str, Any]
    """Figures of the last image; empty unless they are wanted."""


class TrainingStep:
    """Runs the steps of a run, one after the other.

    Args:
        model: renders, compares and densifies.
        data: gives the training images.
        callbacks: those of model, datamanager and pipeline; the model's callbacks count the step and run the hooks
            around it.
        forward_backward: run render, loss and backward pass, one for each image of a step.
        gradients: makes the gradients of this process those of all ranks.
        watch: detects values that are not finite.
        updates: optimizers and schedules.
        requests: the checkpoints that parts have requested during the step.
        wants_metrics: whether a step (0-based) is logged.
        complete_steps: the number of steps that have been trained before.
    """

    def __init__(
        self,
        *,
        model: StepModel,
        data: FrameSource,
        callbacks: Sequence[TrainingCallback],
        forward_backward: Sequence[ForwardBackward],
        gradients: GradientExchange,
        watch: FiniteWatch,
        updates: ParameterUpdates,
        requests: CheckpointRequests,
        wants_metrics: Callable[[int], bool],
        complete_steps: int,
    ) -> None:
        self._model, self._data, self._callbacks = model, data, callbacks
        self._forward_backward, self._gradients = forward_backward, gradients
        self.watch, self._updates = watch, updates
        self._batch = BatchGradients(model.context.batch_size, updates.optimizers)
        motion = partial(motion_of, model.parts, updates)
        self._update_graphs = UpdateGraphs(watch, updates, motion)
        self._shared_graph: SharedUpdateGraph | None = None
        """The graph of all ranks; None if each steps its optimizers by itself."""
        if isinstance(gradients, RankGradients) and gradients.fits_graphs and forward_backward[0].makes_graphs:
            self._shared_graph = SharedUpdateGraph(watch, updates, gradients, motion)
        for each in forward_backward:
            each.meanwhile, each.when_slow = self._work_ahead, self._look_for_lost_ranks
        self._requests, self._wants_metrics = requests, wants_metrics
        self._has_looked_for_gradients = False
        self.complete_steps: int | None = complete_steps
        """The number of steps that the present state is the result of; None in the middle of a step."""

    def run(self, step: int) -> StepResult:
        """Train one step.

        Args:
            step: nerfstudio's, 0-based.

        Raises:
            NotFiniteError: the loss or a gradient of this step, or on a GPU of one shortly before, is not finite.
            RankLost: another rank has ended.
            ModuleError: a part has replaced a parameter of the Gaussians.
        """
        model, context, updates = self._model, self._model.context, self._updates
        images = context.images_per_step
        with self._requests.collected():
            updates.clear_gradients(step // images)
            self._run_callbacks(TrainingCallbackLocation.BEFORE_TRAIN_ITERATION, step)  # counts the step; `pre_batch`
            self._batch.begin()
            context.names_in_batch, outputs, batch = (), {}, {}
            with self._gradients.collected():
                for number, (frame, batch) in enumerate(self._images(step), 1):  # `pre_step`
                    outputs = self._forward_backward[number - 1].run(frame, batch)  # `get_outputs`, `get_loss_dict`
                    self._note_image(frame, is_last=number == self._batch.size)
                    if number < self._batch.size:
                        outputs = {}  # or its graph of autograd would live, and no CUDA graph could be captured
            metrics = model.get_metrics_dict(outputs, batch) if self._wants_metrics(step + images - 1) else {}
            own_loss = self._batch.finish()
            self._gradients.wait()
            update, loss = self._update_or_loss(own_loss)
            if not self._has_looked_for_gradients:
                self._has_looked_for_gradients = True
                _warn_without_gradients(context, updates.optimizers)
            model.parts.dispatcher.run("on_phase", phase="backward")
            self.complete_steps = None
            if update is not None:  # what follows, up to densification, is one launch of a CUDA graph
                update.prepare(model.parts)
                self.watch.record(context, update.run())
                note_done(update.motion, model.parts)
            elif self.watch.admits(context, updates.optimizers, own_loss, loss):  # it is launched kernel by kernel
                updates.step(step // images)
            else:  # loss or gradients are not finite, and such steps are left out
                updates.clear_all_gradients()  # gradients that are being summed up are spoilt, too
                context.is_skipped = True
            updates.step_schedules(images)
            self._run_callbacks(TrainingCallbackLocation.AFTER_TRAIN_ITERATION, step)  # densification, `post_step`
            updates.check_parameters(context.step)
            self.complete_steps = step + images
        return StepResult(own_loss, context.loss_terms, metrics)

    @property
    def works(self) -> list[int]:
        """The work of this process's images in the last step but one; see `ForwardBackward.work`."""
        return [each.work for each in self._forward_backward]

    def last_works(self) -> list[int]:
        """The work of this process's images in the last two steps, in their order; waits for the device."""
        return [*self.works, *(each.last_work() for each in self._forward_backward)]

    def _images(self, step: int) -> Iterator[tuple[TrainingFrame, dict[str, Any]]]:
        """The images of a step with their batches, each when it is its turn, begun; if their graphs run beside each
        other, all are begun before the first."""
        begun = (self._begin_image(step, number) for number in range(self._batch.size))
        if not self._forward_backward[0].runs_beside:
            yield from begun
            return
        context, parts = self._model.context, self._model.parts
        for number, (frame, batch) in enumerate(list(begun)):
            context.start_step(context.step, number)
            parts.use_frame(frame)
            parts.reseed_render()
            yield frame, batch

    def _begin_image(self, step: int, number: int) -> tuple[TrainingFrame, dict[str, Any]]:
        camera, batch = self._data.next_train(step)
        frame = self._model.parts.take_frame(camera, batch, number)
        self._forward_backward[number].begin(frame)
        return frame, batch

    def _note_image(self, frame: TrainingFrame, is_last: bool) -> None:
        """Take the gradients of the image that has just been rendered, its work and its name."""
        context, parts = self._model.context, self._model.parts
        assert context.loss is not None
        self._batch.add(context.loss)
        self._gradients.take_image()
        context.names_in_batch += (frame.image_name,)
        if not is_last:  # `densify` counts that one
            parts.dispatcher.run("on_phase", phase="backward")
            parts.count_image()

    def _work_ahead(self) -> None:
        """Do what the rest of the step needs before, unless it runs without a graph; it may also be done then."""
        self._gradients.wait()
        expected = (self._shared_graph or self._update_graphs).last
        if expected is not None:
            expected.prepare(self._model.parts)

    def _look_for_lost_ranks(self) -> None:
        """Give up if another rank has ended: the GPU may wait for it in the exchange of the last step, for ever.

        Raises:
            RankLost: it has.
        """
        if isinstance(self._gradients, RankGradients) and self._gradients.is_lost:
            raise RankLost("Another process of this run has ended.")

    def _update_or_loss(self, own_loss: Tensor) -> tuple[CapturedUpdate | None, Tensor]:
        """The graph of the rest of the step, which with several ranks averages gradients; without one they are averaged
        now, and the second is the mean loss."""
        if self._shared_graph is not None:
            update = self._shared_graph.take(own_loss)
            if update is not None:
                return update, own_loss
        loss = self._gradients.average(self._updates.optimizers, own_loss)
        if self._shared_graph is None and self._forward_backward[-1].is_replay:
            return self._update_graphs.take(own_loss, loss), loss
        return None, loss

    def steps_alike(self) -> int:
        """The number that this rank says at the beginning of each step; see `SharedUpdateGraph`."""
        if self._shared_graph is None:
            return 0
        return self._shared_graph.steps_alike(needs_memory=any(each.needs_graph for each in self._forward_backward))

    def release_memory(self) -> None:
        """Free the images of the last step, all gradients, and the memory of CUDA graphs."""
        self.close()
        self._model.context.start_step(self._model.context.step)
        self._updates.clear_all_gradients()
        self._batch.free()

    def close(self) -> None:
        """Free the memory of CUDA graphs; the images of the last step stay."""
        for each in self._forward_backward:
            each.close()
        self._update_graphs.close()
        if self._shared_graph is not None:
            self._shared_graph.close()

    def _run_callbacks(self, location: TrainingCallbackLocation, step: int) -> None:
        for callback in self._callbacks:
            callback.run_callback_at_location(step, location=location)


def _warn_without_gradients(context: StepContext, optimizers: Mapping[str, Optimizer]) -> None:
    """Warn if the loss of the first step depends on no parameter of the Gaussians: on copies of them, for example."""
    wanting = [param for name, param in parameters_of(optimizers).items() if name in KEYS and param.requires_grad]
    if wanting and all(param.grad is None for param in wanting):
        context.logger.warning(
            "No gradient has reached the Gaussians at step %d: they stay as they are, if that goes on. Render "
            "training_state, or a SplatTrainingState(params, {}) made of its params; from_tensors and SplatModel hold "
            "copies, and detach() ends gradients.",
            context.step,
        )
