"""Time writing and reading a scene in every format.

python benchmarks/formats.py [--gaussians 1000000] [--formats spz sog …] [--scene FILE] [--runs 3] [--json FILE]

Gaussians are drawn from a trained scene, with noise, or made at random without one. Seconds are those of the processor,
which other programs on the machine change little. "One thread" is the part that no second core can share, so that with
two idle cores a file takes that and half of the rest.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from splatkit_ns import formats
from splatkit_ns.formats import Gaussians, format_names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=1_000_000)
    parser.add_argument("--formats", nargs="+", choices=format_names(), default=format_names())
    parser.add_argument("--scene", type=Path, help="a file of a trained scene")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one if not given")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    scene = made(args.gaussians, args.scene)
    figures: dict[str, dict[str, float]] = {}
    for name in args.formats:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            path = Path(folder) / f"scene.{name}"
            write = [processor_seconds(lambda path=path: formats.write(path, scene)) for _ in range(args.runs)]
            read = [processor_seconds(lambda path=path: formats.read(path)) for _ in range(args.runs)]
            figures[name] = {"bytes": path.stat().st_size, **named("write", write), **named("read", read)}
        row = figures[name]
        print(
            f"{name:<15} {row['bytes'] / 1e6:8.1f} MB"
            + "".join(
                f"   {kind} {row[f'{kind}_seconds']:6.2f} s, {row[f'{kind}_one_thread_seconds']:.2f} of one thread, "
                f"{row[f'{kind}_two_cores_seconds']:.2f} on two cores"
                for kind in ("write", "read")
            ),
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps({"gaussians": len(scene), "formats": figures}, indent=1) + "\n")


def made(num: int, scene: Path | None) -> Gaussians:
    """So many Gaussians of SH degree 3, or of that of the scene."""
    generator = np.random.default_rng(0)

    def noise(width: float, *shape: int) -> np.ndarray:
        return generator.standard_normal((num, *shape), dtype=np.float32) * np.float32(width)

    if scene is None:
        return Gaussians(noise(1, 3), noise(1, 3), noise(1, 4), noise(1), noise(0.3, 1, 3), noise(0.1, 15, 3))
    drawn = formats.read(scene)
    drawn = drawn.take(generator.integers(0, len(drawn), num))
    arrays = drawn.arrays()
    for key, width in {"means": 0.01, "scales": 0.1, "sh0": 0.05, "shN": 0.02}.items():
        arrays[key] = arrays[key] + noise(width, *arrays[key].shape[1:])
    return Gaussians(**arrays, render_mode=drawn.render_mode)


def named(kind: str, runs: list[tuple[float, float]]) -> dict[str, float]:
    """The quickest of the runs."""
    whole, single = min(runs)
    return {
        f"{kind}_seconds": round(whole, 3),
        f"{kind}_one_thread_seconds": round(single, 3),
        f"{kind}_two_cores_seconds": round(single + max(whole - single, 0) / 2, 3),
    }


def processor_seconds(work: Callable[[], object]) -> tuple[float, float]:
    """The processor's seconds of all threads, and those of this one."""
    whole, single = time.process_time(), time.thread_time()
    work()
    return time.process_time() - whole, time.thread_time() - single


if __name__ == "__main__":
    main()
