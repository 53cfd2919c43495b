"""Time the optimizers' step: all groups in one kernel, against one fused Adam of PyTorch's for each.

python benchmarks/adam_gpu.py [--gaussians 50000 160000 500000 1000000] [--json FILE]

Six groups with SH degree 3. GPU time is that of the kernels alone: they are queued behind work that lasts longer than
queueing does. Host time is that of the calls, until they return.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splatkit_ns.splat import SplatTrainingState, step_together
from splatkit_ns.splat.joint_step import joint_kernel

ROUNDS, STEPS = 15, 10
BALLAST_CYCLES = 20_000_000
"""Clock cycles of the device, about 10 ms."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, nargs="+", default=[50_000, 160_000, 500_000, 1_000_000])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if joint_kernel() is None:
        raise SystemExit("Triton does not work here: nothing to compare.")
    rows = [compare(num) for num in args.gaussians]
    print("Gaussians  GPU us: ours  PyTorch  ratio   host us: ours  PyTorch  ratio   differ by")
    for row in rows:
        print(
            f"{row['gaussians']:>9}  {row['gpu_us']:>12.1f}  {row['gpu_us_torch']:>7.1f}"
            f"  {row['gpu_us'] / row['gpu_us_torch']:>5.2f}   {row['host_us']:>13.1f}  {row['host_us_torch']:>7.1f}"
            f"  {row['host_us'] / row['host_us_torch']:>5.2f}   {row['difference']:>9.1e}"
        )
    if args.json:
        machine = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
        args.json.write_text(json.dumps({**machine, "sizes": rows}, indent=1))


def compare(num: int) -> dict[str, Any]:
    """Microseconds a step of both, by turns, and the largest difference of a parameter relative to its movement."""
    ours, theirs = gaussians(num), gaussians(num)
    start = {name: param.detach().clone() for name, param in ours.params.items()}
    methods: dict[str, Callable[[], None]] = {
        "": lambda: step_together(ours.optimizers.values()),
        "_torch": lambda: each(theirs),
    }
    for method in methods.values():
        for _ in range(3):
            method()
    measured: dict[str, list[float]] = {f"{kind}_us{name}": [] for kind in ("gpu", "host") for name in methods}
    for _ in range(ROUNDS):
        for name, method in methods.items():
            measured[f"gpu_us{name}"].append(gpu_microseconds(method))
            measured[f"host_us{name}"].append(host_microseconds(method))
    difference = max(
        float((param - theirs.params[name]).abs().max() / (theirs.params[name] - start[name]).abs().max())
        for name, param in ours.params.items()
    )
    medians = {key: statistics.median(values) for key, values in measured.items()}
    return {"gaussians": num, **medians, "difference": difference}


def gaussians(num: int) -> SplatTrainingState:
    """Gaussians on the GPU, with gradients as small as they are in training; the same every time."""
    torch.manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "means": (num, 3), "scales": (num, 3), "quats": (num, 4), "opacities": (num,), "sh0": (num, 1, 3),
        "shN": (num, 15, 3),
    }  # fmt: skip
    tensors: dict[str, Tensor] = {name: torch.randn(shape) for name, shape in shapes.items()}
    state = SplatTrainingState.from_tensors(tensors, device="cuda")
    for param in state.params.values():
        param.grad = 1e-6 * torch.randn(param.shape).cuda()
    return state


def each(state: SplatTrainingState) -> None:
    """The reference: one step for each optimizer, one after the other."""
    for optimizer in state.optimizers.values():
        optimizer.step()


def gpu_microseconds(method: Callable[[], None]) -> float:
    """Microseconds of one step, without waiting for the host."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(BALLAST_CYCLES)
    start.record()
    for _ in range(STEPS):
        method()
    end.record()
    torch.cuda.synchronize()
    return 1000.0 * start.elapsed_time(end) / STEPS


def host_microseconds(method: Callable[[], None]) -> float:
    """Microseconds of one step, with the device idle before it."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(STEPS):
        method()
    elapsed = time.perf_counter() - start
    torch.cuda.synchronize()
    return 1e6 * elapsed / STEPS


if __name__ == "__main__":
    main()
