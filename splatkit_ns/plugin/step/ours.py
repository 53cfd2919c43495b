"""A test for parts that this package defines."""

from __future__ import annotations

from typing import Any

from splatkit_ns.hooks import HookModule
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.near_misses import is_own_class


def is_ours(part: SplatBaseModule[Any]) -> bool:
    """Whether this package defines the class of a part, and those of the hooks that run in it."""
    hooks = part.hooks if isinstance(part, HookModule) else ()
    return all(is_own_class(type(each)) for each in (part, *hooks))
