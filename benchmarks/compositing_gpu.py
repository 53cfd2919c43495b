"""Time tile lists and compositing on a GPU: our kernels against gsplat's compositing, on a scene trained here.

python benchmarks/compositing_gpu.py SCENE [--steps 1500] [--json FILE]

gsplat's compositing gets our tile lists, too, which are shorter than its own (docs/benchmarks.md); both blend the same
training view forward and backward.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from train_gpu import machine, trained

from splatkit_ns.rasterize._compositing_triton import composite
from splatkit_ns.rasterize._tile_lists_triton import TileLists, tile_lists
from splatkit_ns.rasterize.cuda_rasterization import LARGE_TILE, SMALL_TILE, own_tile_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with trained(args.scene, f"splatkit-3dgs:{args.steps}") as trainer:
        rows = compare(trainer)
    if args.json:
        args.json.write_text(json.dumps({"scene": args.scene.name, "machine": machine(), "rows": rows}, indent=1))


def compare(trainer: Any) -> list[dict[str, Any]]:
    """Measure and print the milliseconds of each."""
    model = trainer.pipeline.model
    view = model.parts.frames.view(trainer.pipeline.datamanager.next_train(0)[0])
    with torch.no_grad():
        payload = model.renderer.render(model.training_state, view)
    info = payload.info
    colors = torch.rand(1, len(model.training_state), 3, device="cuda")
    gaussians = [info["means2d"], info["conics"], colors, info["opacities"].contiguous()]
    chosen = own_tile_size(view.width * view.height)
    rows: list[dict[str, Any]] = []
    for name, tile in (("gsplat", LARGE_TILE), ("ours", LARGE_TILE), ("ours", SMALL_TILE)):
        tiles = math.ceil(view.width / tile), math.ceil(view.height / tile)

        def lists(tile: int = tile, tiles: tuple[int, int] = tiles) -> TileLists:
            seen = payload.radii > 0
            return tile_lists(gaussians[0], gaussians[1], gaussians[3], seen, info["depths"], *tiles, tile)

        leaves = [tensor.detach().clone().requires_grad_() for tensor in gaussians]
        blend = blended_by(name, leaves, view.width, view.height, tile, lists())
        images, alphas = blend()
        upstream = [torch.randn_like(images), torch.randn_like(alphas)]

        outputs = [images, alphas]

        def backward(
            outputs: list[Tensor] = outputs, leaves: list[Tensor] = leaves, upstream: list[Tensor] = upstream
        ) -> Any:
            return torch.autograd.grad(outputs, leaves, upstream, retain_graph=True)

        bench = triton.testing.do_bench
        times = {"lists_ms": bench(lists), "forward_ms": bench(blend), "backward_ms": bench(backward)}
        rows.append({"by": name, "tile": tile, "chosen": name == "ours" and tile == chosen, **times})
        rows[-1]["sum_ms"] = sum(times.values())
        rows[-1]["ratio"] = rows[-1]["sum_ms"] / rows[0]["sum_ms"]
        print(rows[-1], flush=True)
    return rows


def blended_by(
    name: str, leaves: list[Tensor], width: int, height: int, tile: int, lists: TileLists
) -> Callable[[], tuple[Tensor, Tensor]]:
    """A function that blends these Gaussians."""
    from gsplat import rasterize_to_pixels

    means, conics, colors, opacities = leaves
    if name == "gsplat":
        return lambda: rasterize_to_pixels(
            means, conics, colors, opacities, width, height, tile, lists.offsets, lists.ids
        )
    return lambda: composite(means, conics, colors, opacities, None, width, height, tile, lists, False)


if __name__ == "__main__":
    main()
