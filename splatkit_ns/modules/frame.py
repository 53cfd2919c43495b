"""The payload of a render, in the module from which users import it."""

from splatkit_ns.parts.payload import SplatRenderPayload

__all__ = ["SplatRenderPayload"]
