"""Time until a run's Triton kernels are there, on a machine that has compiled none of them, and on one that has.

python benchmarks/cold_start_gpu.py [--method splatkit-3dgs-fast] [--json FILE]

Each row is a process of its own. "ahead" loads them as training does while it reads the data, all at once in the
background; "in turn" loads one after the other, as they are met. PyTorch and the method are imported before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS = ("in turn", "ahead")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="splatkit-3dgs-fast")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.method, args.child)))
        return
    rows: list[dict[str, Any]] = []
    for way in WAYS:
        with tempfile.TemporaryDirectory() as cache:
            for state in ("cold", "warm"):
                command = [sys.executable, __file__, "--method", args.method, "--child", way]
                output = subprocess.run(
                    command, env={**os.environ, "TRITON_CACHE_DIR": cache}, check=True, stdout=subprocess.PIPE
                ).stdout
                row = {"way": way, "cache": state, **json.loads(output.splitlines()[-1])}
                rows.append(row)
                print(f"{way:>8} {state}: {row['seconds']:5.2f} s, of the CPU {row['cpu_seconds']:5.2f} s", flush=True)
    print(f"kernels: {', '.join(rows[0]['kernels'])}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def measure(method: str, way: str) -> dict[str, Any]:
    """Load the kernels of a method and say how long that took."""
    import torch
    from nerfstudio.configs.method_configs import all_methods

    from splatkit_ns.plugin.run.parts.modules import gpu_kernels
    from splatkit_ns.triton_kernels import load_ahead

    torch.zeros(1, device="cuda")
    config: Any = all_methods[method]
    kernels = gpu_kernels(config, [])
    began, cpu = time.perf_counter(), os.times()
    if way == "ahead":
        thread = load_ahead(kernels, "cuda:0")
        assert thread is not None
        thread.join()
    found = [kernel() for kernel in kernels]
    torch.cuda.synchronize()
    seconds, now = time.perf_counter() - began, os.times()
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(sum(now[:4]) - sum(cpu[:4]), 3),
        "kernels": [getattr(kernel, "__name__", type(kernel).__name__) for kernel in found],
    }


if __name__ == "__main__":
    main()
