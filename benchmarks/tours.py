"""Compare views between the photographs of two trainings of a scene, one of which has the held-out photographs, too.

    python benchmarks/tours.py SCENE [--run splatkit-3dgs] [--frames 24] [--out results.json] [--keep FOLDER]

Where photographs say what is there, both trainings show the same; floaters and what no photograph saw differ. Each row
is a series of cameras (those of the held-out photographs, ``tour``, and a full circle) with PSNR of the one training
against the other, the mean and the worst frame: as trained, after ``splatkit clean`` of the first, and with what is
right before the camera faded in both, as ``splatkit render`` does on a tour. With --keep, sheets of some frames stay in
that folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from clean_and_prune import command, measured, train
from train_gpu import machine

ALL = "pipeline.datamanager.dataparser.eval_mode=all"
SHOWN = 8
"""Frames on a sheet."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=lambda path: Path(path).resolve())
    parser.add_argument("--run", default="splatkit-3dgs", help="METHOD[:STEPS[:overrides]], as of train_gpu.py")
    parser.add_argument("--frames", type=int, default=24, help="frames of a series")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--keep", type=Path, help="folder for sheets")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = train(args.scene, args.run, folder / "first")
        run, missing = args.run, 2 - args.run.count(":")
        other = train(args.scene, f"{run}{':' * missing or ','}{ALL},machine.seed=1", folder / "other")
        for name, of in (("first", config), ("other", other)):
            command("export", "--load-config", of, "--output", folder / f"{name}.ply", "--measure", "0")
        cleaned = measured("clean", config, "clean", "--output", folder / "clean.ply")
        kind, covered, near, series = cameras(config, args.frames)
        report = {"scene": args.scene.name, "run": args.run, "machine": machine(), "kind": kind, "covered": covered,
                  "near": near, "clean": cleaned, "series": compare(folder, series, near, args.keep)}  # fmt: skip
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


def cameras(config: Path, num: int) -> tuple[str, float, float, dict[str, list[Any]]]:
    """The kind of the photographs' places, the angle in degrees that they cover, the depth below which Gaussians fade,
    and each series of cameras."""
    from splatkit_ns.cli._data_cameras import data_cameras
    from splatkit_ns.near_fade import NEARER, nearest_seen
    from splatkit_ns.plugin.loading import load_run
    from splatkit_ns.tours import Survey

    pipeline = load_run(config).pipeline
    photographs = data_cameras(pipeline, "train")[0]
    survey = Survey(photographs)
    model = pipeline.model
    near = NEARER * nearest_seen(model.renderer, model.training_state, photographs)
    held_out = [view.smaller(max(1, max(view.width, view.height) // 800)) for view in data_cameras(pipeline, "test")[0]]
    series = {"held out": held_out, "tour": survey.cameras(num), "circle": survey.cameras(num, turns=1.0)}
    return survey.kind, survey.covered, near, series


def compare(folder: Path, series: dict[str, list[Any]], near: float, keep: Path | None) -> list[dict[str, Any]]:
    """Print and return PSNR of each series."""
    from splatkit_ns import SplatModel, render
    from splatkit_ns.image_files import save_image
    from splatkit_ns.image_metrics.psnr import psnr
    from splatkit_ns.near_fade import faded

    def without_near(model: Any, views: list[Any]) -> list[Tensor]:
        state = model.for_rendering("cuda" if torch.cuda.is_available() else "cpu")
        return [render(faded(state, view.to(state.device), near), view) for view in views]

    models = {name: SplatModel.load(folder / f"{name}.ply") for name in ("first", "clean", "other")}
    rows: list[dict[str, Any]] = []
    for name, views in series.items():
        images = {of: render(model, views) for of, model in models.items()}
        images |= {f"{of}, faded": without_near(models[of], views) for of in ("first", "other")}
        pairs = {
            "as trained": ("first", "other"),
            "cleaned": ("clean", "other"),
            "faded": ("first, faded", "other, faded"),
        }
        for of, (one, other) in pairs.items():
            found = [float(psnr(*two, None)) for two in zip(images[one], images[other], strict=True)]
            mean = sum(found) / len(found)
            rows.append({"series": name, "model": of, "mean": mean, "worst": min(found), "all": found})
            print(f"{name:<10} {of:<10} {mean:6.2f} dB, worst {min(found):6.2f} dB", flush=True)
        if keep is not None and name != "held out":
            keep.mkdir(parents=True, exist_ok=True)
            save_image(sheet([images[of] for of in ("first", "clean", "first, faded", "other")]), keep / f"{name}.jpg")
    return rows


def sheet(rows: list[list[Tensor]]) -> Tensor:
    """Some frames of each row beside each other, at half the size."""

    def half(image: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(image.permute(2, 0, 1)[None], 2)[0].permute(1, 2, 0)

    return torch.cat([torch.cat([half(image) for image in row[:: -(-len(row) // SHOWN)]], dim=1) for row in rows])


if __name__ == "__main__":
    main()
