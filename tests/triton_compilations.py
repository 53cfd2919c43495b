"""Which variants of Triton kernels code would compile, found out without a GPU and without compiling them."""

from __future__ import annotations

import pytest

from tests.fork_server import run_code

BEGIN = """
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver


class NoDriver:
    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


def note(fn, key, **_):
    variants.add((fn.name, str(key)))
    return True  # do not compile, do not launch


variants = set()
driver.set_active(NoDriver())
triton.knobs.runtime.jit_cache_hook = note
"""
"""Afterwards tensors of the CPU pass for a GPU's, and ``variants`` holds what launches would have compiled."""


def assert_prints(code: str, expected: str) -> None:
    """Run Python code after `BEGIN`, in a process of its own.

    Args:
        code: asserts what it has to, then prints.
        expected: what it prints, line end included.
    """
    triton = pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds")
    if not hasattr(triton, "knobs"):
        pytest.skip("this version of Triton has its hooks elsewhere")
    result = run_code(BEGIN + code)
    assert result.stdout == expected, result.stderr
