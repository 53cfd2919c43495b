"""The commands begin quickly."""

from __future__ import annotations

import os

import pytest
import torch

from splatkit_ns.cli.commands import SWITCH, without_compiling


def double(value: float) -> float:
    return 2 * value


def test_functions_are_not_compiled_while_a_command_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    with without_compiling():
        assert torch.compile(double) is double
    assert os.environ[SWITCH] == "0"
    monkeypatch.delenv(SWITCH)
    with without_compiling():
        pass
    assert SWITCH not in os.environ
    assert torch.compile(double) is not double
