"""The commands begin quickly."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch

from splatkit_ns.cli import main
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


def test_only_other_packages_are_silenced(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        assert main(["info", str(tmp_path / "nothing.ply")]) == 1
        for module in ("torch.jit._script", "nerfstudio.engine.trainer", "my_parts", "torchless"):
            warnings.warn_explicit(f"of {module}", FutureWarning, "file.py", 1, module=module)
        warnings.warn_explicit("no future", UserWarning, "file.py", 1, module="torch.nn")
    assert [str(each.message) for each in caught] == ["of my_parts", "of torchless", "no future"]
