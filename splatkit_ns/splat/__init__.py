"""Gaussians, as trained models (`SplatModel`, files) and in training (`SplatTrainingState`)."""

from splatkit_ns.formats.gaussians import FormatError
from splatkit_ns.formats.ply_header import PlyError
from splatkit_ns.splat.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from splatkit_ns.splat.checkpoint_requests import CheckpointRequests
from splatkit_ns.splat.initialization import random_points
from splatkit_ns.splat.joint_step import clear_gradients, step_together
from splatkit_ns.splat.model import SplatModel
from splatkit_ns.splat.optimizers import LEARNING_RATES, make_optimizers
from splatkit_ns.splat.row_parameters import MissingRowsError
from splatkit_ns.splat.rows import RowChange
from splatkit_ns.splat.training_state import SplatTrainingState

__all__ = [
    "LEARNING_RATES",
    "CheckpointError",
    "CheckpointRequests",
    "FormatError",
    "MissingRowsError",
    "PlyError",
    "RowChange",
    "SplatModel",
    "SplatTrainingState",
    "clear_gradients",
    "make_optimizers",
    "random_points",
    "read_checkpoint",
    "step_together",
    "write_checkpoint",
]
