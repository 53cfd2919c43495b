"""Copies of modules for a run: one each, and none where that cannot be."""

from __future__ import annotations

import threading
from typing import Any

from splatkit_ns.parts.copying import Uncopied, holdable, running_copy


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


def test_what_cannot_be_copied_runs_itself() -> None:
    lock = threading.Lock()
    assert running_copy(lock) is lock
    held = holdable(lock)
    assert isinstance(held, Uncopied)
    assert running_copy(held) is lock
