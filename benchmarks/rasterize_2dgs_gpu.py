"""Time 2DGS on a GPU: our kernels against gsplat's rasteriser, on a scene trained here.

python benchmarks/rasterize_2dgs_gpu.py SCENE [--steps 3000] [--json FILE]

Both render the same training cameras in turn, forward and backward, without depth (as in the first steps of training)
and with depth, normals and distortion (as in the later ones).
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
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from train_gpu import machine, trained

WARM_UP, ROUNDS = 10, 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with trained(args.scene, f"splatkit-2dgs:{args.steps}") as trainer:
        figures = compare(trainer)
    if args.json:
        args.json.write_text(json.dumps({"scene": args.scene.name, "machine": machine(), **figures}, indent=1))


def compare(trainer: Any) -> dict[str, Any]:
    """Median milliseconds of both, and their ratios; printed, too."""
    model = trainer.pipeline.model.train()
    data = trainer.pipeline.datamanager
    views = [model.parts.frames.view(data.next_train(0)[0]) for _ in range(8)]
    figures: dict[str, Any] = {"gaussians": len(model.training_state)}
    for name, mode in (("colours", "RGB"), ("all", "RGB+ED")):
        ours = [lambda view=view, mode=mode: by_renderer(model, view, mode) for view in views]
        theirs = [lambda view=view, mode=mode: by_gsplat(model, view, mode) for view in views]
        times: dict[str, list[float]] = {"ours_ms": [], "gsplat_ms": []}
        for round_number in range(WARM_UP + ROUNDS):
            for key, calls in (("ours_ms", ours), ("gsplat_ms", theirs)):
                milliseconds = timed(model, calls[round_number % len(calls)])
                if round_number >= WARM_UP:
                    times[key].append(milliseconds)
        medians = {key: statistics.median(values) for key, values in times.items()}
        figures[name] = {**medians, "ratio": medians["ours_ms"] / medians["gsplat_ms"]}
        print(name, figures[name], flush=True)
    return figures


def timed(model: Any, render: Callable[[], list[Tensor]]) -> float:
    """Milliseconds of forward and backward, from call to result."""
    for param in model.training_state.params.values():
        param.grad = None
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    torch.stack([image.square().mean() for image in render()]).sum().backward()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def by_renderer(model: Any, view: Any, mode: Any) -> list[Tensor]:
    """Images of `Splat2DGSRenderer`."""
    from splatkit_ns.renderer import RenderOptions

    payload = model.renderer.render(model.training_state, view, RenderOptions(render_mode=mode))
    if mode == "RGB":
        return [payload.renders]
    return [payload.renders, payload.depths, payload.normals, payload.normals_from_depth, payload.render_distort]


def by_gsplat(model: Any, view: Any, mode: Any) -> list[Tensor]:
    """The same images of gsplat's function."""
    from gsplat import rasterization_2dgs

    params, state = model.training_state.params, model.training_state
    colors, _, normals, surface_normals, distortion, _, _ = rasterization_2dgs(
        params["means"],
        params["quats"],
        state.scales,
        state.opacities,
        torch.cat([params["sh0"], params["shN"]], dim=1),
        torch.linalg.inv(view.cam_to_worlds),
        view.Ks,
        view.width,
        view.height,
        sh_degree=state.sh_degree,
        packed=False,
        render_mode=mode,
        distloss=mode != "RGB",
    )
    return [colors] if mode == "RGB" else [colors, normals, surface_normals, distortion]


if __name__ == "__main__":
    main()
