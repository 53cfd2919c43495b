"""The work of ``ns-train`` after its arguments are read, without importing all methods of nerfstudio."""

from __future__ import annotations

import torch
from nerfstudio.utils import profiler

from splatkit_ns.plugin.loading import read_config
from splatkit_ns.plugin.trainer import SplatkitTrainerConfig
from splatkit_ns.splat.rng import seed_everything


def train(config: SplatkitTrainerConfig) -> None:
    """Train a run of one of our methods.

    The steps are those of nerfstudio/scripts/train.py (main, launch and train_loop of 1.1.5); for several devices, the
    config itself makes the trainer start processes.

    Args:
        config: the config as the command line gives it.

    Raises:
        SplatkitError: `SplatkitTrainer` says when; or ``--load-config`` cannot be read.
        StoppedBySignal: the training has been stopped.
    """
    torch.backends.cudnn.benchmark = True
    if config.data:
        config.pipeline.datamanager.data = config.data
    if config.load_config:
        config = read_config(config.load_config, how_to_trust="use ns-train, which trusts every config")
    config.set_timestamp()
    config.print_to_terminal()
    config.save_config()
    seed_everything(config.machine.seed)
    try:
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        trainer.train()
    finally:
        profiler.flush_profiler(config.logging)
