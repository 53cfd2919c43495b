"""benchmarks/step_parts.py: the parts of a step that it times."""

from __future__ import annotations

from functools import reduce
from importlib import import_module
from pathlib import Path

import pytest


def test_all_parts_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves out what a checkout does not have, so a part with a new name would be missing in silence."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from step_parts import PARTS  # type: ignore[import-not-found]

    for part in PARTS:
        module, _, names = part.partition(":")
        assert callable(reduce(getattr, names.split("."), import_module(module))), part
