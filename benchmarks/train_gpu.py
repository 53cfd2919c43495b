"""Train methods in turn on one scene, in one job, and print their times and qualities side by side.

    python benchmarks/train_gpu.py SCENE --runs splatfacto:30000 splatkit-3dgs:30000 --out results.json

Each run is a process of its own, so that start-up counts: ``wall`` is the whole process with evaluation left out,
``train`` the training loop alone; the JSON file also has the seconds before and after it, and the time that all
threads worked in it, which other programs disturb less. Every 8th image is held out. All methods train with evaluation
switched off and are then evaluated on the same images by the same code (PSNR and SSIM, 11x11 Gaussian window; with
--lpips also LPIPS, AlexNet), over the pixels that masks keep.

A scene is a folder of nerfstudio's, Blender's or COLMAP's format. A run is METHOD:STEPS, or METHOD for its own number
of steps, optionally with overrides of the method's config:
``splatkit-3dgs:7000:pipeline.model.sh_degree=2``, or ``splatkit-3dgs:30000:machine.num_devices=2`` for two GPUs, whose
memory is then that of the GPU that needs most; that all ranks end with the same bits is checked. ``ms/step`` is the
training time over STEPS, which count images. Ratios are relative to the first run. The JSON file also has ``images``,
their number; ``steps_s``, the seconds of the steps alone, without the last checkpoint and the held-out images that
training measures; ``last_third_ms``, milliseconds an image in the last third; the first step, and number, seconds and
median of the steps of each third; and the memory that PyTorch had reserved.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=lambda path: Path(path).resolve())
    parser.add_argument("--runs", nargs="+", default=["splatfacto:30000", "splatkit-3dgs:30000"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--lpips", action="store_true", help="also measure LPIPS, if its weights are found")
    parser.add_argument("--worker", nargs=3, metavar=("RUN", "SEED", "RESULT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        run, seed, result = args.worker
        Path(result).write_text(json.dumps(train(args.scene, run, int(seed), args.lpips)))
        return
    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        for run in args.runs:
            rows.append(run_process(args.scene, run, seed, args.lpips))
            print_table(rows)
            if args.out:
                args.out.write_text(
                    json.dumps({"scene": args.scene.name, "machine": machine(), "runs": rows}, indent=1)
                )


def run_process(scene: Path, run: str, seed: int, lpips: bool = False) -> dict[str, Any]:
    """Train in a process of its own; returns its figures."""
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder) / "result.json", Path(folder) / "log.txt"
        command = [sys.executable, __file__, str(scene), "--worker", run, str(seed), str(result)]
        command += ["--lpips"] if lpips else []
        began = time.perf_counter()
        with log.open("w") as file:
            status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, cwd=folder, check=False)
        seconds = time.perf_counter() - began
        if status.returncode or not result.exists():
            print(log.read_text()[-6000:])
            raise SystemExit(f"{run} failed with status {status.returncode}")
        row = json.loads(result.read_text())
    wall, start = seconds - row.pop("eval_s"), row.pop("train_began") - began
    return {"run": run, "seed": seed, "wall_s": wall, "start_s": start, "end_s": wall - start - row["train_s"], **row}


def method_config(scene: Path, run: str) -> Any:
    """The config of a run on a scene, with evaluation, viewer and intermediate checkpoints off."""
    from nerfstudio.configs.dataparser_configs import all_dataparsers

    method, _, rest = run.partition(":")
    steps, _, overrides = rest.partition(":")
    config = registered(method)
    if (scene / "transforms.json").exists():
        dataparser = deepcopy(all_dataparsers["nerfstudio-data"])
        dataparser.downscale_factor, dataparser.eval_mode, dataparser.eval_interval = 1, "interval", 8
        dataparser.load_3D_points = True
    elif (model := colmap_model(scene)) is not None:
        dataparser = deepcopy(all_dataparsers["colmap"])
        dataparser.colmap_path, dataparser.downscale_factor = model, 1
        dataparser.eval_mode, dataparser.eval_interval = "interval", 8
    else:
        dataparser = deepcopy(all_dataparsers["blender-data"])
    dataparser.data = scene
    config.pipeline.datamanager.dataparser = dataparser
    config.pipeline.datamanager.data = scene
    config.max_num_iterations = int(steps) if steps else config.max_num_iterations
    config.vis = "tensorboard"
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    config.output_dir, config.experiment_name, config.timestamp = Path("out"), "benchmark", "run"
    for override in overrides.split(",") if overrides else []:
        path, _, value = override.partition("=")
        *parents, name = path.split(".")
        target = config
        for parent in parents:
            target = target[parent] if isinstance(target, dict) else getattr(target, parent)
        wanted = ast.literal_eval(value) if value[:1] in "-0123456789TFN([" else value
        if isinstance(target, dict) and name in config.optimizers:  # by the names of parameters
            target[name] = wanted
        elif hasattr(target, name):
            setattr(target, name, wanted)
        else:
            raise SystemExit(f"{type(target).__name__} has no {name}")
    return config


def colmap_model(scene: Path) -> Path | None:
    """The COLMAP model of a scene's folder, relative to it; None if it has none."""
    names = [f"cameras{suffix}" for suffix in (".bin", ".txt")]
    folders = [Path(folder) for folder in ("sparse/0", "sparse", "colmap/sparse/0")]
    return next((folder for folder in folders if any((scene / folder / name).is_file() for name in names)), None)


