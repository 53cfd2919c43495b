"""Train many settings on many scenes, many runs side by side on each GPU, and write one JSON line for each.

    python benchmarks/sweep_gpu.py PLAN.py --scenes FOLDER --out results.jsonl --beside 8 --seconds 300

PLAN.py defines ``METHODS``, a dict of `MethodSpecification` by name, and ``RUNS``, a list of (label, scene, run, seed),
most important first: scene is a folder in FOLDER, and run is METHOD:STEPS with overrides, as for `train_gpu.py`, which
trains and evaluates. Without a GPU the runs take turns on the CPU. No run begins after ``--seconds``. Runs share a GPU,
so their times say little.

    python benchmarks/sweep_gpu.py --table results.jsonl

prints PSNR, SSIM and the number of Gaussians of each label and scene, means over seeds.

If the first three runs fail, no other begins.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from pathlib import Path
from typing import Any

import train_gpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=lambda path: Path(path).resolve(), nargs="?")
    parser.add_argument("--scenes", type=lambda path: Path(path).resolve())
    parser.add_argument("--out", type=lambda path: Path(path).resolve())
    parser.add_argument("--beside", type=int, default=8, help="runs at the same time on each GPU")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no run later than this")
    parser.add_argument("--table", type=Path, nargs="+", help="print the results in these files")
    parser.add_argument("--one", type=json.loads, metavar="RUN", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.table:
        print_tables([json.loads(line) for path in args.table for line in path.read_text().splitlines()])
    elif args.one:
        run_one(args, *args.one)
    else:
        run_all(args)


def run_all(args: argparse.Namespace) -> None:
    """Begin the runs in their order, each in a process of its own on the GPU that has had room first."""
    began = time.monotonic()
    free = [gpu for _ in range(args.beside) for gpu in visible_gpus() or [""]]
    running: list[tuple[subprocess.Popen[bytes], str]] = []
    failed = done = 0
    for run in load_plan(args.plan).RUNS:
        while not free and running:
            time.sleep(0.05)
            ended = [(process, gpu) for process, gpu in running if process.poll() is not None]
            running = [pair for pair in running if pair not in ended]
            free += [gpu for _, gpu in ended]
            done += len(ended)
            failed += sum(process.returncode != 0 for process, _ in ended)
        if time.monotonic() - began > args.seconds or (failed == done >= 3):
            break
        gpu = free.pop(0)
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *sys.argv, "--one", json.dumps(run)]
        running.append((subprocess.Popen(command, env=environment), gpu))
    failed += sum(process.wait() != 0 for process, _ in running)
    if failed:
        raise SystemExit(f"{failed} of the runs failed.")


def visible_gpus() -> list[str]:
    """The numbers of the GPUs that this process may use."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [number for number in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if number]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [str(number) for number in range(len(listed))]


def load_plan(path: Path) -> Any:
    """The module that is in the file; its classes can be pickled."""
    spec = importlib.util.spec_from_file_location("sweep_plan", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no Python file.")
    sys.modules["sweep_plan"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_one(args: argparse.Namespace, label: str, scene: str, run: str, seed: int) -> None:
    """Train and evaluate in this process, and add a line to the results."""
    began = time.perf_counter()
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    from nerfstudio.configs.method_configs import all_methods

    all_methods.update({name: method.config for name, method in load_plan(args.plan).METHODS.items()})
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with open("log.txt", "w") as log:
            console = os.dup(2)
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            try:
                result = train_gpu.train(args.scenes / scene, run, seed)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os.write(console, f"{label} on {scene} failed: {Path('log.txt').read_text()[-1500:]}\n".encode())
                os._exit(1)
        del result["train_began"]
        row = {"label": label, "scene": scene, "run": run, "seed": seed, **result}
        row = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
        row["wall_s"] = round(time.perf_counter() - began, 1)
        with args.out.open("a") as results:
            results.write(json.dumps(row) + "\n")


def print_tables(rows: list[dict[str, Any]]) -> None:
    """A table of PSNR, one of SSIM and one of numbers of Gaussians: a row for each label, a column for each scene."""
    cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        cells[row["label"], row["scene"]].append(row)
    labels = list(dict.fromkeys(label for label, _ in cells))
    scenes = sorted({scene for _, scene in cells})
    for name, digits, unit in (("psnr", 2, 1), ("ssim", 4, 1), ("gaussians", 0, 1000)):
        print(f"\n{name:<28}" + "".join(f"{scene[:10]:>11}" for scene in scenes) + f"{'mean':>11}")
        for label in labels:
            found = [cells.get((label, scene), []) for scene in scenes]
            means = [sum(row[name] for row in runs) / len(runs) / unit if runs else None for runs in found]
            known = [mean for mean in means if mean is not None]
            overall = sum(known) / len(known) if len(known) == len(scenes) else None
            texts = ["" if mean is None else f"{mean:.{digits}f}" for mean in [*means, overall]]
            print(f"{label:<28}" + "".join(f"{text:>11}" for text in texts))


if __name__ == "__main__":
    main()
