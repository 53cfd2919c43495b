"""nerfstudio's trainer with checkpoints that resume, clean-up that always runs, and little work between steps."""

from __future__ import annotations

import json
import logging
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import profiler, writer
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.misc import step_check
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.utils.writer import EventName
from nerfstudio.viewer.viewer import Viewer as ViewerState
from rich import box
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from torch import Tensor

from splatkit_ns.errors import SplatkitError
from splatkit_ns.modules.builtin import BuiltinModules
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.old_configs import FillsInDefaults
from splatkit_ns.plugin.data.initial import weights_follow
from splatkit_ns.plugin.optimizers import run_optimizers
from splatkit_ns.plugin.options.check import check_device, check_options
from splatkit_ns.plugin.options.held import Opaque
from splatkit_ns.plugin.pipeline import SplatkitPipeline, SplatkitPipelineConfig
from splatkit_ns.plugin.reporting.console import connect_logging, report_once
from splatkit_ns.plugin.reporting.writers import explained_logins
from splatkit_ns.plugin.run import checkpoints
from splatkit_ns.plugin.run import folder as run_folder
from splatkit_ns.plugin.run.excepthook import install_excepthook
from splatkit_ns.plugin.run.hooks import RunHooks
from splatkit_ns.plugin.run.log import RunLog
from splatkit_ns.plugin.run.modules import draws_progress, gpu_kernels, run_modules
from splatkit_ns.plugin.run.saving import Saver
from splatkit_ns.plugin.run.signals import StoppedBySignal, StopRequest, interruptible, stop_requests
from splatkit_ns.plugin.run.validation import evaluate
from splatkit_ns.plugin.step.finite import FiniteWatch, NotFiniteError, check_parameters, stop_message
from splatkit_ns.plugin.step.graph import step_graphs
from splatkit_ns.plugin.viewer.thumbnails import Thumbnails
from splatkit_ns.splat import atomic_write_text, clear_gradients, step_together
from splatkit_ns.triton_kernels import load_ahead

Vis = Literal[
    "viewer",
    "wandb",
    "tensorboard",
    "comet",
    "viewer+wandb",
    "viewer+tensorboard",
    "viewer+comet",
    "viewer_legacy",
    "none",
]

logger = logging.getLogger("splatkit_ns")


class LoadedCheckpoint(NamedTuple):
    """What is still needed of the checkpoint that a run goes on from."""

    path: Path
    rng: Any


@dataclass
class SplatkitTrainerConfig(FillsInDefaults, TrainerConfig):
    """Settings of a run."""

    _target: type = field(default_factory=lambda: SplatkitTrainer)
    pipeline: SplatkitPipelineConfig = field(default_factory=SplatkitPipelineConfig)
    """Data and model."""
    hooks: tuple[str, ...] = ()
    """Hooks, by registered name or import path (package.module:Class): LogHook, CheckPointHook."""
    writers: tuple[str, ...] = ()
    """Where hooks and trainer write to, by name or import path: JsonLinesWriter, TensorboardWriter, WandbWriter."""
    vis: Vis = "viewer"
    """Viewer and event writers; none runs neither."""
    modules: BuiltinModules = field(default_factory=BuiltinModules)
    """What else hooks into training."""
    attached: Opaque = ()
    """Module instances that belong to the method; see `splatkit_ns.methods.make_method`."""
    cuda_graphs: bool = True
    """On a GPU, launch render, loss and backward pass of a step as one CUDA graph, where no module looks in between;
    small scenes take half the time for it. The arithmetic is the same."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What to do when the loss or a gradient is NaN or infinite: stop, or leave that step out and go on. On a GPU,
    skip makes every step wait for the device."""

    def set_timestamp(self) -> None:
        """Name the run after the time, unless it has a name; two runs never get the same."""
        given = self.timestamp
        super().set_timestamp()
        if self.timestamp != given:
            run_folder.set_unused_timestamp(self, self.timestamp)
        elif self.load_dir is None and self.load_checkpoint is None:
            run_folder.say_if_new(self)

    def save_config(self) -> None:
        """Check the options, claim the run's folder, and write ``config.yml`` into it.

        A part that cannot be written costs the other ``ns-*`` commands, not the run.

        Raises:
            SplatkitError: options are out of range, the device cannot be used, or the folder cannot be written or
                belongs to another run. No empty folder is left behind.
        """
        install_excepthook()
        try:
            run_folder.recognise(self)
            self.check()
            run_folder.save_config(self)
        except (SplatkitError, StoppedBySignal):
            run_folder.discard_if_empty(self)
            raise
        except Exception as error:  # YAML pickles the parts, and a user's may refuse in any way
            report_once(
                f"There is no config.yml in {self.get_base_dir()}, so ns-eval, ns-export and ns-viewer cannot open "
                f"this run: a part of it cannot be pickled ({type(error).__name__}: {error})."
            )

    def check(self) -> None:
        """Check options and device, before a run begins; the first time on a GPU, gsplat is compiled meanwhile.

        Raises:
            SplatkitError: options are out of range, or the device cannot be used.
            StoppedBySignal: Ctrl+C.
        """
        with interruptible():
            check_options(self)
            check_device(self.machine.device_type)


