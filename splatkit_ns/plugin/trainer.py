"""nerfstudio's trainer with checkpoints that resume, clean-up that always runs, and little work between steps."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, Literal

from nerfstudio.engine.callbacks import TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import profiler, writer
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.utils.writer import EventName
from nerfstudio.viewer.viewer import Viewer as ViewerState
from rich.markup import escape

from splatkit_ns.modules.builtin import BuiltinModules
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.steps import reaches
from splatkit_ns.plugin.optimizers import optimizers_of_run
from splatkit_ns.plugin.options.added_options import AddedOptions
from splatkit_ns.plugin.options.images_per_step import batch_size_of
from splatkit_ns.plugin.options.starting import check_run, fit_run_to_scene, placed, save_run_config, say_what_begins
from splatkit_ns.plugin.pipeline import SplatkitPipeline, SplatkitPipelineConfig
from splatkit_ns.plugin.reporting.console import connect_logging, print_results
from splatkit_ns.plugin.reporting.writers import Vis, explained_logins
from splatkit_ns.plugin.run.checkpoints import stored_state
from splatkit_ns.plugin.run.checkpoints.resuming import run_checkpoint, say_why_stopped
from splatkit_ns.plugin.run.checkpoints.run_checkpoints import RunCheckpoints
from splatkit_ns.plugin.run.checkpoints.saving import Saver
from splatkit_ns.plugin.run.checkpoints.state import RunState
from splatkit_ns.plugin.run.ending.excepthook import install_excepthook
from splatkit_ns.plugin.run.ending.signals import StoppedBySignal, StopRequest, interruptible, stop_requests
from splatkit_ns.plugin.run.folder.own_methods import OpensAnywhere
from splatkit_ns.plugin.run.folder.run_folder import RunFolder
from splatkit_ns.plugin.run.opaque_parts import Opaque
from splatkit_ns.plugin.run.parts.held_out import HeldOutImages
from splatkit_ns.plugin.run.parts.hooks import RunHooks
from splatkit_ns.plugin.run.parts.log import RunLog
from splatkit_ns.plugin.run.parts.modules import draws_progress, load_kernels, run_modules
from splatkit_ns.plugin.run.parts.validation import evaluate
from splatkit_ns.plugin.run.processes.rank_processes import RankedTraining, number_of_ranks
from splatkit_ns.plugin.run.processes.together import Together
from splatkit_ns.plugin.step.finite import FiniteWatch
from splatkit_ns.plugin.step.graph_or_plain import forward_backward
from splatkit_ns.plugin.step.training_step import TrainingStep
from splatkit_ns.plugin.step.updates import ParameterUpdates, training_cores
from splatkit_ns.plugin.viewer.thumbnails import show_photographs
from splatkit_ns.ranks import Ranks
from splatkit_ns.splat.rng import seed_everything


@dataclass
class SplatkitTrainerConfig(OpensAnywhere, AddedOptions, TrainerConfig):
    """Settings of a run."""

    _target: type = field(default_factory=lambda: SplatkitTrainer)
    pipeline: SplatkitPipelineConfig = field(default_factory=SplatkitPipelineConfig)
    """Data and model."""
    hooks: tuple[str, ...] = ()
    """Hooks, by registered name or import path (package.module:Class): LogHook, CheckPointHook."""
    writers: tuple[str, ...] = ()
    """Writers of hooks and trainer, by name or import path: JsonLinesWriter, TensorboardWriter, WandbWriter."""
    vis: Vis = "viewer"
    """Viewer and event writers; none runs neither."""
    modules: BuiltinModules = field(default_factory=BuiltinModules)
    """Other modules that hook into training."""
    attached: Opaque = ()
    """Module instances that belong to the method; see `splatkit_ns.methods.make_method`."""
    held_out: bool = True
    """Measure the held-out images every steps-per-eval-all-images steps and at the end, PSNR and SSIM of at most 64 of
    them, and write a contact sheet of photographs, renders and errors into the run's folder, held_out."""
    cuda_graphs: bool = True
    """On a GPU, launch render, loss and backward pass of a step as one CUDA graph, and the optimizers' step as another,
    unless a module runs between them; small scenes then take half the time. The arithmetic is the same."""
    on_nan: Literal["stop", "skip"] = "stop"
    """The reaction to a loss or gradient that is NaN or infinite: stop, or skip that step and go on. On a GPU, skip
    makes every step wait for the device."""

    def set_timestamp(self) -> None:
        """Name the run after the time, unless it has a name; two runs never get the same name."""
        connect_logging()  # before all settings are printed
        given = placed(self).timestamp
        super().set_timestamp()
        RunFolder.take_name(self, is_new=self.timestamp != given)

    def setup(self, **kwargs: Any) -> Any:
        """The trainer; with several devices an object that trains in a process for each."""
        with interruptible():
            return super().setup(**kwargs) if number_of_ranks(self) == 1 else RankedTraining(self)

    def save_config(self) -> None:
        """Check the options, claim the run's folder, and write ``config.yml``; see `starting.save_run_config`."""
        save_run_config(self)

    def check(self) -> None:
        """Check options and device; see `starting.check_run`."""
        check_run(self)


