"""Compare the results of resumed and of uninterrupted runs, and their differences with those of chance.

python benchmarks/resume_gpu.py SCENE [--steps 2000] [--runs 3] [--out FILE]

If gsplat composites on a GPU, sums are added in any order, so no two runs end alike. Each uninterrupted run saves a
checkpoint half way; a resumed run goes on from there. All have the same seed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from train_gpu import evaluate, machine, method_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    scene, out = args.scene.resolve(), None if args.out is None else args.out.resolve()
    figures: dict[str, list[dict[str, float]]] = {"uninterrupted": [], "resumed": []}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for number in range(args.runs):
            half_way = Path(f"whole-{number}/nerfstudio_models/step-{args.steps // 2:09d}.ckpt")
            figures["uninterrupted"].append(train(scene, args.steps, f"whole-{number}", None))
            figures["resumed"].append(train(scene, args.steps, f"resumed-{number}", half_way.resolve()))
        for name, rows in figures.items():
            psnrs = [row["psnr"] for row in rows]
            counts = [row["gaussians"] for row in rows]
            print(
                f"{name:<14} PSNR {[round(psnr, 2) for psnr in psnrs]}, mean {statistics.mean(psnrs):.2f}, N {counts}"
            )
        os.chdir("/")
    if out:
        out.write_text(json.dumps({"machine": machine(), "steps": args.steps, **figures}, indent=1))


def train(scene: Path, steps: int, name: str, checkpoint: Path | None) -> dict[str, Any]:
    """Train, from a checkpoint if one is given; returns quality and size."""
    from nerfstudio.scripts import train as script
    from nerfstudio.utils import writer

    config = method_config(scene, f"splatkit-3dgs-adc:{steps}")
    config.output_dir, config.experiment_name, config.method_name, config.timestamp = Path("."), "", "", name
    config.vis, config.steps_per_save, config.load_checkpoint = "none", steps // 2, checkpoint
    script._set_random_seed(42)
    writer.EVENT_WRITERS.clear()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    return {**evaluate(trainer.pipeline), "gaussians": int(trainer.pipeline.model.num_points)}


if __name__ == "__main__":
    main()
