"""The payload of a render, at the place where users import it from."""

from splatkit_ns.parts.payload import SplatRenderPayload

__all__ = ["SplatRenderPayload"]
