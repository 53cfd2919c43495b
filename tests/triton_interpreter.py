"""Runs code whose Triton kernels Triton's interpreter executes on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def assert_prints(code: str, expected: str) -> None:
    """Run Python code in a process of its own, as Triton decides when it is imported whether it interprets.

    Args:
        code: asserts what it has to, then prints.
        expected: what it prints, line end included.
    """
    pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.stdout == expected, result.stderr
