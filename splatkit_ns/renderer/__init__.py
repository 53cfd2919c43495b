"""Renderers: they turn Gaussians and cameras into images."""

from splatkit_ns.parts.payload_2dgs import Splat2DGSPayload
from splatkit_ns.renderer._2dgs import Splat2DGSRenderer
from splatkit_ns.renderer._3dgs import Splat3DGSRenderer
from splatkit_ns.renderer.base import RenderMode, RenderOptions, SplatRenderer

__all__ = ["RenderMode", "RenderOptions", "Splat2DGSPayload", "Splat2DGSRenderer", "Splat3DGSRenderer", "SplatRenderer"]
