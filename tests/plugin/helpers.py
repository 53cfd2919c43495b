"""Runs on tiny scenes, inside the tests' own process."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from nerfstudio.plugins.types import MethodSpecification

from splatkit_ns import methods
from splatkit_ns.plugin.pipeline import SplatkitPipeline
from splatkit_ns.plugin.trainer import SplatkitTrainer, SplatkitTrainerConfig


def run_config(
    data: Path,
    output_dir: Path = Path("outputs"),
    *,
    steps: int = 30,
    mcmc: bool = False,
    dataparser: Any = None,
    method: MethodSpecification | None = None,
) -> SplatkitTrainerConfig:
    """The registered method with a few steps, on the CPU, without viewer and network."""
    if method is None:
        method = methods.splatkit_3dgs_mcmc if mcmc else methods.splatkit_3dgs_adc
    config: Any = deepcopy(method.config)
    config.output_dir = output_dir
    config.experiment_name = "tiny"
    config.timestamp = "run"
    config.max_num_iterations, config.full_length = steps, steps  # else its schedules would be those of a short run
    config.vis = "tensorboard"
    config.machine.device_type = "cpu"
    config.logging.local_writer.enable = False
    config.logging.steps_per_log = 10
    config.steps_per_eval_image = config.steps_per_eval_all_images = config.steps_per_save = 10_000
    config.pipeline.model.lpips = False
    if dataparser is not None:
        config.pipeline.datamanager.dataparser = dataparser
    parser: Any = config.pipeline.datamanager.dataparser
    if hasattr(parser, "eval_interval"):
        parser.eval_mode, parser.eval_interval = "interval", 4
    config.pipeline.datamanager.data = data
    return config


def make_pipeline(
    data: Path, test_mode: Any = "val", method: MethodSpecification | None = None, **model_options: Any
) -> SplatkitPipeline:
    """Data and model as a run would make them, in training mode; options by field name of the model's config."""
    config = run_config(data, method=method)
    for name, value in model_options.items():
        assert hasattr(config.pipeline.model, name), name
        setattr(config.pipeline.model, name, value)
    pipeline = config.pipeline.setup(device="cpu", test_mode=test_mode)
    assert isinstance(pipeline, SplatkitPipeline)
    pipeline.model.context.max_steps = 30
    if test_mode == "val":
        pipeline.get_param_groups()  # makes the Gaussians
    return pipeline.train()


def make_trainer(config: SplatkitTrainerConfig) -> SplatkitTrainer:
    """A trainer, set up."""
    torch.manual_seed(0)
    trainer = config.setup(local_rank=0, world_size=1)
    assert isinstance(trainer, SplatkitTrainer)
    trainer.setup()
    return trainer


def forget_writers() -> None:
    """Empty the globals in which nerfstudio keeps writers and what they have still to write."""
    from nerfstudio.utils import profiler, writer

    for kept in (writer.EVENT_WRITERS, writer.EVENT_STORAGE, writer.GLOBAL_BUFFER, profiler.PROFILER):
        kept.clear()
