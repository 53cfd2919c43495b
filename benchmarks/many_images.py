"""Training on many photographs: time to the first step, memory, and milliseconds a step, cached and streamed.

    python benchmarks/many_images.py                                    # 2,000 images of 1920×1080, JPEG
    python benchmarks/many_images.py --num 1000 --width 1600 --height 1067 --cache-gib 1 --device cpu

The photographs are noise that compresses like photographs, with distinct poses on a circle; the Gaussians are random
points. What they show does not matter: reading and copying them costs the same. Each variant runs in a process of its
own, one after the other: all images cached, and as many as ``--cache-gib`` holds, the others read from disk.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

GIBIBYTE = 1024**3


def make_scene(folder: Path, num: int, width: int, height: int, kind: str) -> Path:
    """A data set in nerfstudio's format; one that is there already with the same numbers is used."""
    from PIL import Image

    scene = folder / f"{num}-{width}x{height}-{kind}"
    if (scene / "transforms.json").is_file():
        return scene
    (scene / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 216, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    picture = np.clip(picture + rng.integers(-10, 11, picture.shape), 0, 255).astype(np.uint8)

    def write(number: int) -> dict[str, Any]:
        path = scene / "images" / f"frame_{number:05d}.{kind}"
        Image.fromarray(np.roll(picture, number * 7, axis=1)).save(path, quality=92, compress_level=1)
        turn = 2 * math.pi * number / num
        back = np.array([math.cos(turn), math.sin(turn), 0.3])
        back /= np.linalg.norm(back)
        right = np.array([-math.sin(turn), math.cos(turn), 0.0])
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(back, right), back], axis=1)
        pose[:3, 3] = 3 * back
        return {"file_path": f"images/{path.name}", "transform_matrix": pose.tolist()}

    with ThreadPoolExecutor() as threads:
        frames = list(threads.map(write, range(num)))
    focal = 0.8 * width
    content = {
        "camera_model": "OPENCV", "w": width, "h": height, "fl_x": focal, "fl_y": focal,
        "cx": width / 2, "cy": height / 2, "k1": 0.02, "k2": -0.01, "p1": 0.0, "p2": 0.0, "frames": frames,
    }  # fmt: skip
    (scene / "transforms.json").write_text(json.dumps(content))
    return scene


def measure(scene: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train in this process, and return the figures."""
    began, cpu_began = time.perf_counter(), time.process_time()
    import torch

    from splatkit_ns import methods

    imported, cpu_imported = time.perf_counter(), time.process_time()
    config: Any = methods.splatkit_3dgs_adc.config
    config.output_dir, config.vis, config.max_num_iterations = scene.parent / "runs", "none", options.steps
    config.machine.device_type = options.device
    config.logging.local_writer.enable = False
    config.steps_per_save = 10**6
    config.pipeline.model.num_random = options.gaussians
    config.modules.resolution.max_downscale = options.downscale
    data = config.pipeline.datamanager
    data.data, data.cache_gib = scene, options.cache_gib
    config.set_timestamp()
    config.save_config()
    trainer = config.setup()
    trainer.setup()
    is_gpu = options.device == "cuda"
    ends: list[tuple[float, float]] = []
    run_step = trainer.training_step.run

    def timed(step: int) -> Any:
        result = run_step(step)
        if is_gpu and step % 50 == 0:
            torch.cuda.synchronize()
        ends.append((time.perf_counter(), time.process_time()))
        return result

    trainer.training_step.run = timed
    start, cpu_start = time.perf_counter(), time.process_time()
    trainer.train()
    batches = trainer.pipeline.datamanager.cached_train
    timed_from = min(options.warm_up, len(ends) - 2)
    (wall_a, cpu_a), (wall_b, cpu_b) = ends[timed_from], ends[-1]
    steps = len(ends) - 1 - timed_from
    return {
        "images": len(batches),
        "kept": batches.num_kept,
        "imports_s": imported - began,
        "imports_cpu_s": cpu_imported - cpu_began,
        "start_s": ends[0][0] - imported,
        "start_cpu_s": ends[0][1] - cpu_imported,
        "of_that_first_step_s": ends[0][0] - start,
        "of_that_first_step_cpu_s": ends[0][1] - cpu_start,
        "ms_per_step": 1000 * (wall_b - wall_a) / steps,
        "cpu_ms_per_step": 1000 * (cpu_b - cpu_a) / steps,
        "peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIBIBYTE,
        "peak_gpu_gib": torch.cuda.max_memory_allocated() / GIBIBYTE if is_gpu else 0.0,
        "device": torch.cuda.get_device_name() if is_gpu else f"{torch.get_num_threads()} CPU threads",
    }


def main() -> None:
    """Make the images, measure both variants, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=2000, help="number of images")
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--kind", choices=("jpg", "png"), default="jpg")
    parser.add_argument("--cache-gib", type=float, default=1.0, help="memory for images of the streamed variant")
    parser.add_argument("--variants", nargs="+", choices=("cached", "streamed"), default=["cached", "streamed"])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--gaussians", type=int, default=200_000)
    parser.add_argument("--downscale", type=int, default=1, help="train at this part of the resolution at the start")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--warm-up", type=int, default=100, help="steps that are not timed")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/many_images"), help="for images and runs")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # the scene, in a child
    options = parser.parse_args()
    if options.measure is not None:
        options.cache_gib = None if options.cache_gib < 0 else options.cache_gib
        figures = measure(options.measure, options)
        options.output.write_text(json.dumps(figures))
        return
    scene = make_scene(options.folder, options.num, options.width, options.height, options.kind)
    found: dict[str, Any] = {}
    for variant in options.variants:
        path = options.folder / f"{variant}.json"
        gib = options.cache_gib if variant == "streamed" else 1024.0
        numbers = ("device", "gaussians", "downscale", "steps", "warm_up")
        arguments = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in numbers]
        command = [sys.executable, __file__, *arguments, f"--cache-gib={gib}", f"--measure={scene}", f"--output={path}"]
        subprocess.run(command, check=True)
        found[variant] = json.loads(path.read_text())
        print(variant, json.dumps(found[variant], indent=1))
    if len(found) == 2:
        print(f"streamed / cached: {found['streamed']['ms_per_step'] / found['cached']['ms_per_step']:.3f}")
    if options.output is not None:
        described = {name: getattr(options, name) for name in ("num", "width", "height", "kind", "cache_gib")}
        options.output.write_text(json.dumps({**described, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
