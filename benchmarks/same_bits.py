"""Train methods for some steps and print a hash of the resulting parameters, to see whether a change keeps the bits.

    python benchmarks/same_bits.py SCENE --runs splatkit-3dgs:1000 splatkit-2dgs:200 --out bits.json
    python benchmarks/same_bits.py SCENE --runs splatkit-3dgs:1000 --against bits.json   # status 1 if a hash differs
    python benchmarks/same_bits.py SCENE --runs splatkit-3dgs:1000 --cuts 150 430 777    # status 1 if resuming differs

A run is METHOD:STEPS, optionally with overrides, as in ``train_gpu.py``. With --cuts each run is trained once without
and once with interruptions: it stops after each of these steps, and a new process resumes it from its checkpoint.
Bits depend on the processor and on the versions of the packages: compare only within one machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--runs", nargs="+", required=True)
    parser.add_argument("--cuts", type=int, nargs="*", default=[])
    parser.add_argument("--out", type=Path, help="JSON file for the hashes")
    parser.add_argument("--against", type=Path, help="JSON file of an earlier call")
    parser.add_argument("--worker", nargs=3, metavar=("RUN", "STOP", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        run, stop, folder = args.worker
        train(args.scene.resolve(), run, int(stop), Path(folder))
        return 0
    rows: dict[str, dict[str, Any]] = {}
    for run in args.runs:
        steps = int(run.split(":")[1])
        rows[run] = train_in_parts(args.scene, run, [steps])
        print(f"{run:<40} {json.dumps(rows[run])}", flush=True)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n")
    differing = [run for run in args.runs if args.cuts and not same_when_cut(args.scene, run, args.cuts, rows[run])]
    if args.against:
        before = json.loads(args.against.read_text())
        differing += [run for run in args.runs if before.get(run) != rows[run]]
    for run in differing:
        print(f"{run} differs")
    return 1 if differing else 0


def same_when_cut(scene: Path, run: str, cuts: list[int], whole: dict[str, Any]) -> bool:
    """Whether a run that is stopped and resumed ends with the same bits."""
    found = train_in_parts(scene, run, [*cuts, int(run.split(":")[1])])
    print(f"{run + ' cut at ' + ', '.join(map(str, cuts)):<40} {json.dumps(found)}", flush=True)
    return found == whole


def train_in_parts(scene: Path, run: str, stops: list[int]) -> dict[str, Any]:
    """Train up to each of these steps in a process of its own; returns the hash and the number of Gaussians."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        for stop in stops:
            command = [sys.executable, __file__, str(scene), "--runs", run, "--worker", run, str(stop), folder]
            with log.open("w") as file:
                status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
            if status.returncode:
                print(log.read_text()[-6000:])
                raise SystemExit(f"{run} failed with status {status.returncode}")
        return json.loads((Path(folder) / "result.json").read_text())


def train(scene: Path, run: str, stop: int, folder: Path) -> None:
    """Train in this process, up to a step after which the run is stopped as by Ctrl+C, without its exit status."""
    from nerfstudio.scripts import train as script
    from train_gpu import method_config

    from splatkit_ns.parts.base import SplatBaseModule

    config = method_config(scene, run)
    config.output_dir = folder
    config.vis = "none"
    if (folder / "benchmark").exists():
        config.load_dir = config.get_checkpoint_dir()
    script._set_random_seed(config.machine.seed)
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)

    class Stop(SplatBaseModule[Any]):
        def post_step(self, step: int) -> None:
            trainer.stop_training = step == stop

    trainer.modules.append(Stop())
    trainer.setup()
    trainer.train()
    digest = hashlib.sha256()
    params = trainer.pipeline.model.gauss_params
    for name in sorted(params):
        digest.update(params[name].detach().cpu().contiguous().numpy().tobytes())
    result = {"sha256": digest.hexdigest()[:32], "gaussians": len(params["means"])}
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