class SplatkitTrainer(Trainer):
    """Does the work of nerfstudio's trainer around the training steps, which `TrainingStep` runs.

    Raises:
        SplatkitError: on construction, if options are out of range or the device cannot be used; in `setup`, if the
            data is broken.
    """

    config: SplatkitTrainerConfig
    pipeline: SplatkitPipeline

    def __init__(self, config: SplatkitTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        install_excepthook()
        connect_logging()
        config.check()
        self._together = Together(Ranks.current(), config.count_images)
        self._folder = RunFolder(config)
        if self._together.ranks.size == 1:  # several ranks write into a folder that the process which started them has
            self._folder.claim()
        else:
            seed_everything(config.machine.seed)
        super().__init__(config, local_rank)  # one process, as far as nerfstudio knows: gradients are averaged here
        self.train_lock = RLock()  # a hook that is called under it may take it, too
        with self._folder.discarded_if_refused():
            self.modules: list[SplatBaseModule[Any]] = run_modules(config, self.base_dir)
        """Modules that hook into training, besides renderer, loss and densification; more may come before `setup`."""
        self.run_hooks = RunHooks(config, self.modules, self.base_dir)
        self._stop_request = StopRequest()
        load_kernels(config, self.modules, self.device)

    # ------------------------------------------------------------------ set-up

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Make pipeline, optimizers and viewer, and load the checkpoint to resume from."""
        if draws_progress(self.modules):
            self.config.logging.local_writer.enable = False
        refusal, set_up = self._folder.discarded_if_refused(), self.run_hooks.setting_up(self)
        with refusal, interruptible(), set_up, explained_logins(self.config.vis):
            super().setup(test_mode)
            rays = self.pipeline.datamanager.get_train_rays_per_batch()  # loads the images
        config, model, images = self.config, self.pipeline.model, self._together.images_per_step
        config.max_num_iterations = self._together.last_step(self.start_step, config.max_num_iterations)
        model.context.max_steps, model.context.seed = config.max_num_iterations, config.machine.seed
        schedules, first = self.optimizers.schedulers, self.start_step + images - 1
        self._log = RunLog(config.logging.steps_per_log, self.device, schedules, rays, first, images)
        accumulation, has_ranks = self.gradient_accumulation_steps, self._together.ranks.size > 1
        self.training_step = TrainingStep(
            model=model,
            data=self._together.images(self.pipeline.datamanager),
            callbacks=self.callbacks,
            forward_backward=forward_backward(model, self.device, config.cuda_graphs, accumulation, has_ranks),
            gradients=self._together.gradients(model.parts),
            watch=self._watch,
            updates=ParameterUpdates(self.optimizers, accumulation, model.training_state),
            requests=self._checkpoints.requests,
            wants_metrics=self._log.is_due,
            complete_steps=self.start_step,
        )
        self._held_out = HeldOutImages(
            self.pipeline.run_data, self.base_dir, config.held_out, lambda: bool(self._stop_request)
        )
        self._saver = Saver(self._checkpoints, self._state, self.training_step, config, self.start_step, self._together)

    def setup_optimizers(self) -> Optimizers:
        """Optimizers with this run's length and scene scale.

        Before that, the weights of a checkpoint are loaded and the modules are attached, so that everything which
        `_load_checkpoint` restores exists.
        """
        model, together = self.pipeline.model, self._together
        fit_run_to_scene(self.config, model, together.ranks.is_first)
        together.batch_size = batch_size_of(self.config, model.context, self.modules)
        images = together.images_per_step
        model.context.images_per_step, model.context.batch_size = images, together.batch_size
        model.use_modules(self.modules)
        resumed = together.start(self.pipeline.datamanager, lambda: run_checkpoint(self.config))
        if resumed is not None:
            stored_state.restore_weights(self.pipeline, resumed.content, resumed.path, for_training=True)
        groups = self.pipeline.get_param_groups()
        scales = {"means": model.context.scene_scale}
        optimizers = optimizers_of_run(self.config, model.part_params.schedules, groups, scales, images)
        model.training_state.use_optimizers(optimizers.optimizers)
        data, accumulation = self.pipeline.datamanager, self.gradient_accumulation_steps
        scaler, stated = self.grad_scaler, self.config.learning_rates
        self._state = RunState(self.pipeline, model, data, optimizers, scaler, accumulation, images, stated)
        skips, ranks = self.config.on_nan == "skip", together.ranks
        self._watch = FiniteWatch(list(optimizers.optimizers), self.device, self.device == "cpu" or skips, skips, ranks)
        self._checkpoints = RunCheckpoints(self._state, self._watch, self.config, resumed, ranks.is_first)
        model.training_state.use_checkpoints_of(self._checkpoints.requests)
        return optimizers

    def _load_checkpoint(self) -> None:
        """Restore the rest of the checkpoint, after the weights."""
        path = self._checkpoints.take_up()
        if path is not None:
            self._start_step = self.pipeline.model.context.step
            CONSOLE.print(f"Resuming after step {self._start_step} from {escape(str(path))}")

    @property
    def start_step(self) -> int:
        """The first step of this process, 0-based."""
        return self._start_step

    # ------------------------------------------------------------------ training

    def train(self) -> None:
        """Train up to the maximum number of steps, save, and clean up whatever happens.

        Raises:
            StoppedBySignal: a signal was received; everything is saved and cleaned up.
            SplatkitError: a file cannot be written, memory did not suffice, or a loss or gradient is not finite.
        """
        began, dispatcher = time.perf_counter(), self.pipeline.model.dispatcher
        try:
            with stop_requests() as self._stop_request:
                if self._together.ranks.is_first:
                    self._folder.write_transform(self.pipeline.datamanager.train_dataparser_outputs)
                    self._folder.keep_files()
                with self.run_hooks.running(dispatcher), self._saver.saving_before_errors():
                    with self._folder.discarded_if_refused():
                        self.pipeline.model.parts.set_up()
                        stored_state.check_modules(dispatcher)
                    self._train_steps()
                    self.training_step.close()
                    say_why_stopped(self.pipeline.model.context, self.step + 1)
                    with self.train_lock:  # hooks and figures set the model to evaluation and back, as the viewer does
                        if self._stop_request.signum is None:
                            self.pipeline.model.run_post_train(self.optimizers.optimizers)
                        with self._saver.together():
                            self._saver.save_last(self.step, stopped=self.stop_training or bool(self._stop_request))
                        self._together.ranks.await_devices()
                        if self._stop_request.signum is None and self.step >= self._start_step:
                            self._held_out.measure(self.step + 1)
        finally:
            self._log.close()
            self.training_step.close()
            self.pipeline.datamanager.close()
            self._folder.release()
        if self._stop_request.signum is not None:
            raise StoppedBySignal(self._stop_request.signum)
        writer.put_time(EventName.TOTAL_TRAIN_TIME, time.perf_counter() - began, self.step, avg_over_steps=False)
        self._after_train()

    def _init_viewer_state(self) -> None:
        """Show the training cameras in the viewer, with the images that training has loaded."""
        if isinstance(self.viewer_state, ViewerState):
            show_photographs(self.viewer_state, self.training_state, self.pipeline.datamanager)
        else:
            super()._init_viewer_state()

    def begin_steps(self) -> None:
        """Load the images, show them in the viewer, and set the random generators to the first step."""
        self.stop_training, self.step = False, self._start_step - 1
        say_what_begins(self.config, self._start_step, self.pipeline)
        _ = self.pipeline.datamanager.cached_train  # loads the images
        self.pipeline.model.parts.frames.use_cameras(self.pipeline.datamanager.train_cameras)
        self._init_viewer_state()
        self._checkpoints.restore_rng()
        self._log.begin()

    def _train_steps(self) -> None:
        """Train the steps that are left."""
        self.begin_steps()
        images, context = self._together.images_per_step, self.pipeline.model.context
        for step in range(self._start_step, self.config.max_num_iterations, images):
            while self.training_state == "paused" and not self._stops():
                time.sleep(0.01)
            if self._together.agree_to_stop(self._stops(), self._stop_request, context, self.training_step):
                break
            self.step = step + images - 1
            with self._saver.explaining_errors():
                self._train_step(step, last=self.step)

    def _train_step(self, step: int, last: int) -> None:
        """Train one step, `last` its last image; then log, update the viewer, evaluate and save if they are due."""
        with self.train_lock, training_cores(self.device):
            if not (self.pipeline.training and self.pipeline.model.training):
                self.pipeline.train()
            result = self.training_step.run(step)
        self._together.compare(last + 1, self._state.parameters)
        self._log.after_step(last, result)
        self._update_viewer_state(last)
        with self.train_lock:
            self.eval_iteration(last)
        self._saver.save_if_due(last)
        self._log.flush()

    @profiler.time_function
    def eval_iteration(self, step: int) -> None:
        """Evaluate if it is due, and a writer or a module listens."""
        images = self._together.images_per_step
        listens = self.run_hooks.wants_validation(self.pipeline.model.dispatcher)
        if listens and self.pipeline.datamanager.eval_dataset and self._together.ranks.is_first:
            evaluate(self.config, self.pipeline, step, images)
        if reaches(step, self.config.steps_per_eval_all_images, images):
            self._held_out.measure(step + 1)

    def _stops(self) -> bool:
        return self.pipeline.model.context.stop_reason is not None or self.stop_training or bool(self._stop_request)

    def _after_train(self) -> None:
        """Print where the results are; keep the viewer open if the config says so."""
        self.training_state = "completed"
        self._log.flush(waits=True)
        print_results(self.base_dir, self.checkpoint_dir, self._held_out.results)
        for callback in self.callbacks:
            callback.run_callback_at_location(self.step, location=TrainingCallbackLocation.AFTER_TRAIN)
        if not self.config.viewer.quit_on_train_completion:
            with suppress(KeyboardInterrupt):  # Ctrl+C closes the viewer; everything is saved already
                self._train_complete_viewer()

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Write the checkpoint of a step (0-based); see `RunCheckpoints.save`."""
        self._saver.settle()
        self._checkpoints.save(step)
