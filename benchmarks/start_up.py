"""Time from the start of ``ns-train`` to its first step, with and without the bytecode of earlier starts.

    python benchmarks/start_up.py SCENE [--method splatkit-3dgs-fast] [--rounds 3] [--num-devices 1] [--json FILE]

Python compiles each module that it imports, and keeps the bytecode beside it, unless PYTHONDONTWRITEBYTECODE is set or
the folder cannot be written. Each row is a process of its own, which ends after its first step; both kinds take turns,
after a start that is not counted. "made" is when the trainer begins to be made, after imports, arguments and checks;
"set up" when data set, model and optimizers are there; "step" when the first step has ended on the GPU. Times are
seconds since the process was started.
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

from splatkit_ns.parts.base import SplatBaseModule

KINDS = ("with bytecode", "without")
STAGES = ("made", "set up", "step")


class FirstStep(SplatBaseModule[Any]):
    """Writes the times of the stages into a file, and ends the process after the first step."""

    def __init__(self) -> None:
        self._times = {"made": time.time()}

    def on_setup(self, **kwargs: Any) -> None:
        self._times["set up"] = time.time()

    def post_step(self, **kwargs: Any) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._times["step"] = time.time()
        Path(os.environ["FIRST_STEP_FILE"]).write_text(json.dumps(self._times))
        os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=lambda path: Path(path).resolve())
    parser.add_argument("--method", default="splatkit-3dgs-fast")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num-devices", type=int, default=1)
    parser.add_argument("--device-type")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as cache:
        start("with bytecode", Path(cache), args)
        for number in range(args.rounds):
            for kind in KINDS if number % 2 == 0 else reversed(KINDS):
                row = {"kind": kind, "round": number + 1, **start(kind, Path(cache), args)}
                rows.append(row)
                print(f"{kind:>14}: " + ", ".join(f"{stage} {row[stage]:5.2f} s" for stage in STAGES), flush=True)
                if args.json:
                    args.json.write_text(json.dumps(rows, indent=1))
    for kind in KINDS:
        own = [row["step"] for row in rows if row["kind"] == kind]
        print(f"{kind:>14}: best {min(own):.2f} s, median {statistics.median(own):.2f} s")


def start(kind: str, cache: Path, args: argparse.Namespace) -> dict[str, float]:
    """Start ``ns-train``, and return its times and the time that its threads have worked.

    Args:
        kind: one of `KINDS`.
        cache: a folder for bytecode.
        args: those of the command line.
    """
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder, "times.json")
        command = [sys.executable, "-W", "ignore", "-m", "nerfstudio.scripts.train", args.method]
        command += ["--data", str(args.scene), "--output-dir", folder, "--modules.own", "start_up:FirstStep"]
        command += ["--machine.num-devices", str(args.num_devices)]
        command += ["--machine.device-type", args.device_type] if args.device_type else []
        here = str(Path(__file__).resolve().parent)
        environment = {
            **os.environ,
            "NERFSTUDIO_METHOD_CONFIGS": f"{args.method}=splatkit_ns.methods:{args.method.replace('-', '_')}",
            "FIRST_STEP_FILE": str(times),
            "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])),
            "PYTHONPYCACHEPREFIX": str(cache if kind == "with bytecode" else Path(folder, "none")),
            "PYTHONDONTWRITEBYTECODE": "" if kind == "with bytecode" else "1",
        }
        before, began = os.times(), time.time()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        after = os.times()
        if not times.exists():
            raise SystemExit(f"ns-train failed with status {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
        found = {stage: moment - began for stage, moment in json.loads(times.read_text()).items()}
    worked = after.children_user + after.children_system - before.children_user - before.children_system
    return {**found, "cpu_s": worked}


if __name__ == "__main__":
    main()
