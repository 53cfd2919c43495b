"""Compare training with our kernels and with gsplat's own `rasterization`: times of whole steps, images, gradients.

    python benchmarks/against_gsplat.py SCENE... --runs splatkit-3dgs:2000 splatkit-3dgs-adc:2000 --out results.json
    python benchmarks/against_gsplat.py SCENE --gsplat ~/gsplat-1.5.3 ~/gsplat-1.4.0

gsplat renders all in the second run: projection, spherical harmonics, tile lists and compositing (the backend "gsplat"
replaces only the projection), without CUDA graphs, as the lengths of its lists are read back. With --gsplat, folders
that are put before PYTHONPATH, there is a run for each. Each is a process of its own, which waits while another one
works. They take a block of steps in turn; the first third of the rounds is not counted. ``ratio`` is the median of our
time to gsplat's in the same round.

Then both render some training images of the Gaussians that gsplat has trained. ``image`` is the mean absolute
difference, each gradient of the loss the norm of the difference over that of gsplat's, all of them the largest of these
images. gsplat 1.4 lists Gaussians up to three standard deviations, where the alpha of opaque ones still is 0.011; with
``lists_to_1_255`` its lists go as far as alpha is 1/255, as ours and those of 1.5 do. ``render_ms`` and
``gsplat_render_ms`` are medians of a render, forward and backward, without a CUDA graph, in turn.

At last both are compared with the float64 reference of the tests, every Gaussian at every pixel, in random scenes.
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
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from step_time import milliseconds_a_step, ready
from torch import Tensor
from train_gpu import machine, method_config

from splatkit_ns.rasterize import cuda_rasterization, rasterization
from splatkit_ns.rasterize.arguments import Gaussians, RasterCameras, RasterSettings
from splatkit_ns.rasterize.versions import radii_have_axes

GRADIENTS = ("means", "quats", "scales", "opacities", "colors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*", type=lambda path: Path(path).resolve())
    parser.add_argument("--runs", nargs="+", default=["splatkit-3dgs:2000"], help="METHOD:STEPS")
    parser.add_argument("--gsplat", nargs="+", default=[""], help="folders of gsplat's versions")
    parser.add_argument("--block", type=int, default=100, help="steps in turn")
    parser.add_argument("--images", type=int, default=4, help="training images to compare")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--worker", choices=["ours", "gsplat"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.block, args.images)
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as logs:
        ours = Worker("ours", "", args, Path(logs, "ours.txt"))
        theirs = [Worker("gsplat", folder, args, Path(logs, f"{i}.txt")) for i, folder in enumerate(args.gsplat)]
        for scene in args.scenes:
            for run in args.runs:
                for row in in_turn(ours, theirs, scene, run, args.block):
                    rows.append({"scene": scene.name, "run": run, **row})
                    print(json.dumps(rows[-1]), flush=True)
                    write(args.out, {"machine": machine(), "runs": rows})
        reference = [worker.ask("reference") for worker in theirs]
    print(json.dumps(reference))
    write(args.out, {"machine": machine(), "runs": rows, "against_reference": reference})


def write(path: Path | None, figures: dict[str, Any]) -> None:
    """Write figures as JSON, if they are wanted."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=1) + "\n")


