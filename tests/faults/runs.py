"""Small runs for tests of faults: in this process, or in a fork of it, which costs no imports."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from splatkit_ns.densification import SplatDefaultDensification, SplatMCMCDensification
from splatkit_ns.methods import splatkit_3dgs
from splatkit_ns.modules.base import SplatBaseModule
from splatkit_ns.plugin import run_folder
from splatkit_ns.plugin.trainer import SplatkitTrainer, SplatkitTrainerConfig, writer

MAX_STEPS = 36
REFINE_EVERY = 5
RESET_EVERY = 12
DENSIFICATIONS: dict[str, Any] = {
    "default": SplatDefaultDensification(
        refine_start_iter=4,
        refine_every=REFINE_EVERY,
        refine_stop_iter=30,
        reset_every=RESET_EVERY,
        grow_grad2d=1e-5,
        max_gaussians=400,
    ),
    "mcmc": SplatMCMCDensification(
        refine_start_iter=4, refine_every=REFINE_EVERY, refine_stop_iter=30, max_gaussians=120, min_opacity=0.05
    ),
}
"""Refinement and opacity resets within a few dozen steps."""


def make_config(scene: Path, output: Path, densification: str = "default", **options: Any) -> SplatkitTrainerConfig:
    """A run on the CPU in `output`/run.

    Args:
        scene: a data set of `tiny_scene`.
        output: folder for the run's folder.
        densification: one of `DENSIFICATIONS`.
        options: fields of the trainer's config, by name; `model_…` and `data_…` are those of model and datamanager.
    """
    config = deepcopy(splatkit_3dgs.config)
    assert isinstance(config, SplatkitTrainerConfig)
    config.output_dir, config.experiment_name, config.timestamp = output, "runs", "run"
    config.machine.device_type = "cpu"
    config.max_num_iterations = MAX_STEPS
    config.steps_per_save = 1000
    config.vis = "tensorboard"  # the viewer would open a port; evaluation belongs to what is tested
    config.steps_per_eval_image = 7
    config.steps_per_eval_all_images = 1000
    config.logging.local_writer.enable = False
    config.viewer.quit_on_train_completion = True
    model, data = config.pipeline.model, config.pipeline.datamanager
    data.data = scene
    model.densification = deepcopy(DENSIFICATIONS[densification])
    model.sh_degree_interval = 6
    model.num_downscales, model.resolution_schedule = 1, 8
    model.lpips = False
    for name, value in options.items():
        if name.startswith("model_"):
            setattr(model, name.removeprefix("model_"), value)
        elif name.startswith("data_"):
            setattr(data, name.removeprefix("data_"), value)
        else:
            setattr(config, name, value)
    return config


def make_trainer(config: SplatkitTrainerConfig, *modules: SplatBaseModule[Any], seed: int = 42) -> SplatkitTrainer:
    """What `ns-train` does before training, and modules of the test's own."""
    writer.EVENT_WRITERS.clear()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    trainer = config.setup()
    assert isinstance(trainer, SplatkitTrainer)
    trainer.setup()
    if modules:
        trainer.pipeline.model.use_modules(list(modules))
    return trainer


def train(config: SplatkitTrainerConfig, *modules: SplatBaseModule[Any]) -> SplatkitTrainer:
    """Run to the end, in this process."""
    trainer = make_trainer(config, *modules)
    try:
        trainer.train()
    finally:
        run_folder.release(config.get_base_dir())
    return trainer


class At(SplatBaseModule[Any]):
    """Does something at one step (1-based), after the optimizers and densification; notes that it was cleaned up."""

    def __init__(self, when: int, action: Callable[[], None]) -> None:
        self.when, self.action = when, action
        self.steps: list[int] = []
        self.cleaned_up = 0

    def post_step(self, step: int) -> None:
        self.steps.append(step)
        if step == self.when:
            self.action()

    def on_cleanup(self) -> None:
        self.cleaned_up += 1


def send(signum: int) -> Callable[[], None]:
    """An action that sends this process a signal."""
    return lambda: os.kill(os.getpid(), signum)


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two checkpoints are not the same bits."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())
        return [] if same else [where]
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return [f"{where}: {sorted(map(str, one.keys() ^ other.keys()))}"]
        return [found for key in one for found in differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            return [f"{where}: {len(one)} and {len(other)}"]
        pairs = enumerate(zip(one, other, strict=True))
        return [found for i, (a, b) in pairs for found in differences(a, b, f"{where}/{i}")]
    return [] if one == other else [f"{where}: {one!r:.60} and {other!r:.60}"]


class Child:
    """A fork of this process that runs a function; its output goes to a file.

    Kernels and imports are shared, so it starts in milliseconds. It may start threads of its own, for none of this
    process are in it: do not fork while kernels run.
    """

    def __init__(self, function: Callable[[], Any], output: Path) -> None:
        self.output = output
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout = open(1, "w", closefd=False, buffering=1)  # noqa: SIM115
            sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
            for signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
            torch.set_num_threads(1)
            numba.set_num_threads(1)
            function()
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def wait(self, timeout: float = 60.0) -> int:
        """The exit status; minus the signal's number where one ended it.

        Raises:
            TimeoutError: it still ran after `timeout` seconds, and was killed.
        """
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        self.kill(signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise TimeoutError(f"the child ran longer than {timeout} s: {self.text()[-2000:]}")

    def kill(self, signum: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, signum)

    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text() if self.output.exists() else ""
