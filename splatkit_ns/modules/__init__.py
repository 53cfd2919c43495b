"""Modules: the parts whose hooks are called during training."""

from splatkit_ns.modules.builtin import BuiltinModules
from splatkit_ns.modules.checkpointer import SplatCheckpointer
from splatkit_ns.modules.evaluator import SplatEvaluator
from splatkit_ns.modules.exporter import SplatExporter
from splatkit_ns.modules.progress import SplatProgressTracker
from splatkit_ns.modules.resolution import SplatResolutionSchedule
from splatkit_ns.modules.tensorboard import SplatTensorboard
from splatkit_ns.modules.timer import SplatTimer
from splatkit_ns.modules.transients import SplatTransientMasks
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.context import call_named
from splatkit_ns.parts.evaluation import EvaluationSource, ImageEvaluation
from splatkit_ns.parts.frame_edit import Crop, FrameEdit
from splatkit_ns.parts.image_frame import ImageFrame
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.parts.steps import is_due
from splatkit_ns.parts.trainables import RowTrainable, Trainable

__all__ = [
    "BuiltinModules",
    "Crop",
    "EvaluationSource",
    "FrameEdit",
    "ImageEvaluation",
    "ImageFrame",
    "RowTrainable",
    "SplatBaseModule",
    "SplatCheckpointer",
    "SplatEvaluator",
    "SplatExporter",
    "SplatProgressTracker",
    "SplatRenderPayload",
    "SplatResolutionSchedule",
    "SplatTensorboard",
    "SplatTimer",
    "SplatTransientMasks",
    "Trainable",
    "call_named",
    "is_due",
]
