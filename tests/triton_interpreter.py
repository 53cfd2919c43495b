"""Runs code whose Triton kernels Triton's interpreter executes on the CPU."""

from __future__ import annotations

import pytest

from tests.fork_server import run_code


def assert_prints(code: str, expected: str) -> None:
    """Run Python code in a process of its own, as Triton decides when it is imported whether it interprets.

    Args:
        code: asserts what it has to, then prints.
        expected: what it prints, line end included.
    """
    pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds")
    result = run_code(code, TRITON_INTERPRET="1")
    assert result.stdout == expected, result.stderr
