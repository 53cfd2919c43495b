"""A kernel is loaded once, also ahead of its use; one that cannot run is left out, with a word in the log."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from splatkit_ns import triton_kernels
from splatkit_ns.triton_kernels import LazyKernel, lazy_kernel, load_ahead, run_together, working_kernel

PATIENCE = 1200.0
"""Seconds after which a thread counts as hung, also on a busy machine."""


def test_a_kernel_that_loads_is_used() -> None:
    assert working_kernel(lambda: max, otherwise="not said") is max


def test_a_kernel_that_fails_is_left_out_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    def load() -> None:
        raise RuntimeError("no C compiler")

    with caplog.at_level(logging.INFO, "splatkit_ns"):
        assert working_kernel(load, otherwise="It is slower") is None
    assert caplog.messages == ["It is slower (RuntimeError: no C compiler)."]


@pytest.mark.parametrize(("failures", "works"), [(2, True), (3, False)])
def test_a_file_that_another_process_has_removed_is_made_again(failures: int, works: bool) -> None:
    loads: list[int] = []

    def load() -> Any:
        loads.append(0)
        if len(loads) <= failures:
            raise FileNotFoundError("triton/cache/X/tmp.pid_1")
        return max

    assert working_kernel(load, otherwise="It is slower") is (max if works else None)
    assert len(loads) == 3


class SlowLoad:
    """Counts its calls; ends when it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls = 0
        self.began, self.may_end = threading.Event(), threading.Event()

    def __call__(self) -> object:
        self.calls += 1
        self.began.set()
        assert self.may_end.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return max


def test_threads_that_ask_at_once_get_one_kernel() -> None:
    load = SlowLoad()
    kernel = LazyKernel(load, "not said")
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(kernel())) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert load.began.wait(PATIENCE)
    assert found == [], "nobody gets it half loaded"
    load.may_end.set()
    for thread in threads:
        thread.join()
    assert found == [max] * 8
    assert load.calls == 1


def test_an_interrupted_load_is_tried_again() -> None:
    interrupts = [True, False]

    @lazy_kernel(otherwise="not said")
    def kernel() -> object:
        if interrupts.pop(0):
            raise KeyboardInterrupt
        return max

    with pytest.raises(KeyboardInterrupt):
        kernel()
    assert kernel() is max


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A GPU and a new Triton, as far as loading ahead looks at them; the devices that threads chose."""
    chosen: list[object] = []

    def device(index: object) -> contextlib.AbstractContextManager[None]:
        chosen.append(index)
        return contextlib.nullcontext()

    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(triton_kernels, "start_triton", lambda: None)
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(AsyncCompileMode=object))
    return chosen


def test_kernels_load_side_by_side_in_the_background(gpu: list[object]) -> None:
    loads = [SlowLoad(), SlowLoad()]
    kernels = [LazyKernel(load, "not said") for load in loads]
    thread = load_ahead(kernels, "cuda:3")
    assert thread is not None
    assert all(load.began.wait(PATIENCE) for load in loads), "both at the same time"
    for load in loads:
        load.may_end.set()
    assert [kernel() for kernel in kernels] == [max, max]
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not [other for other in threading.enumerate() if other.name.startswith("splatkit-kernel")]
    assert [load.calls for load in loads] == [1, 1]
    assert gpu[0] == "cuda:3"
    assert set(gpu[1:]) == {3}, "every thread is on the run's GPU"


def test_what_fails_in_the_background_ends_as_it_would_in_a_step(
    gpu: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    load = SlowLoad(RuntimeError("no C compiler"))
    load.may_end.set()
    kernel = LazyKernel(load, "It is slower")
    with caplog.at_level(logging.INFO, "splatkit_ns"):
        thread = load_ahead([kernel], "cuda:3")
        assert thread is not None
        thread.join(PATIENCE)
        assert kernel() is None
    assert caplog.messages == ["It is slower (RuntimeError: no C compiler)."]
    assert load.calls == 1


def test_a_triton_that_does_not_start_is_met_again_by_each_kernel(
    gpu: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("no driver")

    monkeypatch.setattr(triton_kernels, "start_triton", fail)
    load = SlowLoad()
    load.may_end.set()
    thread = load_ahead([LazyKernel(load, "not said")], "cuda:3")
    assert thread is not None
    thread.join(PATIENCE)
    assert load.calls == 1


@pytest.mark.parametrize("triton", [None, SimpleNamespace()], ids=["without triton", "old triton"])
def test_nothing_is_loaded_ahead(gpu: list[object], monkeypatch: pytest.MonkeyPatch, triton: object) -> None:
    monkeypatch.setitem(sys.modules, "triton", triton)
    load = SlowLoad()
    thread = load_ahead([LazyKernel(load, "not said")], "cuda:3")
    assert thread is not None
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert load.calls == 0


def test_nothing_is_loaded_ahead_on_the_cpu() -> None:
    load = SlowLoad()
    assert load_ahead([LazyKernel(load, "not said")], "cpu") is None
    assert load.calls == 0


def test_an_error_is_raised_when_all_have_ended(gpu: list[object]) -> None:
    ended: list[int] = []
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise RuntimeError("out of registers")

    def end() -> None:
        assert failed.wait(PATIENCE)
        ended.append(1)

    with pytest.raises(RuntimeError, match="out of registers"):
        run_together([fail, end])
    assert ended == [1]


def test_an_old_triton_compiles_in_the_callers_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace())
    callers: list[threading.Thread] = []
    run_together([lambda: callers.append(threading.current_thread())] * 3)
    assert callers == [threading.current_thread()] * 3


def test_threads_need_no_gpu_for_what_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(AsyncCompileMode=object))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    called: list[int] = []
    run_together([lambda: called.append(1)] * 2)
    assert called == [1, 1]


@pytest.mark.gpu
def test_the_runs_kernels_are_there_after_loading_ahead() -> None:
    from splatkit_ns.image_metrics.ssim import triton_kernel
    from splatkit_ns.splat.joint_step import joint_kernel

    state = torch.cuda.get_rng_state(), torch.get_rng_state()
    thread = load_ahead([triton_kernel, joint_kernel], "cuda:0")
    assert thread is not None
    thread.join()
    assert triton_kernel() is not None
    assert joint_kernel() is not None
    assert torch.equal(torch.cuda.get_rng_state(), state[0])
    assert torch.equal(torch.get_rng_state(), state[1])


class Interrupted(Exception):
    """As nerfstudio's viewer raises in a render that has become out of date."""


def test_a_render_that_is_interrupted_costs_no_kernel() -> None:
    """The viewer traces its thread, and raises at whatever line that is in when the camera moves.

    Here at the line that waits for the kernel: a line before it may run earlier than the kernel's thread, none after.
    """
    began, go_on = threading.Event(), threading.Event()

    def load() -> str:
        began.set()
        assert go_on.wait(timeout=PATIENCE)
        return "the kernel"

    def interrupt(frame: Any, event: str, argument: Any) -> Any:
        if event == "line" and frame.f_code is threading.Thread.join.__code__:
            assert began.wait(timeout=PATIENCE)
            go_on.set()
            raise Interrupted
        return interrupt

    kernel = LazyKernel(load, "slow")
    outcome: list[Any] = []

    def render() -> None:
        sys.settrace(interrupt)
        try:
            outcome.append(kernel())
        except Interrupted:
            outcome.append("interrupted")
        finally:
            sys.settrace(None)

    with concurrent.futures.ThreadPoolExecutor(1) as viewer:
        viewer.submit(render).result(timeout=PATIENCE)
    assert outcome == ["interrupted"]
    assert kernel() == "the kernel"
