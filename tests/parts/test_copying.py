"""Copies of modules for a run: one each, which shares only what cannot be copied."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from splatkit_ns.errors import ModuleError
from splatkit_ns.parts.copying import Uncopied, copyable_or_wrapped, running_copy


class Counted:
    """Counts how often it is copied; a copy has the same list."""

    def __init__(self) -> None:
        self.copies: list[Counted] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Counted:
        made = Counted()
        made.copies = self.copies
        self.copies.append(made)
        return made


def test_a_module_is_copied_once_for_a_run() -> None:
    """Modules of users may hold much, and what copies it twice holds three of it for a while."""
    module = Counted()
    assert running_copy(module) is module.copies[0]
    assert len(module.copies) == 1


class Locked:
    """Has a lock, which cannot be copied, a list, and a method of its own among its attributes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.seen: list[int] = []
        self.note = self.add

    def add(self, number: int) -> None:
        self.seen.append(number)


@pytest.mark.parametrize("hold", [lambda module: module, copyable_or_wrapped])
def test_a_copy_shares_only_what_cannot_be_copied(hold: Any) -> None:
    module = Locked()
    made = running_copy(hold(module))
    assert isinstance(made, Locked)
    assert made is not module
    assert made.lock is module.lock
    made.note(3)
    assert (made.seen, module.seen) == ([3], [])


def test_a_module_that_cannot_be_copied_whole_is_held_in_configs() -> None:
    assert isinstance(copyable_or_wrapped(Locked()), Uncopied)
    plain = Counted()
    assert copyable_or_wrapped(plain) is plain


def test_a_module_that_cannot_be_copied_at_all_is_refused() -> None:
    class Slots:
        __slots__ = ("lock",)

        def __init__(self) -> None:
            self.lock = threading.Lock()

    with pytest.raises(ModuleError, match=r"Slots cannot be copied for the run \(TypeError: .*on_setup, or give"):
        running_copy(Slots())
