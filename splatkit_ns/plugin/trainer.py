"""nerfstudio's trainer with checkpoints that resume, clean-up that always runs, and little work between steps."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import profiler, writer
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.misc import step_check
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.utils.writer import EventName
from rich import box
from rich.panel import Panel
from rich.table import Table
from torch import Tensor

from splatkit_ns.plugin import checkpoints
from splatkit_ns.plugin.optimizers import run_optimizers
from splatkit_ns.plugin.options import check_device, check_options
from splatkit_ns.plugin.pipeline import SplatkitPipeline, SplatkitPipelineConfig
from splatkit_ns.plugin.reporting import connect_logging, install_excepthook

STEPS_PER_LOSS_CHECK = 100
"""On a GPU the loss is read back, to see whether it is finite, once every this many steps."""


@dataclass
class SplatkitTrainerConfig(TrainerConfig):
    """Settings of a run."""

    _target: type = field(default_factory=lambda: SplatkitTrainer)
    pipeline: SplatkitPipelineConfig = field(default_factory=SplatkitPipelineConfig)
    """Data and model."""


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
        check_options(config)
        check_device(config.machine.device_type)
        super().__init__(config, local_rank, world_size)

    # ------------------------------------------------------------------ set-up

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Make pipeline, optimizers and viewer, and load the checkpoint to resume from."""
        super().setup(test_mode)
        model = self.pipeline.model
        model.use_optimizers(self.optimizers.optimizers)
        model.context.max_steps = self.config.max_num_iterations
        model.context.step = self._start_step
        model.context.world_rank = self.local_rank
        self.pipeline.wants_metrics = self._logs_at

    def setup_optimizers(self) -> Optimizers:
        """Optimizers with this run's length and scene scale."""
        groups = self.pipeline.get_param_groups()
        scales = {"means": self.pipeline.model.context.scene_scale}
        configs = run_optimizers(self.config.optimizers, list(groups), self.config.max_num_iterations, scales)
        return Optimizers(configs, groups)

    # ------------------------------------------------------------------ training

    def train(self) -> None:
        """Train up to the maximum number of steps, save, and clean up whatever happens."""
        self.base_dir.mkdir(parents=True, exist_ok=True)
        self.pipeline.datamanager.train_dataparser_outputs.save_dataparser_transform(
            self.base_dir / "dataparser_transforms.json"
        )
        self._init_viewer_state()
        self.stop_training = False
        dispatcher = self.pipeline.model.dispatcher
        began = time.time()
        try:
            dispatcher.setup()
            self._train_steps()
            self.save_checkpoint(self.step)
        finally:
            dispatcher.cleanup()
        writer.put_time(EventName.TOTAL_TRAIN_TIME, time.time() - began, self.step, avg_over_steps=False)
        self._after_train()

    def _train_steps(self) -> None:
        steps = range(self._start_step, self.config.max_num_iterations)
        if not steps:
            CONSOLE.print(
                f"The checkpoint has {self._start_step} steps already, --max-num-iterations is "
                f"{self.config.max_num_iterations}: nothing to train. Ask for more steps to go on."
            )
            self.step = self._start_step - 1
        writer.GLOBAL_BUFFER["step"] = self._start_step  # the terminal's table reads it before the first logged step
        for step in steps:
            self._wait_while_paused()
            if self.stop_training:
                break
            self.step = step
            with self.train_lock:
                self.pipeline.train()
                self._run_callbacks(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
                loss, loss_dict, metrics_dict = self.train_iteration(step)
                self._run_callbacks(step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
            if step == self._start_step:
                self._last_log = (step, time.perf_counter())
            elif self._logs_at(step):
                self._log(step, loss, loss_dict, metrics_dict)
            self._update_viewer_state(step)
            with self.train_lock:
                self.eval_iteration(step)
            if step_check(step, self.config.steps_per_save):
                self.save_checkpoint(step)
            writer.write_out_storage()

    @profiler.time_function
    def train_iteration(self, step: int) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Forward, backward, and a step of every optimizer and schedule.

        Args:
            step: 0-based.

        Returns:
            The loss, its terms, and metrics where this step is logged.
        """
        accumulation = self.gradient_accumulation_steps
        for name, optimizer in self.optimizers.optimizers.items():
            if step % accumulation[name] == 0:
                optimizer.zero_grad(set_to_none=True)
        _, loss_dict, metrics_dict = self.pipeline.get_train_loss_dict(step=step)
        model = self.pipeline.model
        if self.device == "cpu" or step_check(step, STEPS_PER_LOSS_CHECK, run_at_zero=True):
            model.check_loss()
        loss = model.context.loss
        assert loss is not None
        loss.backward()
        for name, optimizer in self.optimizers.optimizers.items():
            if step % accumulation[name] == accumulation[name] - 1:
                self._clip_gradients(name, optimizer)
                optimizer.step()
        for scheduler in self.optimizers.schedulers.values():
            scheduler.step()
        return loss, loss_dict, metrics_dict

    def _clip_gradients(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        max_norm = self.optimizers.config[name]["optimizer"].max_norm
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], max_norm)

    def _run_callbacks(self, step: int, location: TrainingCallbackLocation) -> None:
        for callback in self.callbacks:
            callback.run_callback_at_location(step, location=location)

    def _wait_while_paused(self) -> None:
        while self.training_state == "paused" and not self.stop_training:
            time.sleep(0.01)

    # ------------------------------------------------------------------ logging

    def _logs_at(self, step: int) -> bool:
        """Not at the first step, whose time is that of loading images and compiling kernels."""
        return step > self._start_step and step_check(step, self.config.logging.steps_per_log)

    def _log(self, step: int, loss: Tensor, loss_dict: dict[str, Tensor], metrics_dict: dict[str, Tensor]) -> None:
        last_step, last_time = self._last_log
        now = time.perf_counter()
        seconds = (now - last_time) / (step - last_step)
        writer.put_time(EventName.ITER_TRAIN_TIME, seconds, step, avg_over_steps=True, update_eta=True)
        rays = self.pipeline.datamanager.get_train_rays_per_batch()
        writer.put_time(EventName.TRAIN_RAYS_PER_SEC, rays / seconds, step, avg_over_steps=True)
        self._last_log = (step, now)
        writer.put_scalar(name="Train Loss", scalar=loss.detach(), step=step)
        terms = {name: term.detach() for name, term in loss_dict.items()}
        writer.put_dict(name="Train Loss Dict", scalar_dict=terms, step=step)
        writer.put_dict(name="Train Metrics Dict", scalar_dict=metrics_dict, step=step)
        for name, scheduler in self.optimizers.schedulers.items():
            writer.put_scalar(name=f"learning_rate/{name}", scalar=scheduler.get_last_lr()[0], step=step)
        if self.device != "cpu":
            megabytes = torch.cuda.max_memory_allocated() / 1024**2
            writer.put_scalar(name="GPU Memory (MB)", scalar=megabytes, step=step)

    def _after_train(self) -> None:
        """Tell where the results are; stay for the viewer's sake if that was asked for."""
        self.training_state = "completed"
        writer.write_out_storage()
        table = Table(title=None, show_header=False, box=box.MINIMAL)
        table.add_row("Config File", str(self.base_dir / "config.yml"))
        table.add_row("Checkpoint Directory", str(self.checkpoint_dir))
        CONSOLE.print(Panel(table, title="[bold green]Training Finished[/bold green]", expand=False))
        self._run_callbacks(self.step, TrainingCallbackLocation.AFTER_TRAIN)
        if not self.config.viewer.quit_on_train_completion:
            self._train_complete_viewer()

    # ------------------------------------------------------------------ checkpoints

    def _load_checkpoint(self) -> None:
        """Take up a checkpoint where the config names one."""
        config = self.config
        if config.load_dir is not None:
            path, loaded = checkpoints.newest_readable(Path(config.load_dir), config.load_step)
        elif config.load_checkpoint is not None:
            path = Path(config.load_checkpoint)
            loaded = checkpoints.read(path)
        else:
            return
        self._start_step = checkpoints.restore(self, loaded, path)
        CONSOLE.print(f"Resuming after step {loaded['step']} from {path}")

    def make_checkpoint(self, step: int | None = None) -> dict[str, Any]:
        """Everything a run needs to go on after a step (0-based; None means the current one)."""
        return checkpoints.collect(self, self.step if step is None else step)

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Write the checkpoint of a step (0-based), and only then delete older ones if no more are wanted."""
        checkpoints.save(self.checkpoint_dir, self.make_checkpoint(step), self.config.save_only_latest_checkpoint)
