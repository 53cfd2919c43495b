"""A kernel that cannot run is left out, with a word in the log."""

from __future__ import annotations

import logging

import pytest

from splatkit_ns.triton_kernels import working_kernel


def test_a_kernel_that_loads_is_used() -> None:
    assert working_kernel(lambda: max, otherwise="not said") is max


def test_a_kernel_that_fails_is_left_out_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    def load() -> None:
        raise RuntimeError("no C compiler")

    with caplog.at_level(logging.INFO, "splatkit_ns"):
        assert working_kernel(load, otherwise="It is slower") is None
    assert caplog.messages == ["It is slower (RuntimeError: no C compiler)."]