class Worker:
    """A process that trains and compares as it is told."""

    def __init__(self, renderer: str, folder: str, args: argparse.Namespace, log: Path) -> None:
        paths = [folder, str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        command = [sys.executable, __file__, "--worker", renderer, "--block", str(args.block)]
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [*command, "--images", str(args.images)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            )

    def tell(self, *words: str) -> None:
        """Send an order with its arguments; the process begins with it at once."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """Wait until the order is done; returns what the process has found."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("found "):
                return json.loads(line.split(maxsplit=1)[1])
        raise SystemExit(f"A run ended early:\n{self.log.read_text()[-6000:]}")

    def ask(self, *words: str) -> Any:
        """Send an order, and wait for the answer."""
        self.tell(*words)
        return self.answer()


def in_turn(ours: Worker, theirs: list[Worker], scene: Path, run: str, block: int) -> list[dict[str, Any]]:
    """Train all workers on a scene in turn, and compare: a row for each of gsplat's versions."""
    workers = [ours, *theirs]
    for worker in workers:
        worker.tell("start", str(scene), run)
    for worker in workers:
        worker.answer()
    rounds = int(run.split(":")[1]) // block
    times = [[worker.ask("block") for worker in workers] for _ in range(rounds)]
    times = times[len(times) // 3 :]
    rows: list[dict[str, Any]] = []
    for i, worker in enumerate(theirs, 1):
        ratios = [row[0] / row[i] for row in times]
        found = worker.ask("compare")
        rows.append(
            {
                "gsplat": found.pop("gsplat"),
                "ours_ms": round(statistics.median(row[0] for row in times), 3),
                "gsplat_ms": round(statistics.median(row[i] for row in times), 3),
                "ratio": round(statistics.median(ratios), 3),
                "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
                **found,
            }
        )
    return rows


def work(renderer: str, block: int, images: int) -> None:
    """Do what the lines of standard input say."""
    own = cuda_rasterization.rasterize_with_own_kernels
    trainer: Any = None
    done = 0
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            order, *arguments = json.loads(line)
            found: Any = None
            if order == "start":
                render_with(render_by_gsplat if renderer == "gsplat" else own)
                trainer, done = None, 0
                torch.cuda.empty_cache()
                scene, run = arguments
                trainer = ready(method_config(Path(scene), run), Path(folder))
            elif order == "block":
                found = milliseconds_a_step(trainer, done, block)
                done += block
            elif order == "reference":
                found = {"gsplat": machine()["gsplat"], **compare_with_reference()}
            else:
                render_with(own)
                found = {"gsplat": machine()["gsplat"], **compare(trainer, images)}
            print("found", json.dumps(found), flush=True)


def render_with(function: Any) -> None:
    """Let a function render on the GPU in this process."""
    setattr(cuda_rasterization, "rasterize_with_own_kernels", function)  # noqa: B010


def render_by_gsplat(_: Any, *arguments: Any) -> Any:
    """gsplat's `rasterization` with the arguments of ours."""
    return cuda_rasterization.rasterize_with_gsplat(*arguments)


def compare(trainer: Any, images: int) -> dict[str, Any]:
    """The largest differences over some training images, and medians of times."""
    model, data = trainer.pipeline.model, trainer.pipeline.datamanager
    state, mode = model.training_state, model.parts.renderer.rasterize_mode
    leaves = [tensor.detach().clone().requires_grad_() for tensor in activated(state)]
    worst: dict[str, float] = {}
    worst_wide: dict[str, float] = {}
    times: dict[str, list[float]] = {"ours": [], "gsplat": []}
    for step in range(images):
        camera, batch = data.next_train(step)
        frame = model.parts.take_frame(camera, batch)
        assert frame.target is not None
        view, target = frame.view, frame.target
        cameras = RasterCameras(view.world_to_cams, view.Ks, view.width, view.height)
        settings = {"sh_degree": state.sh_degree, "rasterize_mode": mode, "backgrounds": frame.background[None]}

        def image_and_gradients(
            name: str, cameras: RasterCameras = cameras, settings: Any = settings, target: Tensor = target
        ) -> tuple[Tensor, ...]:
            rendered = render(name, leaves, cameras, settings)
            return rendered.detach(), *torch.autograd.grad((rendered - target).abs().mean(), leaves)

        found: dict[str, tuple[Tensor, ...]] = {}
        for name in ("ours", "gsplat") * 4:
            torch.cuda.synchronize()
            began = time.perf_counter()
            found[name] = image_and_gradients(name)
            torch.cuda.synchronize()
            times[name].append((time.perf_counter() - began) * 1000)
        worst = larger(worst, differences(found["ours"], found["gsplat"]))
        if not radii_have_axes():
            with lists_to_1_255():
                worst_wide = larger(worst_wide, differences(found["ours"], image_and_gradients("gsplat")))
    ours_ms, gsplat_ms = (statistics.median(each[len(each) // 4 :]) for each in times.values())
    figures = {"gaussians": len(state), "render_ms": ours_ms, "gsplat_render_ms": gsplat_ms, **worst}
    return figures | ({"lists_to_1_255": worst_wide} if worst_wide else {})


def differences(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> dict[str, float]:
    """The mean absolute difference of images, and relative differences of gradients."""
    relative = (float((got - want).norm() / want.norm()) for got, want in zip(ours[1:], theirs[1:], strict=True))
    return {"image": float((ours[0] - theirs[0]).abs().mean()), **dict(zip(GRADIENTS, relative, strict=True))}


def larger(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    """The larger value of each name."""
    return {name: max(value, first.get(name, 0.0)) for name, value in second.items()}


@contextmanager
def lists_to_1_255() -> Generator[None]:
    """Let gsplat 1.4 list Gaussians up to sqrt(2 log 255) = 3.33 standard deviations instead of 3."""
    from gsplat import rendering

    listed = rendering.isect_tiles

    def wider(means2d: Tensor, radii: Tensor, *arguments: Any, **options: Any) -> Any:
        return listed(means2d, torch.ceil(radii * 1.12).to(radii.dtype), *arguments, **options)

    setattr(rendering, "isect_tiles", wider)  # noqa: B010
    try:
        yield
    finally:
        setattr(rendering, "isect_tiles", listed)  # noqa: B010


def compare_with_reference() -> dict[str, dict[str, float]]:
    """The largest differences of ours and gsplat's from the float64 reference over random scenes."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "rasterize"))
    from dense_reference import render as render_densely
    from raster_scenes import random_scene

    worst: dict[str, dict[str, float]] = {"ours": {}, "gsplat": {}}
    for seed in range(6):
        scene = random_scene(n=300, width=64, height=48, sh_bands=16, seed=seed)
        options = {"sh_degree": 3, "rasterize_mode": "antialiased" if seed % 2 else "classic"}
        target = torch.rand(1, 48, 64, 3, generator=torch.Generator().manual_seed(seed))
        exact = [scene[name].double().requires_grad_() for name in GRADIENTS]
        expected = render_densely(*exact, scene["viewmats"].double(), scene["Ks"].double(), 64, 48, **options)[0]
        reference = expected.detach(), *torch.autograd.grad((expected - target).square().mean(), exact)
        leaves = [scene[name].cuda().requires_grad_() for name in GRADIENTS]
        cameras = RasterCameras(scene["viewmats"].cuda(), scene["Ks"].cuda(), 64, 48)
        for name in worst:
            rendered = render(name, leaves, cameras, options)
            gradients = torch.autograd.grad((rendered - target.cuda()).square().mean(), leaves)
            found = tuple(tensor.detach().double().cpu() for tensor in (rendered, *gradients))
            worst[name] = larger(worst[name], differences(found, reference))
    return worst


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
