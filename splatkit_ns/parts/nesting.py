"""Parts that other parts hold, as a renderer that changes the images of another one holds that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from splatkit_ns.parts.base import SplatBaseModule

PartT = TypeVar("PartT", bound=SplatBaseModule[Any])


def held_parts(part: SplatBaseModule[Any]) -> list[SplatBaseModule[Any]]:
    """The parts that a part holds: its attributes, and what is in lists, tuples and dicts among them.

    Those that they hold themselves are not among them.
    """
    found: dict[int, SplatBaseModule[Any]] = {}
    for value in getattr(part, "__dict__", {}).values():  # submodules of an `nn.Module` are in a dict there
        for entry in _entries(value):
            for each in entry.children() if isinstance(entry, nn.ModuleList | nn.ModuleDict) else (entry,):
                if isinstance(each, SplatBaseModule) and each is not part:
                    found[id(each)] = each
    return list(found.values())


def _entries(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple):
        yield from value
    else:
        yield value


def with_held_parts(parts: Sequence[SplatBaseModule[Any]]) -> list[SplatBaseModule[Any]]:
    """Parts, each after all those that it holds and that are not among them. A part that is idle is alone."""
    seen = {id(part) for part in parts}
    found: list[SplatBaseModule[Any]] = []

    def add(part: SplatBaseModule[Any]) -> None:
        for held in [] if part.is_idle else held_parts(part):
            if id(held) not in seen:
                seen.add(id(held))
                add(held)
        found.append(part)

    for part in parts:
        add(part)
    return found


def only_held(part: SplatBaseModule[Any], kind: type[PartT]) -> PartT | None:
    """The part of a kind that a part holds; None if it holds none, or several."""
    found = [held for held in held_parts(part) if isinstance(held, kind)]
    return found[0] if len(found) == 1 else None


def part_with(part: Any, attribute: str) -> Any:
    """The part itself if it has an attribute, or else the first part inside it that has; None if there is none."""
    if hasattr(part, attribute) or not isinstance(part, SplatBaseModule):
        return part if hasattr(part, attribute) else None
    return next((held for held in reversed(with_held_parts([part])) if hasattr(held, attribute)), None)


def passed_on(part: SplatBaseModule[Any], methods: Iterable[str]) -> list[tuple[str, str]]:
    """The methods that a part seems to pass on by hand to a part that it holds, which would run them twice.

    Args:
        part: that holds others.
        methods: the names of the methods that are called of every part.

    Returns:
        The name of each such method, and that of the attribute with the held part.
    """
    holders = [name for name, value in getattr(part, "__dict__", {}).items() if any(map(_is_part, _entries(value)))]
    found: list[tuple[str, str]] = []
    for method in methods if holders else ():
        code = getattr(getattr(type(part), method, None), "__code__", None)
        named = () if code is None or type(part).__module__.startswith("splatkit_ns.") else code.co_names
        if method in named:
            found += [(method, holder) for holder in holders if holder in named]
    return found


def _is_part(value: Any) -> bool:
    return isinstance(value, SplatBaseModule)
