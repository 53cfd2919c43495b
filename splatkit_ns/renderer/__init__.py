"""Renderers: Gaussians and cameras in, images out."""

from splatkit_ns.renderer._3dgs import Splat3DGSRenderer
from splatkit_ns.renderer.base import RenderMode, SplatRenderer

__all__ = ["RenderMode", "Splat3DGSRenderer", "SplatRenderer"]
