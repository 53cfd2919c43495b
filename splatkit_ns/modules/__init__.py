"""Modules: what hooks into training."""

from splatkit_ns.modules.base import SplatBaseModule
from splatkit_ns.modules.frame import SplatRenderPayload

__all__ = ["SplatBaseModule", "SplatRenderPayload"]
