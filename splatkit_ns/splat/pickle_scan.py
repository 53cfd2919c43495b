"""A check of a pickle before it is loaded, for tuples that would hang or crash the process.

A key of a dict is hashed, and Python hashes tuples by a recursion in C through everything in them. About 100,000 nested
tuples overflow the stack, which ends the process. A tuple that holds the same tuple twice, which holds another tuple
twice, and so on for n levels, takes 2^n steps. No genuine checkpoint has either.
"""

from __future__ import annotations

import io
import pickletools
from typing import NamedTuple

MAX_DEPTH = 100
"""The deepest nesting of tuples."""
_EXPANSION = 10  # the entries that references to tuples may stand for, per byte of the pickle ...
_FREE_ENTRIES = 10_000  # ... beyond this
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_HASHABLE = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "NEWOBJ", "BUILD"})


class _Item(NamedTuple):
    """A value on the stack: its depth of nested tuples, and its entries if every tuple were written out."""

    depth: int = 0
    entries: int = 1


_LEAF, _MARK = _Item(), _Item()


def check_tuples(pickled: bytes) -> None:
    """Check that hashing takes time in proportion to the pickle's size, and no deep recursion.

    Raises:
        ValueError: hashing would take more than that, or this is no pickle.
    """
    stack: list[_Item] = []
    memo: dict[object, _Item] = {}
    room = _FREE_ENTRIES + _EXPANSION * len(pickled)
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(pickled)):
            if opcode.name in _GETS:
                stack.append(memo[argument])
                room -= stack[-1].entries
            elif opcode.name in _PUTS:
                memo[argument] = stack[-1]
            else:
                parts = _pop(stack, opcode)
                made = _LEAF if opcode.name not in _HASHABLE else _tuple_of(parts)
                stack.extend(_MARK if kind is pickletools.markobject else made for kind in opcode.stack_after)
            if stack and stack[-1].depth > MAX_DEPTH:
                raise ValueError(f"its pickle has more than {MAX_DEPTH} tuples in one another")
            if room < 0:
                raise ValueError("its pickle has tuples that refer to one another too often")
    except (IndexError, KeyError) as error:
        raise ValueError("its pickle uses a value that is not there") from error


def _pop(stack: list[_Item], opcode: pickletools.OpcodeInfo) -> list[_Item]:
    """Pop the operands of an operation from the stack."""
    parts: list[_Item] = []
    for kind in reversed(opcode.stack_before):
        if kind is pickletools.stackslice:
            while stack[-1] is not _MARK:
                parts.append(stack.pop())
        else:
            parts.append(stack.pop())
    return parts


def _tuple_of(parts: list[_Item]) -> _Item:
    depth = max((part.depth for part in parts), default=0)
    return _Item(1 + depth, 1 + sum(part.entries for part in parts))
