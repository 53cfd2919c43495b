"""Train on photographs that were made difficult in a known way, with and without the parts against it.

    python benchmarks/difficult_photographs.py appearance SCENE [--steps 900] [--out results.json]
    python benchmarks/difficult_photographs.py make appearance SCENE FOLDER

`appearance` gives each training photograph a gain of up to a stop, white balance and gamma at random. It trains on the
photographs as they are and on the changed ones, without an image model and with each, and prints PSNR and
colour-corrected PSNR of the held-out ones (every eighth), which are never changed. `make` only writes a data set, also
one of `distractors`: with a figure painted into a third of the training photographs. SCENE is a folder in nerfstudio's
format. For a CPU that has little time:
--points 3000 --set pipeline.datamanager.camera_res_scale_factor=0.25
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from plyfile import PlyData, PlyElement

EVAL_INTERVAL = 8
MODELS = ("none", "affine", "bilateral-grid", "ppisp")

Pixels = NDArray[np.float64]


def to_light(values: Pixels) -> Pixels:
    """Linear light of sRGB values, both in [0, 1] (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def to_srgb(light: Pixels) -> Pixels:
    """The inverse of `to_light`."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def uneven(values: Pixels, rng: np.random.Generator) -> Pixels:
    """A photograph (H, W, 3) in [0, 1] as another exposure, white balance and tone curve would have made it."""
    gain = 2 ** rng.uniform(-1, 1)
    balance = np.exp(rng.uniform(-0.2, 0.2, 3) * [1, 0, 1])
    gamma = np.exp(rng.uniform(-0.2, 0.2))
    return to_srgb(np.clip(to_light(values) * gain * balance, 0, 1)) ** gamma


def painted(values: Pixels, rng: np.random.Generator) -> Pixels:
    """A photograph in which something stands that no other shows; two of three stay as they are.

    It is a body and a head, as high as a third to two thirds of the image, striped or plain.
    """
    if rng.random() > 1 / 3:
        return values
    height, width, _ = values.shape
    tall = rng.uniform(1 / 3, 2 / 3) * height
    x, y = rng.uniform(0.15, 0.85) * width, rng.uniform(0.35, 0.75) * height
    rows, columns = np.mgrid[:height, :width] + 0.5
    body = ((columns - x) / (0.17 * tall)) ** 2 + ((rows - y) / (0.4 * tall)) ** 2 < 1
    head = (columns - x) ** 2 + (rows - y + 0.45 * tall) ** 2 < (0.11 * tall) ** 2
    colors = rng.uniform(0, 1, (3, 3))
    stripes = (rows // rng.uniform(3, 15)).astype(int) % 2 * (rng.random() < 0.5)
    changed = values.copy()
    changed[body] = colors[stripes[body]]
    changed[head] = colors[2]
    return changed


CHANGES = {"appearance": uneven, "distractors": painted, "nothing": lambda values, rng: values}


def make(kind: str, scene: Path, folder: Path, points: int | None = None, seed: int = 0) -> Path:
    """Write a data set whose training photographs are changed, as PNG; the others are copies of the same files.

    Args:
        kind: a key of `CHANGES`.
        scene: the data set.
        folder: the new one.
        points: the number of seed points that are kept, drawn at random; None for all.
        seed: of the changes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    meta = json.loads((scene / "transforms.json").read_text())
    rng = np.random.default_rng(seed)
    names = sorted(frame["file_path"] for frame in meta["frames"])
    for frame in meta["frames"]:
        path, target = scene / frame["file_path"], folder / frame["file_path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        if kind == "nothing" or names.index(frame["file_path"]) % EVAL_INTERVAL == 0:
            shutil.copyfile(path, target)
            continue
        with Image.open(path) as image:
            values = np.asarray(image.convert("RGB"), dtype=np.float64) / 255
        target = target.with_suffix(".png")
        Image.fromarray((CHANGES[kind](values, rng) * 255).round().astype(np.uint8)).save(target)
        frame["file_path"] = str(target.relative_to(folder))
    if "ply_file_path" in meta:
        path = (scene / meta["ply_file_path"]).resolve()
        meta["ply_file_path"] = str(path)
        if points is not None:
            rows = PlyData.read(str(path))["vertex"].data
            rows = rows[np.random.default_rng(seed).permutation(len(rows))[:points]]
            PlyData([PlyElement.describe(rows, "vertex")]).write(str(folder / "points.ply"))
            meta["ply_file_path"] = "points.ply"
    (folder / "transforms.json").write_text(json.dumps(meta, indent=1))
    return folder


def train(data: Path, args: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate; returns the held-out metrics, seconds and the number of Gaussians."""
    from splatkit_ns.data_provider import NerfstudioDataProvider
    from splatkit_ns.modules import SplatEvaluator
    from splatkit_ns.trainer import SplatTrainer, SplatTrainerConfig

    with tempfile.TemporaryDirectory() as folder:
        config = SplatTrainerConfig(
            method=args.method,
            max_steps=args.steps,
            output_dir=folder,
            device=args.device,
            lpips=False,
            seed=args.seed,
            settings={"steps_per_eval_image": 0, "steps_per_eval_all_images": 0, **settings},
        )
        evaluator = SplatEvaluator(folder, eval_steps=[args.steps], save_images=False, save_stats=False)
        provider = NerfstudioDataProvider(data, eval_interval=EVAL_INTERVAL)
        trainer = SplatTrainer(config, provider, modules=[evaluator])
        began = time.process_time()
        result = trainer.run()
    found = {name.removeprefix("eval/"): value for name, value in result.metrics.items() if name.startswith("eval/")}
    return {**found, "num_gaussians": len(result.training_state), "work_s": time.process_time() - began}


def parse(pairs: list[str]) -> dict[str, Any]:
    """Settings from NAME=VALUE."""
    return {name: json.loads(value) for name, _, value in (pair.partition("=") for pair in pairs)}


def compare(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Runs on the photographs as they are and on changed ones, without an image model and with each."""
    rows: list[dict[str, Any]] = []
    for kind in ("nothing", args.command):
        data = make(kind, args.scene, folder / kind, args.points)
        for model in args.models:
            found = train(data, args, {"pipeline.model.image_model.kind": model, **parse(args.set)})
            rows.append({"changed": kind, "image_model": model, **found})
            show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    print(" ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("make")
    maker.add_argument("kind", choices=CHANGES)
    maker.add_argument("scene", type=Path)
    maker.add_argument("folder", type=Path)
    runner = commands.add_parser("appearance")
    runner.add_argument("scene", type=Path)
    runner.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    runner.add_argument("--method", default="splatkit-3dgs-fast")
    runner.add_argument("--steps", type=int, default=900)
    runner.add_argument("--points", type=int, help="the number of seed points that are kept")
    runner.add_argument("--seed", type=int, default=42)
    runner.add_argument("--device", default="cpu")
    runner.add_argument("--set", nargs="*", default=[], help="further settings, such as pipeline.model.sh_degree=1")
    runner.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.command == "make":
        make(args.kind, args.scene, args.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(args, Path(folder))
    if args.out is not None:
        settings = {key: str(value) for key, value in vars(args).items() if key not in ("out", "scene")}
        args.out.write_text(json.dumps({"scene": args.scene.name, "settings": settings, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
