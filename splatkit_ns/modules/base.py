"""The base of modules, at the place where users import it from."""

from splatkit_ns.parts.base import SplatBaseModule

__all__ = ["SplatBaseModule"]
