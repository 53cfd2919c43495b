"""Time the projection, and a whole render, forward and backward on a GPU: ours, and with gsplat's compiled code.

python benchmarks/projection_gpu.py [--gaussians 100000 500000 1000000] [--rounds 3] [--json FILE]

Gaussians are random: about half of them are seen. `kernels_ms` is measured in a CUDA graph, so that launches from
Python do not count; `floor_ms` is the bytes that the two passes of the projection have to move over the bandwidth.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from train_gpu import machine

from splatkit_ns.rasterize import rasterization
from splatkit_ns.rasterize.arguments import Gaussians, RasterCameras, RasterSettings
from splatkit_ns.rasterize.projection import project_by_gsplat, project_in_kernels

SIZES = ((768, 560), (1600, 900))
READ, WRITTEN = 4 * (3 + 4 + 3 + 1), 4 * (1 + 2 + 1 + 3 + 1) + 1
"""Bytes of a Gaussian that the forward pass reads and writes, with one radius."""
READ_BACKWARD, WRITTEN_BACKWARD = READ + 4 * (2 + 1 + 3 + 1) + 1, READ


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, nargs="+", default=[100_000, 500_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bandwidth", type=float, default=3350, help="of the GPU's memory in GB/s")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for number in args.gaussians:
        moved = number * (READ + WRITTEN + READ_BACKWARD + WRITTEN_BACKWARD)
        for size in SIZES:
            found = measure(number, *size, rounds=args.rounds)
            row = {"gaussians": number, "size": size, "floor_ms": moved / args.bandwidth / 1e6, **found}
            rows.append(row)
            print(json.dumps(row), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))


def measure(number: int, width: int, height: int, rounds: int) -> dict[str, float]:
    """Medians of each time over rounds, in which ours and gsplat's take turns."""
    leaves, matrices = make_scene(number, width, height)
    seen = project_in_kernels(
        Gaussians(*leaves), RasterCameras(*matrices, width, height), RasterSettings()
    ).seen.float()
    calls = {
        "projection_ours": projected(project_in_kernels, leaves, matrices, width, height),
        "projection_gsplat": projected(project_by_gsplat, leaves, matrices, width, height),
        "render_ours": rendered("splatkit", leaves, matrices, width, height),
        "render_with_gsplats_projection": rendered("gsplat", leaves, matrices, width, height),
        "render_gsplat": rendered_by_gsplat(leaves, matrices, width, height),
    }
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, call in calls.items():
            times.setdefault(f"{name}_ms", []).append(triton.testing.do_bench(call, return_mode="median"))
            if name.startswith("projection"):
                graph = triton.testing.do_bench_cudagraph(call, return_mode="median")
                times.setdefault(f"{name}_kernels_ms", []).append(graph)
    return {"seen": float(seen.mean()), **{name: statistics.median(found) for name, found in times.items()}}


def make_scene(number: int, width: int, height: int) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    """Means, quats, scales, opacities and SH coefficients of degree 3, all with gradients; viewmats and Ks."""
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device="cuda")

    means = normal(number, 3) * torch.tensor([3.0, 2.0, 2.0], device="cuda")
    means[:, 2] += 4
    scales = torch.exp(0.7 * normal(number, 3)) * 0.4 * number ** (-1 / 2)
    opacities = torch.sigmoid(1.5 * normal(number))
    leaves = [means, normal(number, 4), scales, opacities, 0.3 * normal(number, 16, 3)]
    K = torch.tensor([[[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2], [0, 0, 1]]], device="cuda")
    return [leaf.requires_grad_() for leaf in leaves], (torch.eye(4, device="cuda")[None], K)


def projected(
    project: Callable[..., Any], leaves: list[Tensor], matrices: tuple[Tensor, Tensor], width: int, height: int
) -> Callable[[], object]:
    """A call that projects forward and backward."""
    cameras, number = RasterCameras(*matrices, width, height), len(leaves[0])
    upstream = [torch.rand(1, number, 2, device="cuda"), torch.rand(1, number, 3, device="cuda")]

    def call() -> object:
        found = project(Gaussians(*leaves), cameras, RasterSettings())
        return torch.autograd.grad([found.means2d, found.conics], leaves[:3], upstream)

    return call


def rendered(
    backend: Any, leaves: list[Tensor], matrices: tuple[Tensor, Tensor], width: int, height: int
) -> Callable[[], object]:
    """A call that renders forward and backward."""
    upstream = torch.rand(1, height, width, 3, device="cuda")

    def call() -> object:
        images, _, _ = rasterization(*leaves, *matrices, width, height, sh_degree=3, backend=backend)
        return torch.autograd.grad(images, leaves, upstream)

    return call


def rendered_by_gsplat(
    leaves: list[Tensor], matrices: tuple[Tensor, Tensor], width: int, height: int
) -> Callable[[], object]:
    """A call that renders forward and backward by gsplat alone."""
    import gsplat

    upstream = torch.rand(1, height, width, 3, device="cuda")

    def call() -> object:
        images, _, _ = gsplat.rasterization(*leaves, *matrices, width, height, sh_degree=3, packed=False)
        return torch.autograd.grad(images, leaves, upstream)

    return call


if __name__ == "__main__":
    main()