def registered(method: str) -> Any:
    """The config of a method that nerfstudio knows, or of one of ours, in a checkout that is not installed, too."""
    from nerfstudio.configs.method_configs import all_methods
    from nerfstudio.plugins.types import MethodSpecification

    from splatkit_ns import methods

    ours = [value.config for value in vars(methods).values() if isinstance(value, MethodSpecification)]
    known = {config.method_name: config for config in ours} | all_methods
    if method not in known:
        raise SystemExit(f"There is no method {method}, only {', '.join(known)}.")
    return deepcopy(known[method])


@contextmanager
def trained(scene: Path, run: str) -> Generator[Any]:
    """A trainer that has trained in this process, for benchmarks of parts; its folder is gone afterwards."""
    config = method_config(scene.resolve(), run)
    with tempfile.TemporaryDirectory() as folder:
        config.output_dir = Path(folder)
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        trainer.train()
        yield trainer


def train(scene: Path, run: str, seed: int, lpips: bool = False) -> dict[str, Any]:
    """Train and evaluate, in this process or, with ``machine.num_devices``, in one for each GPU.

    The steps are those of ``ns-train`` (nerfstudio/scripts/train.py, train_loop).
    """
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    from nerfstudio.scripts import train as script

    from splatkit_ns.plugin.run.folder.command_line import pass_over_imports
    from splatkit_ns.plugin.run.processes.rank_processes import number_of_ranks, run_in_ranks

    config = method_config(scene, run)
    config.machine.seed = seed
    script._set_random_seed(seed)
    config.save_config()
    if not hasattr(config, "ranks_to_start"):
        return train_and_measure(config, lpips)
    pass_over_imports([Path(sys.argv[0]).name])  # as in ns-train
    if number_of_ranks(config) > 1:
        return run_in_ranks(config, train_and_measure, lpips, forks=True)
    return train_and_measure(config, lpips)


def train_and_measure(config: Any, lpips: bool = False) -> dict[str, Any]:
    """Train and evaluate in this process, which may be one of several ranks."""
    import torch

    from splatkit_ns.ranks import Ranks

    torch.backends.cudnn.benchmark = True
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    marks = StepMarks(trainer)
    train_began, worked = time.perf_counter(), time.process_time()
    trainer.train()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds, work = time.perf_counter() - train_began, time.process_time() - worked
    memory = torch.cuda.max_memory_allocated, torch.cuda.max_memory_reserved
    peak, reserved = [of() / 2**20 if torch.cuda.is_available() else 0.0 for of in memory]
    ranks = Ranks.current().gather_objects((peak, reserved, digest(trainer.pipeline.model)))
    if len({bits for *_, bits in ranks}) > 1:
        raise SystemExit(f"The ranks end with different parameters: {ranks}.")
    began = time.perf_counter()
    quality = evaluate(trainer.pipeline, lpips)
    return {
        "ranks": len(ranks),
        "train_began": train_began,
        "train_s": seconds,
        "train_cpu_s": work,
        "ms_per_step": seconds * 1e3 / config.max_num_iterations,
        **marks.figures(),
        "peak_mib": max(peak for peak, *_ in ranks),
        "reserved_mib": max(reserved for _, reserved, _ in ranks),
        "host_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "gaussians": int(trainer.pipeline.model.num_points),
        **quality,
        "eval_s": time.perf_counter() - began,
    }