class SplatkitTrainer(Trainer):
    """Trains a splatkit pipeline.

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
        run_folder.claim(config.get_base_dir())
        super().__init__(config, local_rank, world_size)
        self.modules: list[SplatBaseModule[Any]] = run_modules(config, self.base_dir)
        """What hooks into training besides renderer, loss and densification; may be added to before `setup`."""
        self.run_hooks = RunHooks(self)
        self._stop_request = StopRequest()
        self._loaded: LoadedCheckpoint | None = None
        self._saver = Saver(self)
        self._log = RunLog(self)
        load_ahead(gpu_kernels(config, self.modules), self.device)

    # ------------------------------------------------------------------ set-up

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Make pipeline, optimizers and viewer, and load the checkpoint to resume from."""
        if draws_progress(self.modules):
            self.config.logging.local_writer.enable = False
        resumes = weights_follow(run_folder.goes_on(self.config))
        with interruptible(), self.run_hooks.setting_up(), explained_logins(self.config.vis), resumes:
            super().setup(test_mode)
        model = self.pipeline.model
        model.use_optimizers(self.optimizers.optimizers)
        model.context.max_steps = self.config.max_num_iterations
        model.context.step = self._start_step
        model.context.world_rank = self.local_rank
        every_step = self.device == "cpu" or self.config.on_nan == "skip"
        self.watch = FiniteWatch(list(self.optimizers.optimizers), self.device, every_step)
        model.training_state.checkpoint_source = self.make_checkpoint
        self.pipeline.wants_metrics = self._log.is_due
        self._saver.steps_whole = self._start_step
        model.graphs = step_graphs(self)

    def setup_optimizers(self) -> Optimizers:
        """Optimizers with this run's length and scene scale.

        Modules are attached here because the pipeline is complete, and no checkpoint with their states loaded yet.
        """
        self.pipeline.model.use_modules(self.modules)
        groups = self.pipeline.get_param_groups()
        scales = {"means": self.pipeline.model.context.scene_scale}
        configs = run_optimizers(self.config.optimizers, list(groups), self.config.max_num_iterations, scales)
        optimizers = Optimizers(configs, groups)
        for schedule in optimizers.schedulers.values():
            # torch warns of schedules that step before their optimizer, as where gradients are accumulated first
            setattr(schedule.optimizer, "_opt_called", True)  # noqa: B010
        return optimizers

    # ------------------------------------------------------------------ training

    def train(self) -> None:
        """Train up to the maximum number of steps, save, and clean up whatever happens.

        Raises:
            StoppedBySignal: SIGINT or SIGTERM asked to stop; everything is saved and cleaned up.
            SplatkitError: the run's folder cannot be written, memory did not suffice, the loss or a gradient was not
                finite, or the last checkpoint could not be saved.
        """
        began = time.perf_counter()
        try:
            with stop_requests() as self._stop_request:
                self._write_transform()
                with self.run_hooks.running(), self._saver.saving_before_errors(self._start_step):
                    self.pipeline.model.dispatcher.setup()
                    checkpoints.check_modules(self.pipeline.model.dispatcher)
                    self._train_steps()
                    self.pipeline.model.close_graphs()
                    if self._stop_request.signum is None:
                        self.pipeline.model.dispatcher.run("post_train")
                    self._saver.save_last(self.start_step, stopped=self._stops())
        finally:
            self.pipeline.model.close_graphs()
            run_folder.release(self.base_dir)
        if self._stop_request.signum is not None:
            raise StoppedBySignal(self._stop_request.signum)
        writer.put_time(EventName.TOTAL_TRAIN_TIME, time.perf_counter() - began, self.step, avg_over_steps=False)
        self._after_train()

    def _write_transform(self) -> None:
        outputs = self.pipeline.datamanager.train_dataparser_outputs
        content = {"transform": outputs.dataparser_transform.tolist(), "scale": float(outputs.dataparser_scale)}
        try:
            atomic_write_text(self.base_dir / "dataparser_transforms.json", json.dumps(content, indent=4))
        except OSError as error:
            raise run_folder.unwritable(self.base_dir, error) from error

    def _init_viewer_state(self) -> None:
        """Show the training cameras in the viewer, with the images that have been loaded by now."""
        if not isinstance(self.viewer_state, ViewerState):
            super()._init_viewer_state()
            return
        datamanager = self.pipeline.datamanager
        thumbnails: Any = Thumbnails(datamanager)
        self.viewer_state.init_scene(thumbnails, self.training_state, datamanager.eval_dataset)

    @property
    def start_step(self) -> int:
        """The first step of this process, 0-based."""
        return self._start_step

    def _train_steps(self) -> None:
        steps = range(self._start_step, self.config.max_num_iterations)
        self.stop_training = False
        self.step = self._start_step - 1
        if not steps:
            CONSOLE.print(
                f"The checkpoint has {self._start_step} steps already, --max-num-iterations is "
                f"{self.config.max_num_iterations}: nothing to train. To go on: --load-dir "
                f"{escape(str(self.checkpoint_dir))} with a larger --max-num-iterations, or a larger "
                "max_num_iterations in the config.yml that --load-config reads."
            )
        _ = self.pipeline.datamanager.cached_train  # loads the images
        self._init_viewer_state()
        if self._loaded is not None:
            checkpoints.restore_rng(self._loaded.rng, self._loaded.path)
        self._log.begin()
        for step in steps:
            self._wait_while_paused()
            if self._stops():
                break
            self.step = step
            try:
                self._train_step(step)
            except NotFiniteError as error:
                raise stop_message(error, self._saver.last_checkpoint()) from error
            except Exception as error:
                self._saver.explain_out_of_memory(error, self.start_step)
                self._saver.explain_spoilt_parameters(error)
                raise

    def _train_step(self, step: int) -> None:
        """One step, and what comes between it and the next: logs, evaluation, a checkpoint."""
        with self.train_lock, self._cores():
            self.pipeline.train()
            self._run_callbacks(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
            loss, loss_dict, metrics_dict = self.train_iteration(step)
            self._run_callbacks(step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
            self._saver.steps_whole = step + 1
        self._log.after_step(step, loss, loss_dict, metrics_dict)
        self._update_viewer_state(step)
        with self.train_lock:
            self.eval_iteration(step)
        if step_check(step, self.config.steps_per_save):
            self._saver.try_to_save(step)
        self._log.flush()

    def _cores(self) -> AbstractContextManager[None]:
        """How a step's threads are shared out."""
        if self.device != "cpu":
            return nullcontext()
        from splatkit_ns.rasterize.cpu.parallel import cores_for_kernels  # imports numba

        return cores_for_kernels()

    @profiler.time_function
    def train_iteration(self, step: int) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Forward, backward, and a step of every optimizer and schedule.

        Args:
            step: 0-based.

        Returns:
            The loss, its terms, and metrics where this step is logged.
        """
        accumulation = self.gradient_accumulation_steps
        steps_now: dict[str, torch.optim.Optimizer] = {}
        for name, optimizer in self.optimizers.optimizers.items():
            if step % accumulation[name] == 0:
                clear_gradients(optimizer)
            if step % accumulation[name] == accumulation[name] - 1:
                steps_now[name] = optimizer
        _, loss_dict, metrics_dict = self.pipeline.get_train_loss_dict(step=step)
        model = self.pipeline.model
        loss = model.context.loss
        assert loss is not None
        if not model.has_gradients:
            loss.backward()
        model.dispatcher.run("on_phase", phase="backward")
        self._saver.steps_whole = None
        if self._is_finite():
            for name, optimizer in steps_now.items():
                self._clip_gradients(name, optimizer)
            step_together(steps_now.values())
        model.training_state.accumulating = self.optimizers.optimizers.keys() - steps_now.keys()
        for scheduler in self.optimizers.schedulers.values():
            scheduler.step()
        return loss, loss_dict, metrics_dict

    def _is_finite(self) -> bool:
        """Watch loss and gradients; False if they are not finite and this step is to be skipped.

        Raises:
            NotFiniteError: they are not, and training is to stop. On a GPU this may be a step up to 100 steps ago.
        """
        model = self.pipeline.model
        try:
            self.watch.record(model.context, self.optimizers.optimizers)
        except NotFiniteError as error:
            if self.config.on_nan == "stop":
                raise
            self.watch.skip(error)
            for optimizer in self.optimizers.optimizers.values():
                clear_gradients(optimizer)  # gradients that are accumulated over steps are spoilt, too
            model.skips_step = True
            return False
        model.skips_step = False
        if self.watch.every_step:
            self.watch.succeeded()
        return True

    def _clip_gradients(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        max_norm = self.optimizers.config[name]["optimizer"].max_norm
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], max_norm)

    def _run_callbacks(self, step: int, location: TrainingCallbackLocation) -> None:
        for callback in self.callbacks:
            callback.run_callback_at_location(step, location=location)

    def _wait_while_paused(self) -> None:
        while self.training_state == "paused" and not self._stops():
            time.sleep(0.01)

    @profiler.time_function
    def eval_iteration(self, step: int) -> None:
        """Evaluate where it is due and anyone wants to know: a writer or a module."""
        config = self.config
        enabled = config.is_wandb_enabled() or config.is_tensorboard_enabled() or config.is_comet_enabled()
        if (enabled or self.run_hooks.wants_validation()) and self.pipeline.datamanager.eval_dataset:
            evaluate(self, step)

    def _stops(self) -> bool:
        return self.stop_training or bool(self._stop_request)

    def _after_train(self) -> None:
        """Tell where the results are; stay for the viewer's sake if that was asked for."""
        self.training_state = "completed"
        self._log.flush()
        table = Table(title=None, show_header=False, box=box.MINIMAL)
        table.add_row("Config File", escape(str(self.base_dir / "config.yml")))
        table.add_row("Checkpoint Directory", escape(str(self.checkpoint_dir)))
        CONSOLE.print(Panel(table, title="[bold green]Training Finished[/bold green]", expand=False))
        self._run_callbacks(self.step, TrainingCallbackLocation.AFTER_TRAIN)
        if not self.config.viewer.quit_on_train_completion:
            with suppress(KeyboardInterrupt):  # how one leaves the viewer, with nothing left to save
                self._train_complete_viewer()

    # ------------------------------------------------------------------ checkpoints

    def _load_checkpoint(self) -> None:
        """Take up a checkpoint where the config names one, or where the run's own folder has some."""
        config = self.config
        if config.load_dir is not None:
            path, content = checkpoints.newest_readable(Path(config.load_dir), config.load_step)
        elif config.load_checkpoint is not None:
            path = Path(config.load_checkpoint)
            content = checkpoints.read(path)
        elif run_folder.continues(self.base_dir):
            path, content = checkpoints.newest_readable(self.checkpoint_dir, None)
        else:
            return
        self._start_step = checkpoints.restore(self, content, path)
        self._loaded = LoadedCheckpoint(path, checkpoints.rng_entry(content))
        CONSOLE.print(f"Resuming after step {self._start_step} from {escape(str(path))}")
        self.pipeline.model.context.step = self._start_step
        self.pipeline.model.dispatcher.run("on_checkpoint_loaded")

    def make_checkpoint(self, step: int | None = None, announce: bool = True) -> dict[str, Any]:
        """Everything a run needs to go on, whoever writes it.

        Args:
            step: the last that was trained, 0-based; None means the current one.
            announce: tell modules and hooks before.

        Raises:
            NotFiniteError: a step since the last look was not finite, or a parameter is not.
        """
        self.watch.check()
        if announce:
            self.pipeline.model.dispatcher.run("pre_save_checkpoint")
        check_parameters(checkpoints.parameters(self), self.pipeline.model.context.step)
        return checkpoints.collect(self, self.step if step is None else step)

    @check_main_thread
    def save_checkpoint(self, step: int, announce: bool = True) -> None:
        """Write the checkpoint of a step (0-based), and only then delete older ones if no more are wanted.

        Raises:
            OSError: it could not be written; those before are untouched.
            NotFiniteError: see `make_checkpoint`.
        """
        checkpoint = self.make_checkpoint(step, announce)
        checkpoints.save(self.checkpoint_dir, checkpoint, self.config.save_only_latest_checkpoint)
        self._saver.saved_step = step
