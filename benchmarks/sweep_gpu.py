"""Train many settings on many scenes, many runs side by side on each GPU, and write one JSON line for each.

    python benchmarks/sweep_gpu.py PLAN.py --scenes FOLDER --out results.jsonl --beside 8 --seconds 300

PLAN.py defines ``METHODS``, a dict of `MethodSpecification` by name, and ``RUNS``, a list of (label, scene, run, seed),
most important first: scene is a folder in FOLDER, and run is METHOD:STEPS with overrides, as for `train_gpu.py`, which
trains and evaluates. Without a GPU the runs take turns on the CPU. No run begins after ``--seconds``. Runs share a GPU,
so their times say little.

    python benchmarks/sweep_gpu.py --table results.jsonl

prints PSNR, SSIM and the number of Gaussians of each label and scene, means over seeds.

One process for each GPU imports everything once, and each run is a copy of it that ends with the run.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import multiprocessing
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
    parser.add_argument("--worker", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.table:
        print_tables([json.loads(line) for path in args.table for line in path.read_text().splitlines()])
    elif args.worker:
        work(args, args.worker)
    else:
        start_workers(args)


def start_workers(args: argparse.Namespace) -> None:
    """Start a process for each GPU, and wait for them."""
    gpus = visible_gpus() or [""]
    with tempfile.TemporaryDirectory() as taken:
        workers: list[subprocess.Popen[bytes]] = []
        for gpu in gpus:
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu, "OMP_NUM_THREADS": "1"}
            workers.append(subprocess.Popen([sys.executable, *sys.argv, "--worker", taken], env=environment))
        statuses = [worker.wait() for worker in workers]
    if any(statuses):
        raise SystemExit("A worker failed.")


def visible_gpus() -> list[str]:
    """The numbers of the GPUs that this process may use."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [number for number in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if number]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [str(number) for number in range(len(listed))]


def work(args: argparse.Namespace, taken: Path) -> None:
    """Run this GPU's share of the plan: whenever there is room, the next run that no worker has taken."""
    began = time.monotonic()
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    from nerfstudio.configs.method_configs import all_methods

    for name in ("nerfstudio.scripts.train", "splatkit_ns.trainer"):  # what runs import, once for all of them
        importlib.import_module(name)
    plan = load_plan(args.plan)
    all_methods.update({name: method.config for name, method in plan.METHODS.items()})
    waiting = (run for number, run in enumerate(plan.RUNS) if take(taken / str(number)))
    context = multiprocessing.get_context("fork")
    running: list[Any] = []
    more = True
    while more or running:
        running = [process for process in running if process.is_alive()]
        while more and len(running) < args.beside:
            run = next(waiting, None) if time.monotonic() - began < args.seconds else None
            more = run is not None
            if run is not None:
                running.append(context.Process(target=run_one, args=(args, *run)))
                running[-1].start()
        time.sleep(0.05)


def take(mark: Path) -> bool:
    """Whether this worker is the first to make this file."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


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