class StepMarks:
    """Notes when each step of one of our trainers begins and ends; of others, nothing."""

    def __init__(self, trainer: Any) -> None:
        self._ends: list[tuple[int, float]] = []
        train_step = getattr(trainer, "_train_step", None)
        if train_step is None:
            return

        def marked(step: int, last: int) -> None:
            self._ends = self._ends or [(step, time.perf_counter())]
            train_step(step, last)
            self._ends.append((last + 1, time.perf_counter()))

        trainer._train_step = marked

    def figures(self) -> dict[str, Any]:
        """The number of images, the seconds of all steps, and the milliseconds an image in the last third of them."""
        if len(self._ends) < 6:
            return {}
        (first, began), (last, ended) = self._ends[0], self._ends[-1]
        image, then = next(end for end in self._ends if end[0] - first >= (last - first) * 2 / 3)
        thirds: list[dict[str, float]] = []
        steps = [(image, end - start) for (_, start), (image, end) in itertools.pairwise(self._ends)]
        for i in range(3):
            low, high = (first + (last - first) * each / 3 for each in (i, i + 1))
            found = [seconds for image, seconds in steps if low < image <= high]
            if found:
                thirds.append({"steps": len(found), "s": sum(found), "median_ms": statistics.median(found) * 1e3})
        return {
            "images": last - first,
            "steps_s": ended - began,
            "last_third_ms": (ended - then) * 1e3 / (last - image),
            "first_step_s": steps[0][1],
            "thirds": thirds,
        }


def digest(model: Any) -> str:
    """A hash of the parameters of the Gaussians."""
    found = hashlib.sha256()
    for name in sorted(model.gauss_params):
        found.update(model.gauss_params[name].detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def evaluate(pipeline: Any, lpips: bool = False) -> dict[str, float]:
    """Mean PSNR, SSIM and, if it is wanted and its weights are found, LPIPS over the held-out images.

    Each method renders, and what it renders is compared as our trainer does: over the pixels that masks keep, with
    transparent photographs on the background of the render.
    """
    import torch

    from splatkit_ns.image_metrics.metrics import ImageMetrics
    from splatkit_ns.plugin.data.photographs.images import evaluation_target
    from splatkit_ns.plugin.step.measures import compared

    metrics = ImageMetrics(lpips=lpips)
    found: list[dict[str, float]] = []
    pipeline.eval()
    for camera, batch in pipeline.datamanager.fixed_indices_eval_dataloader:
        with torch.no_grad():
            outputs = pipeline.model.get_outputs_for_camera(camera)
            target, mask = evaluation_target(batch, outputs["background"])
            found.append(metrics.uncorrected(compared(outputs).clamp(0, 1), target, mask))
    return {name: sum(each[name] for each in found) / len(found) for name in found[0]} | {"held_out": len(found)}


def machine() -> dict[str, str]:
    """The environment that the figures depend on."""
    from importlib import metadata

    import torch

    from splatkit_ns.rasterize import gsplat_version

    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "torch": torch.__version__,
        "gsplat": ".".join(map(str, gsplat_version())),
        "nerfstudio": metadata.version("nerfstudio"),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """All runs so far, with ratios to the first."""
    first = rows[0]
    print(
        f"{'run':<50} {'wall s':>7} {'x':>6} {'train s':>7} {'ms/step':>7} {'PSNR':>6} {'':>6} {'SSIM':>6} {'N':>8} "
        f"{'MiB':>6}"
    )
    for row in rows:
        print(
            f"{row['run']:<50} {row['wall_s']:7.1f} {row['wall_s'] / first['wall_s']:6.3f} {row['train_s']:7.1f} "
            f"{row['ms_per_step']:7.2f} {row['psnr']:6.2f} {row['psnr'] - first['psnr']:+6.2f} {row['ssim']:6.4f} "
            f"{row['gaussians']:8d} {row['peak_mib']:6.0f}",
            flush=True,
        )
    print(flush=True)


if __name__ == "__main__":
    main()
