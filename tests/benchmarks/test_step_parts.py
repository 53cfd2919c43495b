"""benchmarks/step_parts.py: what it times."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path

import pytest


def test_the_parts_that_are_timed_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was renamed would be left out, and by the time of some it tells the kinds of steps."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import step_parts  # type: ignore[import-not-found]

    for path in step_parts.PARTS:
        module, _, names = path.partition(":")
        functools.reduce(getattr, names.split("."), importlib.import_module(module))
