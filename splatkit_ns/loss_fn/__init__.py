"""Losses: measures of the difference between a render and its photograph."""

from splatkit_ns.loss_fn._2dgs import Splat2DGSLossFn
from splatkit_ns.loss_fn._3dgs import Splat3DGSLossFn
from splatkit_ns.loss_fn.base import SplatLossFn

__all__ = ["Splat2DGSLossFn", "Splat3DGSLossFn", "SplatLossFn"]
