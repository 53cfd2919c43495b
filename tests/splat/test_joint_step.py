"""Several Adams that step together end where each would by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from splatkit_ns.splat.joint_step import step_together
from tests.splat.helpers import make_state
from tests.triton_interpreter import assert_prints

# The functions of this block also run in the interpreter's process.
RUN = """
import torch
from torch.optim.lr_scheduler import LambdaLR

SHAPES = [(700, 3), (700, 15, 3), (700,), (1, 3), (0, 4), (2048,), (1025,), (33,)]
RATES = [1e-3, 1e-2, 5e-2, 1.0, 1e-4, 1e-3, 0.0, 1e-2]

def make(device, **options):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape).to(device)) for shape in SHAPES]
    adams = [
        torch.optim.Adam([param], lr=rate, eps=1e-15, fused=True, **options)
        for param, rate in zip(params, RATES, strict=True)
    ]
    return params, adams, [LambdaLR(adam, lambda step: 0.97**step) for adam in adams]

def train(device, steps, take_step):
    params, adams, schedules = make(device)
    before = [param.detach().clone() for param in params]
    torch.manual_seed(1)
    for step in range(steps):
        for i, param in enumerate(params):
            sizes = 10.0 ** torch.randint(-12, 3, param.shape)  # gradients of Gaussians are of all sizes
            param.grad = (torch.randn(param.shape) * sizes * (torch.rand(param.shape) < 0.9)).to(device)
        if step % 3 == 1:
            params[2].grad = None
        take_step([adam for i, adam in enumerate(adams) if i != 1 or step % 4 == 0])
        for schedule in schedules:
            schedule.step()
    return params, adams, before

def assert_same_end(ours, theirs):
    for number, (p, adam, q, other, start) in enumerate(zip(*ours[:2], *theirs, strict=True)):
        state, expected = adam.state[p], other.state[q]
        assert state.keys() == expected.keys()
        assert state["step"].dtype == expected["step"].dtype and state["step"].shape == expected["step"].shape
        assert state["step"].item() == expected["step"].item(), number
        if p.numel() == 0:
            continue
        moved = (q - start).abs().max()
        rounding = 5e-7 * p.abs().max()  # every step rounds the parameter
        assert (p - q).abs().max() <= 2e-5 * moved + rounding, (number, (p - q).abs().max(), moved)
        large = expected["exp_avg"].abs().max()
        assert (state["exp_avg"] - expected["exp_avg"]).abs().max() <= 2e-6 * large, number
        assert torch.allclose(state["exp_avg_sq"], expected["exp_avg_sq"], rtol=4e-5, atol=1e-38), number

def each(adams):
    for adam in adams:
        adam.step()
"""

IN_THE_INTERPRETER = (
    RUN
    + """
import warnings
from splatkit_ns.splat import joint_step
from splatkit_ns.splat._adam_triton import adam_step

warnings.simplefilter("error")
launched = []

def kernel(entries, *settings):
    launched.append(len(entries))
    adam_step(entries, *settings)

