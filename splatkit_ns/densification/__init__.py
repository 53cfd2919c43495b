"""Densification: the strategies that add, split and remove Gaussians in training."""

from splatkit_ns.densification.base import SplatDensification
from splatkit_ns.densification.budget import SplatBudgetDensification
from splatkit_ns.densification.default import SplatDefaultDensification
from splatkit_ns.densification.gsplat_strategy import GsplatStrategy
from splatkit_ns.densification.mcmc import SplatMCMCDensification
from splatkit_ns.densification.short_runs import SplatFittingDensification

__all__ = [
    "GsplatStrategy",
    "SplatBudgetDensification",
    "SplatDefaultDensification",
    "SplatDensification",
    "SplatFittingDensification",
    "SplatMCMCDensification",
]
