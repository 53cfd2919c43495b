"""Measure the cost of attached modules per training step while they have nothing to do.

    python benchmarks/modules_overhead.py [SCENE] [--device cuda] [--rounds 40] [--block 10] [--out results.json]

Five runs from the same seed on one scene, in one process, a block of steps each in turn:

    none     no modules
    again    no modules, once more: how far figures differ by chance
    off      all built-in modules attached, switched off by their settings (as `ns-train` attaches them)
    waiting  all built-in modules attached and switched on, but for steps that are never reached
    timed    SplatTimer running

Printed is the median over rounds of the ratio of a block's time to the mean of "none" and "again" in the same round;
each round has another order. Times are those of the wall clock on a GPU, and on the CPU those that all threads of this
process worked, which other programs disturb less. SCENE is a folder in nerfstudio's format; without it the scene of
`make demo` is made in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from splatkit_ns.data_provider import NerfstudioDataProvider
from splatkit_ns.modules import (
    BuiltinModules,
    SplatCheckpointer,
    SplatEvaluator,
    SplatExporter,
    SplatProgressTracker,
    SplatTensorboard,
    SplatTimer,
)
from splatkit_ns.plugin.model import SplatkitModelConfig
from splatkit_ns.plugin.pipeline import SplatkitPipelineConfig
from splatkit_ns.plugin.run_config import trainer_config
from splatkit_ns.plugin.trainer import SplatkitTrainer
from splatkit_ns.splat.rng import seed_everything

NEVER = 10**9


def attached(name: str, folder: Path) -> list[Any]:
    """The modules of a run."""
    if name == "off":
        idle = BuiltinModules()
        return [idle.progress, idle.evaluator, idle.exporter, idle.checkpointer, idle.tensorboard, idle.timer]
    if name == "waiting":
        return [
            SplatProgressTracker(update_every=NEVER),
            SplatEvaluator(folder / "eval", [NEVER]),
            SplatExporter(folder / "export", [NEVER]),
            SplatCheckpointer(folder / "checkpoints", every=NEVER),
            SplatTensorboard(folder / "tensorboard", scalars_every=NEVER, images_every=NEVER),
        ]
    return [SplatTimer(every=NEVER)] if name == "timed" else []


class Run:
    """A training run that is advanced in blocks."""

    def __init__(self, name: str, scene: Path, folder: Path, device: str) -> None:
        seed_everything(0)
        datamanager = NerfstudioDataProvider(scene).datamanager_config()
        model = SplatkitModelConfig()
        config = trainer_config(
            "splatkit-3dgs",
            model,
            max_num_iterations=NEVER + 1,
            output_dir=folder / name,
            pipeline=SplatkitPipelineConfig(datamanager=datamanager, model=model),
            vis="none",
        )
        config.machine.device_type, config.machine.seed = device, 0  # type: ignore[assignment]
        config.logging.steps_per_log, config.logging.profiler = NEVER, "none"
        config.logging.local_writer.enable = False
        config.viewer.quit_on_train_completion = True
        config.set_timestamp()
        self.device = device
        self.trainer = SplatkitTrainer(config)
        self.trainer.modules += attached(name, folder / name)
        self.trainer.setup()
        self.trainer.pipeline.model.dispatcher.setup()
        self.step = 0

    def block(self, num_steps: int) -> float:
        """Train; returns milliseconds a step."""
        trainer = self.trainer
        clock = time.perf_counter if self.device == "cuda" else time.process_time
        self._wait()
        began = clock()
        for _ in range(num_steps):
            trainer.step = self.step
            trainer.pipeline.train()
            trainer.training_step.run(self.step)
            self.step += 1
        self._wait()
        return 1000 * (clock() - began) / num_steps

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def measure(scene: Path, folder: Path, device: str, rounds: int, block: int) -> dict[str, Any]:
    """The figures of all runs."""
    names = ["none", "off", "waiting", "timed", "again"]
    runs = {name: Run(name, scene, folder, device) for name in names}
    for run in runs.values():
        run.block(block)  # kernels are compiled and images loaded
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in random.Random(number).sample(names, len(names)):
            times[name].append(runs[name].block(block))
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "num_gaussians": len(runs["none"].trainer.pipeline.model.training_state),
        "steps": runs["none"].step,
        "ms_per_step": {name: statistics.median(values) for name, values in times.items()},
        "ratio_to_none": {
            name: statistics.median(
                2 * a / (b + c) for a, b, c in zip(values, times["none"], times["again"], strict=True)
            )
            for name, values in times.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path, nargs="?")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--block", type=int, default=10, help="steps of a block")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = args.scene
        if scene is None:
            scene = folder / "scene"
            script = Path(__file__).parent.parent / "examples" / "make_demo_scene.py"
            subprocess.run([sys.executable, str(script), str(scene)], check=True)
        figures = measure(scene, folder, args.device, args.rounds, args.block)
    for name, ratio in figures["ratio_to_none"].items():
        print(f"{name:<8} {figures['ms_per_step'][name]:8.3f} ms a step   {ratio:6.4f} of none")
    print(json.dumps(figures))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
