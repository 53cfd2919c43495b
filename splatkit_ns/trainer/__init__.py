"""`SplatTrainer`: training from Python."""

from splatkit_ns.trainer.config import SplatTrainerConfig
from splatkit_ns.trainer.trainer import SplatTrainer, SplatTrainerResult

__all__ = ["SplatTrainer", "SplatTrainerConfig", "SplatTrainerResult"]
