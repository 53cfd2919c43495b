"""Compare renders and gradients of our kernels with those of gsplat's rasterization on a trained scene, and times.

    python benchmarks/against_gsplat.py SCENE --run splatkit-3dgs:4000

For some training images, the images of both and the gradients of the loss are compared: ``image`` is the mean absolute
difference, each gradient the norm of the difference over that of gsplat's. ``ours_ms`` and ``gsplat_ms`` are medians of
the wall-clock time of a render, forward and backward, without a CUDA graph; both take turns. Whole training steps with
either: ``step_time.py SCENE --runs splatkit-3dgs:4000 --rasterizer gsplat``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from train_gpu import machine, trained

from splatkit_ns.rasterize import cuda_rasterization, rasterization
from splatkit_ns.rasterize.arguments import Gaussians, RasterCameras, RasterSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--run", default="splatkit-3dgs:4000")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    with trained(args.scene, args.run) as trainer:
        figures = {"machine": machine(), "run": args.run, **compare(trainer, args.images)}
    print(json.dumps(figures))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1) + "\n")


def compare(trainer: Any, images: int) -> dict[str, Any]:
    """The largest differences over some training images, and medians of times."""
    model, data = trainer.pipeline.model, trainer.pipeline.datamanager
    state, mode = model.training_state, model.parts.renderer.rasterize_mode
    leaves = [tensor.detach().clone().requires_grad_() for tensor in activated(state)]
    worst: dict[str, float] = {}
    times: dict[str, list[float]] = {"ours": [], "gsplat": []}
    for step in range(images):
        camera, batch = data.next_train(step)
        frame = model.parts.take_frame(camera, batch)
        assert frame.target is not None
        view = frame.view
        cameras = RasterCameras(view.world_to_cams, view.Ks, view.width, view.height)
        settings = {"sh_degree": state.sh_degree, "rasterize_mode": mode, "backgrounds": frame.background[None]}
        found: dict[str, tuple[Tensor, tuple[Tensor, ...]]] = {}
        for name in ("ours", "gsplat") * 4:
            torch.cuda.synchronize()
            began = time.perf_counter()
            rendered = render(name, leaves, cameras, settings)
            loss = (rendered - frame.target).abs().mean()
            found[name] = rendered.detach(), torch.autograd.grad(loss, leaves)
            torch.cuda.synchronize()
            times[name].append((time.perf_counter() - began) * 1000)
        (ours, gradients), (theirs, expected) = found["ours"], found["gsplat"]
        differences = {"image": float((ours - theirs).abs().mean())}
        for name, got, want in zip(("means", "quats", "scales", "opacities", "sh"), gradients, expected, strict=True):
            differences[name] = float((got - want).norm() / want.norm())
        worst = {name: max(value, worst.get(name, 0.0)) for name, value in differences.items()}
    medians = {f"{name}_ms": statistics.median(each[len(each) // 4 :]) for name, each in times.items()}
    return {"gaussians": len(state), **medians, **worst}


def activated(state: Any) -> list[Tensor]:
    """Means, quats, scales, opacities, and coefficients of spherical harmonics in one tensor."""
    params = state.params
    return [state.means, params["quats"], state.scales, state.opacities, torch.cat([params["sh0"], params["shN"]], 1)]


def render(name: str, leaves: list[Tensor], cameras: RasterCameras, settings: dict[str, Any]) -> Tensor:
    """The image by our kernels, or by gsplat's rasterization alone."""
    if name == "gsplat":
        return cuda_rasterization.rasterize_with_gsplat(Gaussians(*leaves), cameras, RasterSettings(**settings))[0]
    arguments: list[Any] = [*leaves, cameras.viewmats, cameras.Ks, *cameras.size]
    return rasterization(*arguments, **settings)[0]


if __name__ == "__main__":
    main()
