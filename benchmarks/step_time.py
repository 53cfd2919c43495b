"""Time training steps of two runs, or of two checkouts, in turn, a block of steps each.

    python benchmarks/step_time.py SCENE --runs splatkit-3dgs:3000 splatkit-3dgs:3000:cuda_graphs=False
    python benchmarks/step_time.py SCENE --runs splatkit-3dgs:3000 --checkouts . ../before
    python benchmarks/step_time.py SCENE --runs splatkit-3dgs:3000 --image-model my_parts:Exposure

A run is METHOD:STEPS, optionally with overrides, as in ``train_gpu.py``. With --image-model the second run is the first
one with that part. Each of the two is a process of its own, which waits while the other one works, so that a machine
that gets slower slows both; only one of them counts at a time. The first third of the steps is not counted. Printed are
the medians of milliseconds a step, and the median of the second's time to the first's in the same round, with the
smallest and the largest. Times are those of the wall clock on a GPU, and on the CPU those that all threads of the
process worked. Against gsplat: ``against_gsplat.py``.
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
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--runs", nargs="+", default=["splatkit-3dgs:3000"], help="one or two")
    parser.add_argument("--checkouts", type=Path, nargs=2, help="the folders of the packages to compare")
    parser.add_argument("--image-model", help="import path of a class, for the second run")
    parser.add_argument("--block", type=int, default=100, help="steps in turn")
    parser.add_argument("--rounds", type=int, help="blocks of each run; by default as many as it has steps for")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.scene, args.runs[0], args.block, args.image_model)
        return
    runs = (args.runs * 2)[:2]
    folders = args.checkouts or (Path(), Path())
    with tempfile.TemporaryDirectory() as logs:
        changes = ["--image-model", args.image_model] if args.image_model else []
        workers = [start(folders[i], args, runs[i], changes if i else [], Path(logs, f"{i}.txt")) for i in range(2)]
        for worker, run in zip(workers, runs, strict=True):
            wait_for(worker, run)
        rounds = args.rounds or int(runs[0].split(":")[1]) // args.block
        pairs = [tuple(ask(worker) for worker in workers) for _ in range(rounds)]
        for worker in workers:
            worker.communicate("\n")
    pairs = pairs[len(pairs) // 3 :]
    ratios = [second / first for first, second in pairs]
    figures = {
        "runs": runs,
        "second": changes,
        "first_ms": round(statistics.median(first for first, _ in pairs), 3),
        "second_ms": round(statistics.median(second for _, second in pairs), 3),
        "ratio": round(statistics.median(ratios), 4),
        "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
    }
    print(json.dumps(figures))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1) + "\n")


def start(checkout: Path, args: argparse.Namespace, run: str, changes: list[str], log: Path) -> Any:
    """Start a worker with the package of a checkout; this file is the same for both."""
    paths = [str(checkout.resolve()), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, __file__, str(args.scene), "--worker", "--runs", run, "--block", str(args.block)]
    command += changes
    with log.open("w") as errors:
        worker = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
    worker.log = log  # type: ignore[attr-defined]
    return worker


def wait_for(worker: Any, run: str) -> None:
    """Wait until a worker can train."""
    if answer(worker) != "ready":
        raise SystemExit(f"{run} did not start:\n{worker.log.read_text()[-6000:]}")


def ask(worker: Any) -> float:
    """Let a worker train a block; returns milliseconds a step."""
    worker.stdin.write("block\n")
    worker.stdin.flush()
    line = answer(worker)
    if not line:
        raise SystemExit(f"A run ended early:\n{worker.log.read_text()[-6000:]}")
    return float(line)


def answer(worker: Any) -> str:
    """The next line of a worker, without what its run prints between."""
    for line in worker.stdout:
        if line.startswith("step_time "):
            return line.split(maxsplit=1)[1].strip()
    return ""


def work(scene: Path, run: str, block: int, image_model: str | None) -> None:
    """Train a block of steps for each line of standard input."""
    from train_gpu import method_config

    from splatkit_ns.importing import import_object

    config = method_config(scene.resolve(), run)
    if image_model:
        config.pipeline.model.image_model = import_object(image_model, "--image-model")()
    with tempfile.TemporaryDirectory() as folder:
        trainer = ready(config, Path(folder))
        print("step_time ready", flush=True)
        done = 0
        while sys.stdin.readline().strip() == "block":
            print(f"step_time {milliseconds_a_step(trainer, done, block)}", flush=True)
            done += block


def ready(config: Any, folder: Path) -> Any:
    """A trainer that can take its first step; it writes into the folder."""
    import torch
    from nerfstudio.scripts import train as script

    config.vis = "none"
    config.machine.device_type = "cuda" if torch.cuda.is_available() else "cpu"
    config.output_dir = folder
    script._set_random_seed(config.machine.seed)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.pipeline.train()
    trainer.pipeline.model.dispatcher.setup()
    return trainer


def milliseconds_a_step(trainer: Any, done: int, steps: int) -> float:
    """Train some steps after those that are done."""
    began = now()
    for step in range(done, done + steps):
        trainer.training_step.run(step)
    return (now() - began) / steps * 1000


def now() -> float:
    """Seconds of the wall clock when the GPU has done all work, or seconds that this process has worked."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


if __name__ == "__main__":
    main()
