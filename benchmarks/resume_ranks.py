"""Stop runs with Ctrl+C, and go on with other numbers of GPUs; compare the results with those of uninterrupted runs.

    python benchmarks/resume_ranks.py SCENE --steps 3000 --devices 2 1 2 --seeds 1 2 3 --at-once 9
    python benchmarks/resume_ranks.py SCENE --steps 60 --devices 2 1 2 --seeds 1 --at-once 1 --device-type cpu

For each seed there is a chain of runs with these numbers of GPUs, each stopped after an equal share of the photographs
and the next one resumed from its checkpoint, and an uninterrupted run with each of the numbers of --uninterrupted, by
default the first. Printed is the PSNR of the held-out photographs at the end. Several runs may share the same GPUs:
this says nothing of times. Every 100 photographs the ranks of a run compare their parameters, and a difference ends it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from kill_ranks import environment, tail


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=lambda path: Path(path).resolve())
    parser.add_argument("--method", default="splatkit-3dgs-big")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--devices", type=int, nargs="+", default=[2, 1, 2])
    parser.add_argument("--uninterrupted", type=int, nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--at-once", type=int, default=9)
    parser.add_argument("--device-type", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    chains = [args.devices, *([number] for number in args.uninterrupted or args.devices[:1])]
    turns = Turns()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.at_once) as threads:
        jobs = [
            threads.submit(train, args, Path(folder, f"{seed}-{'-'.join(map(str, devices))}"), seed, devices, turns)
            for devices in chains
            for seed in args.seeds
        ]
        for job in as_completed(jobs):
            rows.append(job.result())
            print(json.dumps(rows[-1]), flush=True)
            if args.out:
                args.out.write_text(json.dumps(rows, indent=1) + "\n")
    for devices in chains:
        found = [row["psnr"] for row in rows if row["devices"] == devices and not row["fault"]]
        if found:
            name = " then ".join(map(str, devices))
            print(f"{name}: mean {statistics.mean(found):.2f} dB of {len(found)}, {min(found):.2f} to {max(found):.2f}")
    return int(any(row["fault"] for row in rows))


class Turns:
    """Spreads runs of one GPU over all GPUs."""

    def __init__(self) -> None:
        self._gpus = (os.environ.get("CUDA_VISIBLE_DEVICES") or "0,1").split(",")
        self._lock, self._next = threading.Lock(), 0

    def take(self, number: int) -> str:
        """GPUs for a run, as CUDA_VISIBLE_DEVICES names them."""
        with self._lock:
            first = self._next
            self._next = (first + number) % len(self._gpus)
        return ",".join((self._gpus * 2)[first : first + number])


def train(args: argparse.Namespace, folder: Path, seed: int, devices: Sequence[int], turns: Turns) -> dict[str, Any]:
    """Train with these numbers of GPUs one after the other; ``fault`` of the row says what went wrong, if anything."""
    folder.mkdir()
    row: dict[str, Any] = {"devices": list(devices), "seed": seed, "fault": "", "stopped_after": []}
    earlier: Path | None = None
    for i, number in enumerate(devices):
        name = f"part_{i}"
        stop_after = args.steps * (i + 1) // len(devices) if i + 1 < len(devices) else None
        resumed = [] if earlier is None else ["--load-dir", str(earlier)]
        status = run_until(args, folder, name, seed, number, turns.take(number), stop_after, resumed)
        log = (folder / f"{name}.log").read_text()
        last = row["stopped_after"][-1] if row["stopped_after"] else 0
        if (status == 0) != (stop_after is None) or (i and f"Resuming after step {last}" not in log):
            return {**row, "fault": f"{name} with {number} ended with status {status}: {tail(folder / f'{name}.log')}"}
        earlier = folder / "out/x" / args.method / name / "nerfstudio_models"
        if stop_after is not None:
            row["stopped_after"].append(newest(earlier))
    found = re.findall(r"held out ([\d.]+) dB, SSIM ([\d.]+)", log)
    if not found:
        return {**row, "fault": f"nothing was measured: {log[-1500:]}"}
    return {**row, "psnr": float(found[-1][0]), "ssim": float(found[-1][1])}


def run_until(
    args: argparse.Namespace, folder: Path, name: str, seed: int, number: int, gpus: str, stop_after: int | None,
    more: Sequence[str],
) -> int:  # fmt: skip
    """Run ``ns-train``, and interrupt it after its checkpoint of so many photographs; returns its status."""
    command = [sys.executable, "-m", "nerfstudio.scripts.train", args.method, "--vis", "none", "--output-dir", "out"]
    command += ["--experiment-name", "x", "--timestamp", name, "--steps-per-save", str(max(1, args.steps // 30))]
    command += ["--machine.num-devices", str(number), "--machine.device-type", args.device_type]
    command += ["--machine.seed", str(seed), "--max-num-iterations", str(args.steps)]
    command += ["--steps-per-eval-all-images", "0", *more, "--data", str(args.scene)]
    checkpoints = folder / "out/x" / args.method / name / "nerfstudio_models"
    settings = environment() | ({"CUDA_VISIBLE_DEVICES": gpus} if args.device_type == "cuda" else {})
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=settings)
    while stop_after is not None and process.poll() is None and newest(checkpoints) < stop_after:
        time.sleep(0.02)
    if stop_after is not None:
        process.send_signal(signal.SIGINT)
    return process.wait()


def newest(checkpoints: Path) -> int:
    """The number of photographs of the newest checkpoint in a folder; 0 if there is none."""
    return max((int(path.stem.split("-")[1]) + 1 for path in checkpoints.glob("step-*.ckpt")), default=0)


if __name__ == "__main__":
    sys.exit(main())
