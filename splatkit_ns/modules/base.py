"""The base of modules, in the module from which users import it."""

from splatkit_ns.parts.base import SplatBaseModule

__all__ = ["SplatBaseModule"]
