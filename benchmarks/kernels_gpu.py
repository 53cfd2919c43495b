"""Time the GPU kernels of training steps, by name, and the time that Python needs for a render without a CUDA graph.

    python benchmarks/kernels_gpu.py SCENE --gaussians 500000
    python benchmarks/kernels_gpu.py SCENE --gaussians 500000 --checkouts ../before .

A run trains 700 steps, with its own densification. Then Gaussians are split until there are as many as wanted, 300 more
steps follow, and 50 of them are profiled. ``step_ms`` is the wall-clock time of a step without the profiler, and
``kernels_ms`` the sum of its kernels. ``host_ms`` is the wall-clock time of a render of 1,000 Gaussians, forward and
backward, which the launches from Python decide; ``host_gsplat_ms`` is that of gsplat's rasterization, if its compiled
code is there. With --checkouts the packages of several folders take turns, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DENSIFIED, SETTLED, PROFILED, TIMED = 700, 250, 50, 200
"""The steps with densification, those after the split, those that are profiled, and those that are timed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--method", default="splatkit-3dgs")
    parser.add_argument("--gaussians", type=int, default=500_000)
    parser.add_argument("--checkouts", type=Path, nargs="+", default=[Path()], help="folders of packages")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        args.worker.write_text(json.dumps(measure(args.scene.resolve(), args.method, args.gaussians)))
        return
    found = {str(checkout): run(checkout, args) for checkout in args.checkouts}
    print_table(found)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


def run(checkout: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure the package of a folder in a process of its own; this file is the same for all."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [sys.executable, __file__, str(args.scene), "--method", args.method, "--worker", str(result)]
        paths = [str(checkout.resolve()), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        subprocess.run([*command, "--gaussians", str(args.gaussians)], env=environment, check=True)
        return json.loads(result.read_text())


def measure(scene: Path, method: str, number: int) -> dict[str, Any]:
    """Train, split and profile in this process."""
    import torch
    from nerfstudio.scripts import train as script
    from train_gpu import machine, method_config

    config = method_config(scene, f"{method}:3000:pipeline.model.densification.refine_stop_iter={DENSIFIED}")
    config.vis = "none"
    with tempfile.TemporaryDirectory() as folder:
        config.output_dir = Path(folder)
        script._set_random_seed(config.machine.seed)  # pyright: ignore[reportPrivateUsage]
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        trainer.pipeline.train()
        model = trainer.pipeline.model
        model.dispatcher.setup()
        steps = iter(range(3000))

        def train(count: int) -> float:
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(count):
                trainer.training_step.run(next(steps))
            torch.cuda.synchronize()
            return (time.perf_counter() - began) / count * 1000

        train(DENSIFIED + 20)
        split_to(model.training_state, number)
        train(SETTLED)
        kernels = profiled(lambda: train(PROFILED))
        step_ms = train(TIMED)
        figures = {"machine": machine(), "gaussians": len(model.training_state), "step_ms": step_ms}
        trainer.training_step.release_memory()
    table = {name: {"ms": ms / PROFILED, "launches": count / PROFILED} for name, (ms, count) in kernels.items()}
    return {**figures, "kernels_ms": sum(row["ms"] for row in table.values()), **host_times(), "kernels": table}


def split_to(state: Any, number: int) -> None:
    """Split the most opaque Gaussians until there are so many; those beyond are removed."""
    import torch

    while len(state) < number:
        mask = torch.zeros(len(state), dtype=torch.bool, device=state.device)
        mask[state.opacities.detach().argsort(descending=True)[: number - len(state)]] = True
        state.split(mask)
    if len(state) > number:
        state.remove(torch.arange(len(state), device=state.device) >= number)


def profiled(call: Callable[[], object]) -> dict[str, tuple[float, int]]:
    """The milliseconds and launches of each kernel and copy, by name."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
    found: dict[str, tuple[float, int]] = {}
    for event in profiler.key_averages():
        if event.self_device_time_total > 0:
            found[event.key] = (event.self_device_time_total / 1000, event.count)
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def host_times() -> dict[str, float]:
    """The wall-clock time of a render of few Gaussians, forward and backward."""
    from projection_gpu import make_scene, rendered, rendered_by_gsplat

    from splatkit_ns.rasterize import BackendUnavailableError, check_cuda_backend

    leaves, matrices = make_scene(1000, 320, 240)
    calls = {"host_ms": rendered("splatkit", leaves, matrices, 320, 240)}
    try:
        check_cuda_backend()
        calls["host_gsplat_ms"] = rendered_by_gsplat(leaves, matrices, 320, 240)
    except BackendUnavailableError:
        pass
    return {name: statistics.median(_timed(call) for _ in range(5)) for name, call in calls.items()}


def _timed(call: Callable[[], object], count: int = 50) -> float:
    import torch

    call()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / count * 1000


def print_table(found: dict[str, dict[str, Any]], shown: int = 32) -> None:
    """The sums of each checkout, and its kernels that take longest."""
    for name, figures in found.items():
        sums = {key: value for key, value in figures.items() if key not in ("kernels", "machine")}
        print(f"\n{name}: " + ", ".join(f"{key} {value:,.3f}" for key, value in sums.items()))
        for kernel, row in list(figures["kernels"].items())[:shown]:
            print(f"  {row['ms'] * 1000:8.1f} us {row['launches']:6.2f} x  {kernel[:100]}")


if __name__ == "__main__":
    main()