joint_step.joint_kernel = lambda: kernel
joint_step._on_current_gpu = lambda tensor: True
assert_same_end(train("cpu", 9, joint_step.step_together), train("cpu", 9, each))
assert launched == [6, 7, 7, 7, 7, 7, 6, 8], "all but those that pause, once they have a state; 8 take two launches"
print("alike")
"""
)


def test_the_kernel_in_the_interpreter() -> None:
    assert_prints(IN_THE_INTERPRETER, "alike\n")


class SteppedAlone(torch.optim.Adam):
    """Counts how often its own `step` runs."""

    calls = 0

    def step(self, closure: Any = None) -> Any:
        self.calls += 1
        return super().step(closure)


def test_a_users_optimizer_steps_by_itself() -> None:
    param = nn.Parameter(torch.ones(3))
    optimizer = SteppedAlone([param], lr=0.1, fused=True)
    for _ in range(2):
        param.grad = torch.ones(3)
        step_together([optimizer])
    assert optimizer.calls == 2


def test_on_the_cpu_the_bits_are_those_of_each_step() -> None:
    ours, theirs = make_state(20, stepped=False), make_state(20, stepped=False)
    for state in (ours, theirs):
        torch.manual_seed(3)
        for _ in range(3):
            for param in state.params.values():
                param.grad = torch.randn_like(param)
            if state is ours:
                step_together(state.optimizers.values())
            else:
                for optimizer in state.optimizers.values():
                    optimizer.step()
    for name, param in ours.params.items():
        assert torch.equal(param, theirs.params[name]), name
        state, expected = (each.optimizers[name].state[each.params[name]] for each in (ours, theirs))
        assert all(torch.equal(state[key], expected[key]) for key in expected), name


def prepared(**options: Any) -> tuple[nn.Parameter, torch.optim.Adam]:
    """A parameter on the GPU whose Adam has a state."""
    param = nn.Parameter(torch.ones(5, 3, device="cuda"))
    optimizer = torch.optim.Adam([param], lr=0.1, **{"fused": True, **options})
    param.grad = torch.ones_like(param)
    optimizer.step()
    return param, optimizer


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many parameters each call of the kernel got."""
    from splatkit_ns.splat import joint_step

    kernel = joint_step.joint_kernel()
    assert kernel is not None, "Triton works where there are GPU tests"
    calls: list[int] = []

    def counted(entries: list[Any], *settings: float) -> None:
        calls.append(len(entries))
        kernel(entries, *settings)

    monkeypatch.setattr(joint_step, "joint_kernel", lambda: counted)
    return calls


@pytest.mark.gpu
def test_as_pytorchs_fused_adam_over_50_steps(launched: list[int]) -> None:
    functions: dict[str, Any] = {}
    exec(RUN, functions)
    ours = functions["train"]("cuda", 50, step_together)
    functions["assert_same_end"](ours, functions["train"]("cuda", 50, functions["each"]))
    assert len(launched) == 49


@pytest.mark.gpu
@pytest.mark.parametrize(
    "options",
    [
        {"fused": False},
        {"amsgrad": True},
        {"weight_decay": 0.1},
        {"maximize": True},
        {"betas": (0.0, 0.9)},
        {"eps": 0.0},
    ],
)
def test_unusual_adams_step_by_themselves(launched: list[int], options: dict[str, Any]) -> None:
    _, optimizer = prepared(**options)
    step_together([optimizer])
    assert launched == []
    state = next(iter(optimizer.state.values()))
    assert float(state["step"]) == 2


@pytest.mark.gpu
def test_adams_with_other_decays_are_steps_of_their_own(launched: list[int]) -> None:
    adams = [prepared()[1], prepared(betas=(0.8, 0.99))[1], prepared()[1], prepared(eps=1e-15)[1]]
    step_together(adams)
    assert sorted(launched) == [1, 1, 2]


@pytest.mark.gpu
def test_nothing_is_read_back_and_nothing_compiled_anew(launched: list[int]) -> None:
    from splatkit_ns.splat import _adam_triton

    param, optimizer = prepared()
    schedule = LambdaLR(optimizer, lambda step: 0.9**step)
    step_together([optimizer])  # its own step, for the schedule's sake
    step_together([optimizer])
    compiled = kernels(_adam_triton._adam)
    for length in (16, 1, 1024, 77, 4096):
        grown: Tensor = torch.ones(length, 3, device="cuda")
        state = optimizer.state.pop(param)
        param = nn.Parameter(grown)
        param.grad = torch.ones_like(param)
        optimizer.param_groups[0]["params"][0] = param
        optimizer.state[param] = {
            "step": state["step"], "exp_avg": torch.zeros_like(grown), "exp_avg_sq": torch.zeros_like(grown)
        }  # fmt: skip
        torch.cuda.set_sync_debug_mode("error")
        try:
            step_together([optimizer])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        schedule.step()
    assert len(launched) == 6
    assert kernels(_adam_triton._adam) == compiled


def kernels(function: Any) -> int:
    """How many variants of a Triton function are compiled."""
    caches = getattr(function, "device_caches", None) or function.cache
    return sum(len(cache[0] if isinstance(cache, tuple) else cache) for cache in caches.values())
