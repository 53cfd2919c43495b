"""Time writing a PLY file of Gaussians, against nerfstudio's `ns-export gaussian-splat`.

python benchmarks/ply_write.py [--gaussians 1000000] [--peer-gaussians 20000] [--folder FOLDER] [--json FILE]

SH degree 3. nerfstudio's writer takes a time proportional to the number, so fewer Gaussians are enough to measure it.
Ours waits for the disk before it puts the file in its place, nerfstudio's does not. The "disk" is that alone: bytes
that are ready, as many as our file has.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from nerfstudio.scripts.exporter import ExportGaussianSplat

from splatkit_ns.files import atomic_write
from splatkit_ns.splat import SplatModel

RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=1_000_000)
    parser.add_argument("--peer-gaussians", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one if not given")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = gaussians(args.gaussians)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "splat.ply"
        ours, disk = [], []
        for _ in range(RUNS):
            ours.append(seconds(lambda: model.save_ply(path)))
            disk.append(seconds(partial(copy, path.read_bytes(), path)))
        few = gaussians(args.peer_gaussians)
        few.save_ply(path)
        columns = vertex_columns(path, args.peer_gaussians)
        theirs = [
            seconds(lambda: ExportGaussianSplat.write_ply(str(path), args.peer_gaussians, columns)) for _ in range(RUNS)
        ]
    per_million = 1e6 * statistics.median(ours) / args.gaussians
    per_million_theirs = 1e6 * statistics.median(theirs) / args.peer_gaussians
    rows = (("ours", args.gaussians, ours), ("disk", args.gaussians, disk), ("nerfstudio", args.peer_gaussians, theirs))
    for name, num, times in rows:
        print(f"{name:<11} {num:>9} Gaussians: " + "  ".join(f"{each:.3f}" for each in times) + " s")
    print(
        f"a million: {per_million:.2f} s and {per_million_theirs:.1f} s, ratio {per_million_theirs / per_million:.0f}"
    )
    if args.json:
        figures = {name: {"gaussians": num, "seconds": times} for name, num, times in rows}
        args.json.write_text(json.dumps(figures, indent=1))


def gaussians(num: int) -> SplatModel:
    """Random Gaussians of SH degree 3."""
    torch.manual_seed(0)
    return SplatModel(
        means=torch.randn(num, 3),
        scales=torch.randn(num, 3),
        quats=torch.randn(num, 4),
        opacities=torch.randn(num),
        sh0=torch.randn(num, 1, 3),
        shN=torch.randn(num, 15, 3),
    )


def vertex_columns(path: Path, num: int) -> dict[str, np.ndarray]:
    """The properties of a PLY file as nerfstudio's exporter hands them to its writer, (N,) each."""
    header, _, body = path.read_bytes().partition(b"end_header\n")
    names = [line.split()[-1].decode() for line in header.splitlines() if line.startswith(b"property")]
    rows = np.frombuffer(body, np.float32).reshape(num, len(names))
    return {name: np.ascontiguousarray(rows[:, i]) for i, name in enumerate(names)}


def copy(content: bytes, path: Path) -> None:
    """Write bytes as `SplatModel.save_ply` does."""

    def write(file: BinaryIO) -> None:
        file.write(content)

    atomic_write(path, write)


def seconds(write: Callable[[], None]) -> float:
    start = time.perf_counter()
    write()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
