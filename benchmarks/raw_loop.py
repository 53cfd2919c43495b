"""Measure the time that nerfstudio's engine adds: the same steps in a bare loop and under the trainer, in one process.

python benchmarks/raw_loop.py SCENE [--method splatkit-3dgs] [--steps 3000] [--device cpu] [--phases 500]
                              [--json FILE] [--profile]

The bare loop has the same data, renderer, loss, optimizers, schedules and densification, and nothing else: no pipeline,
callbacks, hooks, viewer or logging. Both train from the same start for the same number of steps. Beside the wall clock,
which other programs disturb, stands the time that all threads of this process worked.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from train_gpu import method_config

from splatkit_ns.modules import SplatTimer
from splatkit_ns.plugin.step.updates import training_cores
from splatkit_ns.renderer import RenderOptions
from splatkit_ns.splat import clear_gradients, step_together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--method", default="splatkit-3dgs")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--phases", type=int, default=0, help="also print the parts of this many last steps of the trainer"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--profile", action="store_true", help="also print where 50 more steps of the trainer go")
    args = parser.parse_args()
    raw, raw_cpu, _ = timed(args, bare_loop)
    engine, engine_cpu, trainer = timed(args, engine_loop)
    print(
        f"bare loop {raw:.2f} ms/step, under nerfstudio {engine:.2f} ms/step, ratio {engine / raw:.3f}; "
        f"work of all threads {raw_cpu:.2f} and {engine_cpu:.2f} ms/step"
    )
    figures = {"raw_ms": raw, "engine_ms": engine, "ratio": engine / raw, "raw_cpu_ms": raw_cpu}
    figures |= {"engine_cpu_ms": engine_cpu, "gaussians": trainer.pipeline.model.num_points}
    if args.phases:
        figures["phases_ms"] = trainer.modules[-1].report
        for phase, ms in trainer.modules[-1].report.items():
            print(f"{phase:<12} {ms:8.2f} ms")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    if args.profile:
        profile(trainer, args.steps)


def timed(args: argparse.Namespace, loop: Any) -> tuple[float, float, Any]:
    """Milliseconds a step by the wall clock and of work on the CPU, and the trainer."""
    torch.manual_seed(42)
    config = method_config(args.scene, f"{args.method}:{args.steps}")
    config.machine.device_type = args.device
    config.cuda_graphs = False  # of which the bare loop makes none
    trainer = config.setup(local_rank=0, world_size=1)
    if args.phases and loop is engine_loop:
        trainer.modules.append(SplatTimer(every=args.phases))
    trainer.setup()
    trainer.pipeline.datamanager.next_train(0)  # loads the images
    trainer.pipeline.train()
    trainer.pipeline.model.dispatcher.setup()
    wait(args.device)
    began, worked = time.perf_counter(), time.process_time()
    with training_cores(trainer.device):  # as each of the trainer's own steps
        loop(trainer, args.steps)
    wait(args.device)
    wall, work = time.perf_counter() - began, time.process_time() - worked
    return wall * 1e3 / args.steps, work * 1e3 / args.steps, trainer


def wait(device: str) -> None:
    """Wait until the device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def engine_loop(trainer: Any, steps: int) -> None:
    """The trainer's own steps."""
    trainer.stop_training = False
    trainer._train_steps()


def bare_loop(trainer: Any, steps: int) -> None:
    """The same without the engine."""
    model, data = trainer.pipeline.model, trainer.pipeline.datamanager
    state, context = model.training_state, model.context
    optimizers = [trainer.optimizers.optimizers[name] for name in state.params]
    schedulers = list(trainer.optimizers.schedulers.values())
    for step in range(steps):
        camera, batch = data.next_train(step)
        context.step = step + 1
        view = model.parts.frames.view(camera)
        target = (batch["image"].float() / 255)[None]
        background = model.backgrounds.of_evaluation(model.device)
        for optimizer in optimizers:
            clear_gradients(optimizer)
        options = RenderOptions(
            sh_degree=min(step // model.config.sh_degree_interval, model.config.sh_degree),
            backgrounds=background[None],
            render_mode="RGB+ED" if model.loss_fn.wants_depth(step + 1) else "RGB",
        )
        payload = model.renderer.render(state, view, options)
        payload.retain_gradients()
        context.rend_out, context.rendered_frames, context.target_frames = payload, payload.renders, target
        context.view = view
        sum(model.parts.loss_terms().values()).backward()
        model.parts.measure()
        step_together(optimizers)
        for scheduler in schedulers:
            scheduler.step()
        model.parts._densify(context)


def profile(trainer: Any, done: int) -> None:
    """Print the device's and the host's share of further steps, by operation."""
    from torch.profiler import ProfilerActivity

    trainer._start_step, trainer.config.max_num_iterations = done + 1, done + 51
    on_gpu = trainer.pipeline.model.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        trainer._train_steps()
        wait(trainer.pipeline.model.device.type)
    table = profiler.key_averages()
    if on_gpu:
        print(table.table(sort_by="cuda_time_total", row_limit=40, max_name_column_width=60))
    print(table.table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=60))


if __name__ == "__main__":
    main()
