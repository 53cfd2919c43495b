"""`SplatTrainer`: training from Python; `open_run`: a run that has been trained."""

from splatkit_ns.trainer.config import SplatTrainerConfig
from splatkit_ns.trainer.result import OpenedRun, SplatTrainerResult, open_run
from splatkit_ns.trainer.trainer import SplatTrainer

__all__ = ["OpenedRun", "SplatTrainer", "SplatTrainerConfig", "SplatTrainerResult", "open_run"]
