"""Densification: how Gaussians are added, split and removed while training."""

from splatkit_ns.densification.base import SplatDensification
from splatkit_ns.densification.default import SplatDefaultDensification
from splatkit_ns.densification.mcmc import SplatMCMCDensification
from splatkit_ns.densification.multi_view import SplatMultiViewDensification

__all__ = [
    "SplatDefaultDensification",
    "SplatDensification",
    "SplatMCMCDensification",
    "SplatMultiViewDensification",
]
